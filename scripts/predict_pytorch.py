"""Rank prompts for one image with a distilled model.

    python3 predict_pytorch.py resnet18 data/models/resnet18/checkpoint.pth \
        data/text_embeddings.npy cat.jpg --text_prompts data/text_prompts.txt

The older command over `clipdistill.predict`; `clipdistill predict --help` offers more.
"""

import argparse
import sys
from pathlib import Path

import clipdistill
from clipdistill.cli import run_script

EVERY_LABEL = 1_000_000


def predict(args: argparse.Namespace) -> object:
    """Predict, once the flags are known to be true of the checkpoint."""
    from clipdistill.models.student import check_flags

    check_flags(
        args.checkpoint_path,
        use_asp=args.use_asp,
        use_qat=args.use_qat,
        arch=args.model_name,
        image_size=args.image_size,
    )
    return clipdistill.predict(
        str(args.checkpoint_path),
        args.image_path,
        text=args.text_embeddings_path,
        prompts=args.text_prompts,
        top_k=EVERY_LABEL,
        device=args.device,
        arch=args.model_name,
        image_size=args.image_size,
    )


def main() -> int:
    """Run the command; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model_name")
    parser.add_argument("checkpoint_path", type=Path)
    parser.add_argument("text_embeddings_path", type=Path)
    parser.add_argument("image_path")
    parser.add_argument("--image_size", type=int, default=224)
    parser.add_argument("--output_dim", type=int, help="read from the checkpoint")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--text_prompts", type=Path)
    parser.add_argument("--use_asp", action="store_true", help="the model is 2:4 sparse")
    parser.add_argument("--use_qat", action="store_true", help="the model is INT8")
    args = parser.parse_args()
    return run_script(lambda: predict(args))


if __name__ == "__main__":
    sys.exit(main())
