"""Write the teacher's embedding of every image in a folder, one .npy an image.

    python3 compute_openclip_embeddings.py data/images data/embeddings

The older command over `clipdistill.embed`; `clipdistill embed --help` offers more.
"""

import argparse
import sys
from pathlib import Path

import clipdistill
from clipdistill.cli import run_script


def main() -> int:
    """Run the command; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("input_folder", type=Path)
    parser.add_argument("output_folder", type=Path)
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--num_workers", type=int, help="default: one a processor")
    parser.add_argument("--model_name", default="ViT-B-32")
    parser.add_argument("--pretrained", default="laion2b_s34b_b79k")
    parser.add_argument("--device", default="auto")
    args = parser.parse_args()
    return run_script(
        lambda: clipdistill.embed(
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
    )


if __name__ == "__main__":
    sys.exit(main())
