"""Write the teacher's embeddings of a file of prompts, one a line, as one .npy.

    python3 compute_openclip_text_embeddings.py data/text_prompts.txt data/text_embeddings.npy

The older command over `clipdistill.embed_text`; `clipdistill embed-text --help` offers more.
"""

import argparse
import sys
from pathlib import Path

import clipdistill
from clipdistill.cli import run_script


def main() -> int:
    """Run the command; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("text_prompts_file", type=Path)
    parser.add_argument("output_path", type=Path)
    parser.add_argument("--model_name", default="ViT-B-32")
    parser.add_argument("--pretrained", default="laion2b_s34b_b79k")
    parser.add_argument("--device", default="auto")
    args = parser.parse_args()
    return run_script(
        lambda: clipdistill.embed_text(
            args.text_prompts_file,
            args.output_path,
            model_name=args.model_name,
            pretrained=args.pretrained,
            device=args.device,
            precision="fp32",
        )
    )


if __name__ == "__main__":
    sys.exit(main())
