"""Write a distilled model as an ONNX file.

    python3 export_onnx.py resnet18 data/models/resnet18/checkpoint.pth data/models/resnet18.onnx

The older command over `clipdistill.export`; `clipdistill export --help` offers more.
"""

import argparse
import sys
from pathlib import Path

import clipdistill
from clipdistill.cli import run_script


def main() -> int:
    """Run the command; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model_name")
    parser.add_argument("checkpoint_path", type=Path)
    parser.add_argument("output_path", type=Path)
    parser.add_argument("--image_size", type=int, default=224)
    parser.add_argument("--output_dim", type=int, help="read from the checkpoint")
    parser.add_argument("--device", default="auto")
    args = parser.parse_args()
    return run_script(
        lambda: clipdistill.export(
            str(args.checkpoint_path),
            args.output_path,
            arch=args.model_name,
            image_size=args.image_size,
            device=args.device,
        )
    )


if __name__ == "__main__":
    sys.exit(main())
