r"""Write a distilled model as an ONNX file.

    python3 export_onnx.py resnet18 data/models/resnet18/checkpoint.pth data/models/resnet18.onnx
    python3 export_onnx.py resnet18 data/models/resnet18_qat/checkpoint.pth \
        data/onnx/resnet18_qat.onnx --use_qat

`clipdistill export --help` offers more.
"""

import argparse
import sys
from pathlib import Path

from _older import CHECKED, DEVICE, STUDENT, argument, check_student, run

ARGUMENTS = (
    *STUDENT,
    argument("output_path", type=Path, help="the .onnx file"),
    *CHECKED,
    DEVICE,
    argument(
        "--target",
        choices=("onnxruntime", "tensorrt"),
        help="the runtime that it is written for (default: tensorrt with --use_asp or --use_qat, "
        "else onnxruntime)",
    ),
)


def export(args: argparse.Namespace) -> object:
    """Export, if the arguments are true of the checkpoint."""
    from clipdistill.deploy.export import export

    check_student(args)
    compressed = args.use_asp or args.use_qat
    return export(
        str(args.checkpoint_path),
        args.output_path,
        target=args.target or ("tensorrt" if compressed else "onnxruntime"),
        arch=args.model_name,
        image_size=args.image_size,
        device=args.device,
    )


def main() -> int:
    """Run the command; returns the exit code."""
    return run(__doc__, ARGUMENTS, export)


if __name__ == "__main__":
    sys.exit(main())
