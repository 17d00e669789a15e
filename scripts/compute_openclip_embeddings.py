"""Write the teacher's embedding of every image in a folder, one .npy per image.

    python3 compute_openclip_embeddings.py data/images data/embeddings

`clipdistill embed --help` offers more.
"""

import argparse
import sys
from pathlib import Path

from _older import BATCH_SIZE, DECODERS, DEVICE, TEACHER, argument, run

ARGUMENTS = (
    argument("input_folder", type=Path, help="folder of images, searched recursively"),
    argument("output_folder", type=Path, help="folder for the .npy files; those in it are kept"),
    BATCH_SIZE,
    DECODERS,
    *TEACHER,
    DEVICE,
)


def embed(args: argparse.Namespace) -> object:
    """Embed as the older script did: in float32, not normalised."""
    from clipdistill.distillation.embed import embed

    return embed(
        args.input_folder,
        args.output_folder,
        model_name=args.model_name,
        pretrained=args.pretrained,
        batch_size=args.batch_size,
        num_workers=args.num_workers,
        device=args.device,
        precision="fp32",
        layout="npy",
        normalize=False,
    )


def main() -> int:
    """Run the command; returns the exit code."""
    return run(__doc__, ARGUMENTS, embed)


if __name__ == "__main__":
    sys.exit(main())
