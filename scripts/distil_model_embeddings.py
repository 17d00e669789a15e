r"""Train a timm model to give the embeddings of a folder of .npy files, with the older recipe.

    python3 distil_model_embeddings.py resnet18 data/images data/embeddings data/models/resnet18 \
        --output_dim 512 --pretrained

The loss, the optimiser and the view are those of the older script: no schedule, no mirroring, no
clipping, nothing held out.  It writes `checkpoint.pth`, `args.json` and `log/`.  The same command
resumes a training that was stopped.  `clipdistill distill` has better defaults.
"""

import argparse
import sys
from pathlib import Path

from _older import BATCH_SIZE, DECODERS, DEVICE, argument, flag, run

IMAGE_SIZE = 224
ARGUMENTS = (
    argument("model_name", help="timm's name of the student, such as resnet18"),
    argument("images_folder", type=Path, help="folder of images, the one that was embedded"),
    argument("embeddings_folder", type=Path, help="folder of their embeddings, one .npy per image"),
    argument("output_dir", type=Path, help="folder for the student"),
    argument(
        "--image_size",
        type=int,
        help="side of the student's input in pixels (default: the one that --init_checkpoint "
        f"records, else {IMAGE_SIZE})",
    ),
    argument(
        "--output_dim",
        type=int,
        help="length of the embeddings; must be theirs (default: found there)",
    ),
    BATCH_SIZE,
    DEVICE,
    DECODERS,
    argument("--num_epochs", type=int, default=50, help="passes over the images"),
    flag("--pretrained", "start from timm's ImageNet weights, fetched from the model hub"),
    argument("--lr", type=float, default=3e-4, help="learning rate"),
    argument("--momentum", type=float, default=0.0, help="of sgd; adam has none"),
    argument("--weight_decay", type=float, default=0.0, help="L2 penalty of the weights"),
    argument("--optimizer", default="adam", choices=("adam", "sgd"), help="the optimiser"),
    argument(
        "--criterion",
        default="mse",
        choices=("mse", "l1", "huber"),
        help="the loss between the student's and the teacher's embeddings",
    ),
    argument(
        "--init_checkpoint",
        type=Path,
        help="checkpoint to start from: its weights replace those of --pretrained",
    ),
    flag("--use_asp", "make the student 2:4 sparse; needs --init_checkpoint"),
    flag("--use_qat", "make the student INT8; needs --init_checkpoint"),
)


WORDS = {"(--no-pretrained)": "(leave --pretrained away)"}


def distil(args: argparse.Namespace) -> object:
    """Distil with the older recipe, and write down how."""
    from clipdistill.core.errors import OptionError
    from clipdistill.core.files import ensure_folder, write_json
    from clipdistill.distillation.distill import distill
    from clipdistill.distillation.fine_tuning import start_card
    from clipdistill.distillation.options import DistillOptions

    if args.momentum and args.optimizer != "sgd":
        raise OptionError(
            f"--momentum {args.momentum:g} is for --optimizer sgd, and it is {args.optimizer}. "
            "Leave --momentum away, or add --optimizer sgd."
        )
    parent = None if args.init_checkpoint is None else start_card(args.init_checkpoint)
    if args.image_size is None and parent is None:
        args.image_size = IMAGE_SIZE
    options = DistillOptions(
        output_dim=args.output_dim,
        pretrained=args.pretrained,
        init_checkpoint=args.init_checkpoint,
        sparse=args.use_asp,
        qat=args.use_qat,
        image_size=args.image_size,
        criterion=args.criterion,
        optimizer=args.optimizer,
        lr=args.lr,
        weight_decay=args.weight_decay,
        momentum=args.momentum,
        schedule="constant",
        warmup=0.0,
        ema_decay=0.0,
        grad_clip=0.0,
        flip=False,
        crop=1.0,
        batch_size=args.batch_size,
        num_epochs=args.num_epochs,
        val_fraction=0.0,
        num_workers=args.num_workers,
        device=args.device,
        precision="fp32",
    )
    result = distill(
        args.model_name, args.images_folder, args.embeddings_folder, args.output_dir, options
    )
    args.image_size = result.image_size
    values = {name: str(v) if isinstance(v, Path) else v for name, v in vars(args).items()}
    write_json(ensure_folder(args.output_dir) / "args.json", values)
    return result


def main() -> int:
    """Run the command; returns the exit code."""
    return run(__doc__, ARGUMENTS, distil, WORDS)


if __name__ == "__main__":
    sys.exit(main())
