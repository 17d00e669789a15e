"""Train a timm model to give the embeddings of a folder of .npy files, with the older recipe.

    python3 distil_model_embeddings.py resnet18 data/images data/embeddings data/models/resnet18 \
        --output_dim 512 --pretrained

The older command over `clipdistill.distill`: the same loss, optimiser and views as before, and
`checkpoint.pth`, `args.json` and `log/` in the output folder.  With --init_checkpoint, --use_asp
makes the student 2:4 sparse, --use_qat INT8.  `clipdistill distill` has better defaults.
"""

import argparse
import sys
from pathlib import Path

import clipdistill
from clipdistill.cli import run_script
from clipdistill.core.files import ensure_folder, write_json


def parse() -> argparse.Namespace:
    """The older options."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model_name")
    parser.add_argument("images_folder", type=Path)
    parser.add_argument("embeddings_folder", type=Path)
    parser.add_argument("output_dir", type=Path)
    parser.add_argument("--image_size", type=int, default=224)
    parser.add_argument("--output_dim", type=int, help="found by itself; checked when given")
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--num_workers", type=int, help="default: one a processor")
    parser.add_argument("--num_epochs", type=int, default=50)
    parser.add_argument("--pretrained", action="store_true")
    parser.add_argument("--lr", type=float, default=3e-4)
    parser.add_argument("--momentum", type=float, default=0.0)
    parser.add_argument("--weight_decay", type=float, default=0.0)
    parser.add_argument("--optimizer", default="adam", choices=("adam", "sgd"))
    parser.add_argument("--criterion", default="mse", choices=("mse", "l1", "huber"))
    parser.add_argument("--init_checkpoint", type=Path)
    parser.add_argument("--use_asp", action="store_true", help="2:4 sparsity; --init_checkpoint")
    parser.add_argument("--use_qat", action="store_true", help="INT8; needs --init_checkpoint")
    return parser.parse_args()


def distil(args: argparse.Namespace) -> object:
    """Distil with the older recipe: no schedule, no mirroring, no clipping, nothing held out."""
    options = dict(
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
        batch_size=args.batch_size,
        num_epochs=args.num_epochs,
        val_fraction=0.0,
        num_workers=args.num_workers,
        device=args.device,
        precision="fp32",
    )
    result = clipdistill.distill(
        args.model_name, args.images_folder, args.embeddings_folder, args.output_dir, **options
    )
    told = {name: str(v) if isinstance(v, Path) else v for name, v in vars(args).items()}
    write_json(ensure_folder(args.output_dir) / "args.json", told)
    return result


def main() -> int:
    """Run the command; returns the exit code."""
    args = parse()
    return run_script(lambda: distil(args))


if __name__ == "__main__":
    sys.exit(main())
