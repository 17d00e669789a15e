r"""Classify what a camera sees with a distilled model, live.

    python3 demo_pytorch.py resnet18 data/models/resnet18/checkpoint.pth \
        data/text_embeddings.npy --text_prompts data/text_prompts.txt --camera_device 0

It opens a window where there is a display.  `clipdistill demo --help` offers more.
"""

import argparse
import sys

from _older import CHECKED, DEVICE, STUDENT, TEXT, TEXT_PROMPTS, argument, check_student, run

ARGUMENTS = (
    *STUDENT,
    TEXT,
    argument("--camera_device", type=int, help="number of the camera (default: 0)"),
    argument("--video", help="a video file or URL instead of the camera"),
    TEXT_PROMPTS,
    *CHECKED,
    DEVICE,
)


def demo(args: argparse.Namespace) -> object:
    """Run the demo, if the arguments are true of the checkpoint."""
    from clipdistill.core.errors import OptionError
    from clipdistill.show.demo import DemoOptions, demo
    from clipdistill.show.live.window import has_display

    if args.video is not None and args.camera_device is not None:
        raise OptionError("--camera_device and --video exclude each other. Leave one away.")
    check_student(args)
    options = DemoOptions(
        camera=(args.camera_device or 0) if args.video is None else None,
        video=args.video,
        window=has_display(),
        text=args.text_embeddings_path,
        prompts=args.text_prompts,
        device=args.device,
        arch=args.model_name,
        image_size=args.image_size,
    )
    return demo(str(args.checkpoint_path), options=options)


def main() -> int:
    """Run the command; returns the exit code."""
    return run(__doc__, ARGUMENTS, demo)


if __name__ == "__main__":
    sys.exit(main())
