"""Write the teacher's embeddings of a file of prompts as one .npy, one row per prompt.

    python3 compute_openclip_text_embeddings.py data/text_prompts.txt data/text_embeddings.npy

`clipdistill embed-text --help` offers more.
"""

import argparse
import sys
from pathlib import Path

from _older import DEVICE, TEACHER, argument, run

ARGUMENTS = (
    argument("text_prompts_file", type=Path, help="file of prompts, one per line"),
    argument("output_path", type=Path, help="the .npy; a .json beside it describes it"),
    *TEACHER,
    DEVICE,
)


def embed_text(args: argparse.Namespace) -> object:
    """Embed the prompts in float32."""
    from clipdistill.distillation.embed_text import embed_text

    return embed_text(
        args.text_prompts_file,
        args.output_path,
        model_name=args.model_name,
        pretrained=args.pretrained,
        device=args.device,
        precision="fp32",
    )


def main() -> int:
    """Run the command; returns the exit code."""
    return run(__doc__, ARGUMENTS, embed_text)


if __name__ == "__main__":
    sys.exit(main())
