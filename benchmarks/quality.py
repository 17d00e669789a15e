"""Quality of the default recipe against the older scripts', side by side in one run.

Both students see the same images for the same number of epochs, through the same program
(`clipdistill.distill`); only the recipe differs.  Labels are used for measuring alone.

    python benchmarks/quality.py --images PHOTOS --labelled LABELLED --teacher local-dir:TEACHER
"""

from __future__ import annotations

import argparse
from pathlib import Path

from reporting import write_report

from clipdistill import distill, embed, embed_text, evaluate
from clipdistill.core.console import ConsoleReporter
from clipdistill.core.progress import reporting


def main() -> None:
    """Embed, distil both, evaluate, report."""
    arguments = parse()
    out, teacher = arguments.out, arguments.teacher
    labels = sorted(path.name for path in arguments.labelled.iterdir() if path.is_dir())
    out.mkdir(parents=True, exist_ok=True)
    (out / "prompts.txt").write_text("".join(f"{label}\n" for label in labels))
    # Raw vectors: what the older scripts stored; the cosine loss does not care.
    embed(arguments.images, out / "emb", model_name=teacher, normalize=False, dtype="float32")
    embed_text(out / "prompts.txt", out / "text", model_name=teacher)
    common = {
        "image_size": arguments.image_size,
        "num_epochs": arguments.epochs,
        "seed": arguments.seed,
        "prompts": out / "text.npy",
    }
    recipes = {
        "older scripts (MSE on raw embeddings, Adam 3e-4, centre view)": dict(
            criterion="mse",
            optimizer="adam",
            lr=3e-4,
            weight_decay=0.0,
            schedule="constant",
            warmup=0.0,
            grad_clip=0.0,
            flip=False,
            crop=1.0,
            ema_decay=0.0,
            **common,
        ),
        "clipdistill defaults": common,
    }
    rows = []
    students = []
    for number, (name, options) in enumerate(recipes.items()):
        folder = out / f"{arguments.arch}-{arguments.image_size}-{arguments.epochs}-{number}"
        result = distill(arguments.arch, arguments.images, out / "emb", folder, **options)
        students.append((name, folder, result))
    measured = evaluate(
        teacher,
        *[str(folder) for _, folder, _ in students],
        labelled=arguments.labelled,
        text=out / "text.npy",
    )
    names = ["teacher", *[name for name, _, _ in students]]
    for name, row in zip(names, measured.rows, strict=True):
        rows.append(
            [
                name,
                f"{100 * row.accuracy:.1f}%",
                f"{100 * row.top5:.1f}%",
                f"{100 * row.agreement:.1f}%",
                f"{row.cosine:.3f}",
            ]
        )
    write_report(
        "quality",
        f"{arguments.arch} from scratch at {arguments.image_size} px, {arguments.epochs} epochs",
        [
            f"{students[0][2].train_images} unlabelled images to learn from, "
            f"{measured.rows[0].images} labelled ones ({len(labels)} classes) to measure with."
        ],
        ["recipe", "zero-shot top-1", "top-5", "agreement with the teacher", "mean cosine"],
        rows,
    )


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--labelled", type=Path, required=True)
    parser.add_argument("--teacher", required=True)
    parser.add_argument("--arch", default="resnet18")
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/quality"))
    return parser.parse_args()


if __name__ == "__main__":
    with reporting(ConsoleReporter()):
        main()
