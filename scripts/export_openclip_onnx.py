"""Write the image tower of an OpenCLIP model as an ONNX file.

    python3 export_openclip_onnx.py data/models/vit_b_32.onnx

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
    parser.add_argument("output_path", type=Path)
    parser.add_argument("--image_size", type=int, help="taken from the model")
    parser.add_argument("--model_name", default="ViT-B-32")
    parser.add_argument("--pretrained", default="laion2b_s34b_b79k")
    parser.add_argument("--device", default="auto")
    args = parser.parse_args()
    # hf-hub:... and local-dir:... name their weights themselves.
    whole = ":" in args.model_name
    teacher = args.model_name if whole else f"{args.model_name}/{args.pretrained}"
    return run_script(
        lambda: clipdistill.export(teacher, args.output_path, teacher=True, device=args.device)
    )


if __name__ == "__main__":
    sys.exit(main())
