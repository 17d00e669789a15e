"""Write the image tower of an OpenCLIP model as an ONNX file.

    python3 export_openclip_onnx.py data/models/vit_b_32.onnx

`clipdistill export --help` offers more.
"""

import argparse
import sys
from pathlib import Path

from _older import DEVICE, TEACHER, argument, run

ARGUMENTS = (
    argument("output_path", type=Path, help="the .onnx file"),
    argument(
        "--image_size",
        type=int,
        help="side of the input in pixels; must be the model's (default: found there)",
    ),
    *TEACHER,
    DEVICE,
)


def export(args: argparse.Namespace) -> object:
    """Export the image tower."""
    from clipdistill.deploy.export import export

    # hf-hub:... and local-dir:... name their weights themselves.
    whole = ":" in args.model_name
    teacher = args.model_name if whole else f"{args.model_name}/{args.pretrained}"
    return export(
        teacher, args.output_path, teacher=True, image_size=args.image_size, device=args.device
    )


def main() -> int:
    """Run the command; returns the exit code."""
    return run(__doc__, ARGUMENTS, export)


if __name__ == "__main__":
    sys.exit(main())
