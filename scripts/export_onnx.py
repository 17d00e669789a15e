"""Write a distilled model as an ONNX file.

    python3 export_onnx.py resnet18 data/models/resnet18/checkpoint.pth data/models/resnet18.onnx
    python3 export_onnx.py resnet18 data/models/resnet18_qat/checkpoint.pth \
        data/onnx/resnet18_qat.onnx --use_qat

The older command over `clipdistill.export`.  --use_asp and --use_qat say that the checkpoint is 2:4
sparse or INT8, which must be true; the file is then the one for TensorRT, as it was, unless
--target onnxruntime is given.  `clipdistill export --help` offers more.
"""

import argparse
import sys
from pathlib import Path

import clipdistill
from clipdistill.cli import run_script


def export(args: argparse.Namespace) -> object:
    """Export, once the flags are known to be true of the checkpoint."""
    from clipdistill.models.student import check_flags

    check_flags(
        args.checkpoint_path,
        use_asp=args.use_asp,
        use_qat=args.use_qat,
        arch=args.model_name,
        image_size=args.image_size,
    )
    compressed = args.use_asp or args.use_qat
    return clipdistill.export(
        str(args.checkpoint_path),
        args.output_path,
        target=args.target or ("tensorrt" if compressed else "onnxruntime"),
        arch=args.model_name,
        image_size=args.image_size,
        device=args.device,
    )


def main() -> int:
    """Run the command; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model_name")
    parser.add_argument("checkpoint_path", type=Path)
    parser.add_argument("output_path", type=Path)
    parser.add_argument("--image_size", type=int, default=224)
    parser.add_argument("--output_dim", type=int, help="read from the checkpoint")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--use_asp", action="store_true", help="the model is 2:4 sparse")
    parser.add_argument("--use_qat", action="store_true", help="the model is INT8")
    parser.add_argument("--target", choices=("onnxruntime", "tensorrt"))
    args = parser.parse_args()
    return run_script(lambda: export(args))


if __name__ == "__main__":
    sys.exit(main())
