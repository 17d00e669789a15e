"""Named recipes side by side, at the processor time of the older one, through the product.

    python benchmarks/recipes.py --teacher local-dir:TEACHER --images photos/unlabelled \
        --labelled photos/labelled --names photos/web --student-weights lite0.safetensors

Every recipe trains for as many epochs as fit into the time that the older recipe needs for its ten.
The time is taken first, from two short trainings with every recipe, the pixels decoded before: keep
the machine quiet for these minutes; what else runs later does not matter.  Labelled photos measure
and choose nothing: the recipes are ranked by how often student and teacher choose the same label,
by class vectors learnt from the pool, on held-out photos without labels.  "1,000 names": the same
agreement over the names of --names on the labelled photos, which shows what a recipe does to
classes it never saw.
Results are kept in OUT/results.json; run again, what is there is not measured again.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from reporting import write_report

import clipdistill
from clipdistill.core.zeroshot import normalized
from clipdistill.distillation.batches import split_rows
from clipdistill.formats.embeddings import load_embeddings
from clipdistill.formats.text import TextEmbeddings, load_text
from clipdistill.measure.task import Task, embed, true_labels
from clipdistill.models.open import open_embedder

OLDER = "older scripts"
OLDER_EPOCHS = 10
VAL_FRACTION = 0.05


@dataclass(frozen=True)
class Recipe:
    """What is trained, and how.

    Attributes:
        arch: timm's name.
        pretrained: start from --student-weights.
        options: of `distill`.
        views: whether the embeddings with views are used.
        raw: whether embeddings are as the tower gives them, not of unit length.
    """

    arch: str
    pretrained: bool = False
    options: dict[str, Any] = field(default_factory=dict)
    views: bool = False
    raw: bool = False


AMX = {"precision": "bf16", "batch_size": 128}
"""The fast precision and batch size of a CPU with AMX; the rest are the defaults: from random
weights muon and crops."""
ADAMW = {"optimizer": "adamw", "lr": 2e-3}
LITE = "tf_efficientnet_lite0"
RECIPES = {
    OLDER: Recipe(
        "resnet18",
        options={
            "image_size": 64,
            "criterion": "mse",
            "optimizer": "adam",
            "lr": 3e-4,
            "weight_decay": 0.0,
            "schedule": "constant",
            "warmup": 0.0,
            "grad_clip": 0.0,
            "flip": False,
            "crop": 1.0,
        },
        raw=True,  # as the older scripts stored them; the mean squared error depends on it
    ),
    "resnet18, muon, crops, 96 px": Recipe("resnet18", options={**AMX, "image_size": 96}),
    "resnet18, muon, crops, 64 px": Recipe("resnet18", options={**AMX, "image_size": 64}),
    "resnet18, muon, 64 px": Recipe("resnet18", options={**AMX, "image_size": 64, "crop": 1.0}),
    "resnet18, adamw, crops, 64 px": Recipe(
        "resnet18", options={**AMX, **ADAMW, "image_size": 64, "batch_size": 64}
    ),
    "resnet18, bf16, batch 32": Recipe(
        "resnet18", options={**AMX, **ADAMW, "image_size": 64, "batch_size": 32, "crop": 1.0}
    ),
    "resnet18, muon, crops, 96 px, relational": Recipe(
        "resnet18", options={**AMX, "image_size": 96, "criterion": "relational"}
    ),
    "resnet18, muon, crops, 96 px, anchors": Recipe(
        "resnet18", options={**AMX, "image_size": 96, "criterion": "anchors"}
    ),
    "resnet18, muon, crops, 96 px, EMA .99": Recipe(
        "resnet18", options={**AMX, "image_size": 96, "ema_decay": 0.99}
    ),
    "resnet18, muon, views, 64 px": Recipe(
        "resnet18", options={**AMX, "image_size": 64}, views=True
    ),
    "lite0 pretrained, 64 px": Recipe(LITE, True, {"image_size": 64}),
    "lite0 pretrained, 96 px": Recipe(LITE, True, {"image_size": 96}),
    "lite0 pretrained, 128 px": Recipe(LITE, True, {"image_size": 128}),
    "lite0 pretrained, 160 px": Recipe(LITE, True, {"image_size": 160}),
    "lite0 pretrained, 192 px": Recipe(LITE, True, {"image_size": 192}),
    "lite0 pretrained, 96 px, lr 5e-4": Recipe(LITE, True, {"image_size": 96, "lr": 5e-4}),
    "lite0 pretrained, 96 px, projection not fitted": Recipe(
        LITE, True, {"image_size": 96, "fit_projection": False}
    ),
    "lite0 pretrained, 96 px, crops": Recipe(LITE, True, {"image_size": 96, "crop": 0.4}),
    "lite0 pretrained, 96 px, muon": Recipe(LITE, True, {"image_size": 96, "optimizer": "muon"}),
    "lite0 pretrained, 96 px, relational": Recipe(
        LITE, True, {"image_size": 96, "criterion": "relational"}
    ),
    "lite0 pretrained, 96 px, anchors": Recipe(
        LITE, True, {"image_size": 96, "criterion": "anchors"}
    ),
    "lite0 pretrained, 96 px, EMA .99": Recipe(LITE, True, {"image_size": 96, "ema_decay": 0.99}),
}


@dataclass(frozen=True)
class World:
    """What all recipes share.

    Attributes:
        labelled: the photos that measure, with their true classes.
        text: class vectors by name: "text" and "refined".
        names: embeddings of the 1,000 names.
        teacher: the teacher's embeddings of the labelled photos.
        held_out: the teacher's embeddings of the held-out photos.
    """

    labelled: Task
    text: dict[str, TextEmbeddings]
    names: TextEmbeddings
    teacher: np.ndarray
    held_out: np.ndarray


def main() -> None:
    """Embed, train every recipe with every seed, measure, report."""
    asked = parse()
    out = asked.out
    out.mkdir(parents=True, exist_ok=True)
    world = prepare(asked)
    names = list(dict.fromkeys([OLDER, *(asked.recipes or RECIPES)]))
    seconds = probed(names, asked)
    budget = seconds[OLDER]["first"] + OLDER_EPOCHS * seconds[OLDER]["epoch"]
    kept = out / "results.json"
    done = json.loads(kept.read_text()) if kept.is_file() else {}
    for name in asked.recipes or names:
        first, epoch = seconds[name]["first"], seconds[name]["epoch"]
        epochs = max(1, round((budget - first) / epoch))
        for seed in asked.seeds:
            key = f"{name} | {seed}"
            if key not in done:
                row = measured(name, seed, epochs, world, asked)
                done[key] = {**row, "epochs": epochs, "seconds": first + epochs * epoch}
                kept.write_text(json.dumps(done, indent=1))
                print(key, done[key], flush=True)
    report(done, world)


def probed(names: list[str], asked: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Seconds before the first epoch of every recipe, the pixels decoded, and of an epoch."""
    kept = asked.out / "epochs.json"
    seconds = json.loads(kept.read_text()) if kept.is_file() else {}
    for name in names:
        if name not in seconds:
            train(name, 0, 1, asked, "probe")  # decodes the pixels
            one, two = (train(name, 0, epochs, asked, "probe") for epochs in (1, 2))
            seconds[name] = {"first": max(0.0, 2 * one - two), "epoch": two - one}
            kept.write_text(json.dumps(seconds, indent=1))
            print(f"{name}: {two - one:.1f} s per epoch", flush=True)
    return dict(seconds)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--teacher", required=True)
    for name in ("images", "labelled", "names", "student-weights"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/recipes"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, help="default: all")
    parser.add_argument("--views", type=int, default=3, help="of the recipes with views")
    return parser.parse_args()


def prepare(asked: argparse.Namespace) -> World:
    """Embed the pool, the classes and the names; learn class vectors from the pool."""
    out, teacher = asked.out, asked.teacher
    kinds = sorted(path.name for path in asked.labelled.iterdir() if path.is_dir())
    names = sorted({words(path.stem) for path in asked.names.iterdir()})
    (out / "kinds.txt").write_text("".join(f"{kind}\t{words(kind)}\n" for kind in kinds))
    (out / "names.txt").write_text("".join(f"{name}\n" for name in names))
    clipdistill.embed(asked.images, out / "emb", model_name=teacher)
    clipdistill.embed_text(out / "kinds.txt", out / "text.npy", model_name=teacher)
    clipdistill.embed_text(out / "names.txt", out / "names.npy", model_name=teacher)
    clipdistill.adapt(out / "text.npy", out / "emb", out / "refined.npy")
    text = {name: load_text(out / f"{name}.npy") for name in ("text", "refined")}
    found = true_labels(asked.labelled, None, text["text"].labels)
    task = Task(found.items, found.truth, text["text"], 64, 2)
    pool = load_embeddings(out / "emb")
    _, val = split_rows([row.image_path for row in pool.rows], VAL_FRACTION, 0)
    vectors = embed(open_embedder(teacher, device="cpu"), task).vectors
    held_out = normalized(pool.vectors[val])
    return World(task, text, load_text(out / "names.npy"), normalized(vectors), held_out)


def words(name: str) -> str:
    """A class name as words: "n01440764_tench" and "tench" are "tench"."""
    first, _, rest = name.partition("_")
    return (rest if first[:1] == "n" and first[1:].isdigit() else name).replace("_", " ")


def embeddings(recipe: Recipe, asked: argparse.Namespace) -> Path:
    """The folder of the embeddings that a recipe learns from; written where it is missing."""
    out: Path = asked.out / ("emb-raw" if recipe.raw else "emb-views" if recipe.views else "emb")
    options: dict[str, Any] = {}
    if recipe.raw:
        options = {"normalize": False, "dtype": "float32"}
    elif recipe.views:
        options = {"views": asked.views}
    clipdistill.embed(asked.images, out, model_name=asked.teacher, **options)
    return out


def measured(
    name: str, seed: int, epochs: int, world: World, asked: argparse.Namespace
) -> dict[str, Any]:
    """Train one recipe and measure it."""
    folder = f"{name} {seed}".replace(" ", "_").replace(",", "")
    train(name, seed, epochs, asked, folder)
    student = asked.out / folder
    embedder = open_embedder(str(student), device="cpu")
    vectors = normalized(embed(embedder, world.labelled).vectors)
    own = asked.out / f"{folder}-own.npy"
    clipdistill.adapt(
        asked.out / "text.npy", asked.out / "emb", own, student=student, images=asked.images
    )
    text = {**world.text, "own means": load_text(own)}
    best = json.loads((student / "student.json").read_text())["training"]["best"]
    top = np.argmax(world.teacher @ world.names.vectors.T, axis=1)
    return {
        "cosine": best["val_cosine"],
        "agreement": best["val_agreement"],
        "names": float((np.argmax(vectors @ world.names.vectors.T, axis=1) == top).mean()),
        **{kind: accuracy(vectors, one, world) for kind, one in text.items()},
    }


def train(name: str, seed: int, epochs: int, asked: argparse.Namespace, folder: str) -> float:
    """Train; returns the seconds it took."""
    recipe = RECIPES[name]
    out = asked.out / folder
    emb = embeddings(recipe, asked)
    if folder == "probe":
        shutil.rmtree(out, ignore_errors=True)  # any other training that was stopped resumes
    start = time.perf_counter()
    clipdistill.distill(
        recipe.arch,
        asked.images,
        emb,
        out,
        num_epochs=epochs,
        seed=seed,
        device="cpu",
        val_fraction=VAL_FRACTION,
        prompts=asked.out / "refined.npy",
        student_weights=asked.student_weights if recipe.pretrained else None,
        **recipe.options,
    )
    return time.perf_counter() - start


def accuracy(vectors: np.ndarray, text: TextEmbeddings, world: World) -> float:
    """Zero-shot top-1 of unit vectors on the labelled photos."""
    return float((np.argmax(vectors @ text.vectors.T, axis=1) == world.labelled.truth).mean())


def report(done: dict[str, Any], world: World) -> None:
    """Write all recipes, the nearest to the teacher first; seeds' means and their range."""
    measures = ("agreement", "text", "refined", "own means", "names")
    rows: dict[str, list[dict[str, Any]]] = {}
    for key, row in done.items():
        rows.setdefault(key.partition(" | ")[0], []).append(row)
    ranked = sorted(rows, key=lambda n: -statistics.mean(row["agreement"] for row in rows[n]))
    of_teacher = [f"{accuracy(world.teacher, world.text[one], world):.1%}" for one in world.text]
    lines = [["the teacher", "", "", "", *of_teacher, "", ""]]
    for name in ranked:
        epochs = "/".join(dict.fromkeys(str(row["epochs"]) for row in rows[name]))
        seconds = statistics.mean(row["seconds"] for row in rows[name])
        cells = [spread([row[measure] for row in rows[name]]) for measure in measures]
        lines.append([name, epochs, f"{seconds:.0f}", *cells])
    images, seeds = len(world.labelled.items), max(map(len, rows.values()))
    chance = 100 * 2 * (0.85 * 0.15 / images) ** 0.5
    notes = [
        f"Means of {seeds} seeds (lowest to highest). Accuracies are of {images} labelled photos:",
        f"differences below {chance:.0f} points are within chance. Held-out agreement is of",
        f"{len(world.held_out)} photos without labels, by refined class vectors; it ranks.",
    ]
    columns = [
        "recipe",
        "epochs",
        "seconds",
        "held-out agreement",
        "text",
        "refined",
        "refined, own means",
        "agreement on 1,000 names",
    ]
    write_report("recipes", "Recipes at equal time", notes, columns, lines)


def spread(values: list[float]) -> str:
    """A mean and, of several, the range."""
    mean = 100 * statistics.mean(values)
    if len(values) == 1:
        return f"{mean:.1f}%"
    return f"{mean:.1f}% ({100 * min(values):.1f} to {100 * max(values):.1f})"


if __name__ == "__main__":
    main()
