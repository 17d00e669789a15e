r"""Rank prompts for one image with a distilled model.

    python3 predict_pytorch.py resnet18 data/models/resnet18/checkpoint.pth \
        data/text_embeddings.npy cat.jpg --text_prompts data/text_prompts.txt

`clipdistill predict --help` offers more.
"""

import argparse
import sys

from _older import CHECKED, DEVICE, STUDENT, TEXT, TEXT_PROMPTS, argument, check_student, run

EVERY_LABEL = 1_000_000
ARGUMENTS = (
    *STUDENT,
    TEXT,
    argument("image_path", help="the image"),
    *CHECKED,
    DEVICE,
    TEXT_PROMPTS,
)


def predict(args: argparse.Namespace) -> object:
    """Predict, if the arguments are true of the checkpoint."""
    from clipdistill.show.predict import predict

    check_student(args)
    return predict(
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
    return run(__doc__, ARGUMENTS, predict)


if __name__ == "__main__":
    sys.exit(main())
