"""Classify what a camera sees with a distilled model, live.

    python3 demo_pytorch.py resnet18 data/models/resnet18/checkpoint.pth \
        data/text_embeddings.npy --text_prompts data/text_prompts.txt --camera_device 0

Opens a window where there is a display. The older command over `clipdistill.demo`;
`clipdistill demo --help` offers more.
"""

import argparse
import sys
from pathlib import Path

import clipdistill
from clipdistill.cli import run_script
from clipdistill.show.live.window import has_display


def demo(args: argparse.Namespace) -> object:
    """Run the demo, once the flags are known to be true of the checkpoint."""
    from clipdistill.models.student import check_flags

    check_flags(
        args.checkpoint_path,
        use_asp=args.use_asp,
        use_qat=args.use_qat,
        arch=args.model_name,
        image_size=args.image_size,
    )
    options = dict(
        camera=args.camera_device if args.video is None else None,
        video=args.video,
        window=has_display(),
        text=args.text_embeddings_path,
        prompts=args.text_prompts,
        device=args.device,
        arch=args.model_name,
        image_size=args.image_size,
    )
    return clipdistill.demo(args.checkpoint_path, **options)


def main() -> int:
    """Run the command; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model_name")
    parser.add_argument("checkpoint_path", type=Path)
    parser.add_argument("text_embeddings_path", type=Path)
    parser.add_argument("--text_prompts", type=Path)
    parser.add_argument("--camera_device", type=int, default=0)
    parser.add_argument("--video", help="a video file or URL instead of the camera")
    parser.add_argument("--image_size", type=int, default=224)
    parser.add_argument("--output_dim", type=int, help="read from the checkpoint")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--use_asp", action="store_true", help="the model is 2:4 sparse")
    parser.add_argument("--use_qat", action="store_true", help="the model is INT8")
    args = parser.parse_args()
    return run_script(lambda: demo(args))


if __name__ == "__main__":
    sys.exit(main())
