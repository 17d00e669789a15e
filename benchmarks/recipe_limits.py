"""The best recipe made smaller, and with a poorer pool: INT8, 2:4, 300 photos, half of them junk.

    python benchmarks/recipe_limits.py --teacher local-dir:TEACHER --images photos/unlabelled \
        --labelled photos/labelled --names photos/web --student-weights lite0.safetensors \
        --out runs/recipes

Run benchmarks/recipes.py with the same options first: its embeddings and students in OUT are used.
"Compressed": from each seed's student.  "Pools": trained anew from `--student-weights` on
photos drawn from --images (and on all of --names as junk), with class vectors learnt from that pool
alone.  Results are kept in OUT/limits.json; run again, what is there is not measured again.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from recipes import RECIPES, World, accuracy, parse, prepare, spread
from reporting import write_report

import clipdistill
from clipdistill.core.zeroshot import normalized
from clipdistill.formats.text import TextEmbeddings, load_text
from clipdistill.measure.task import embed
from clipdistill.models.open import open_embedder

BEST = "lite0 pretrained, 160 px"
SPARSE_EPOCHS, QAT_EPOCHS = 2, 1
SMALLER = "lite0 pretrained, 96 px"
"""For the pools: three times as fast, and their differences are the same."""
FEW = 300
FEW_EPOCHS = 15
JUNK_EPOCHS = 8


def main() -> None:
    """Measure what is not measured yet, and report."""
    asked = parse()
    world = prepare(asked)
    kept = asked.out / "limits.json"
    done = json.loads(kept.read_text()) if kept.is_file() else {}
    for name, measure in CASES.items():
        for seed in asked.seeds:
            key = f"{name} | {seed}"
            if key not in done and (found := measure(world, asked, seed, done)) is not None:
                done[key] = found
                kept.write_text(json.dumps(done, indent=1))
                print(key, done[key], flush=True)
    report(done, world)


def dense(world: World, asked: argparse.Namespace, seed: int, _: Any) -> dict[str, float]:
    """The student of benchmarks/recipes.py."""
    return measured(student_of(asked, seed), world, world.text["refined"])


def int8(world: World, asked: argparse.Namespace, seed: int, _: Any) -> dict[str, float]:
    """INT8 without training."""
    out = fresh(asked, "int8", seed)
    clipdistill.quantize(student_of(asked, seed), asked.images, out, device="cpu")
    return measured(out, world, world.text["refined"])


def sparse(world: World, asked: argparse.Namespace, seed: int, _: Any) -> dict[str, float]:
    """2:4, trained."""
    out = fresh(asked, "sparse", seed)
    tuned(asked, out, seed, student_of(asked, seed), SPARSE_EPOCHS, sparse=True)
    return measured(out, world, world.text["refined"])


def sparse_int8(world: World, asked: argparse.Namespace, seed: int, _: Any) -> dict[str, float]:
    """2:4 and INT8: the sparse student, trained with quantisers."""
    out = fresh(asked, "sparse_int8", seed)
    tuned(asked, out, seed, asked.out / f"sparse_{seed}", QAT_EPOCHS, qat=True)
    return measured(out, world, world.text["refined"])


def few(views: int) -> Callable[..., dict[str, float]]:
    """300 photos, with or without views."""

    def measure(world: World, asked: argparse.Namespace, seed: int, _: Any) -> dict[str, float]:
        pool = drawn(asked, f"few_{seed}", FEW, seed, [])
        return trained_on(pool, world, asked, seed, FEW_EPOCHS, views)

    return measure


def junk(world: World, asked: argparse.Namespace, seed: int, _: Any) -> dict[str, float]:
    """As many photos of other things as of the classes."""
    others = sorted(path for path in asked.names.iterdir() if path.is_file())
    pool = drawn(asked, f"junk_{seed}", len(others), seed, others)
    return trained_on(pool, world, asked, seed, JUNK_EPOCHS, 0)


CASES: dict[str, Callable[..., dict[str, float]]] = {
    "dense": dense,
    "INT8, calibrated": int8,
    f"2:4, {SPARSE_EPOCHS} epochs": sparse,
    f"2:4 and INT8, {QAT_EPOCHS} epoch more": sparse_int8,
    f"{FEW} photos": few(0),
    "half of 2,000 photos junk": junk,
    f"{FEW} photos, 3 views": few(3),
}


def student_of(asked: argparse.Namespace, seed: int) -> Path:
    """Folder of the best recipe's student."""
    return Path(asked.out / f"{BEST} {seed}".replace(" ", "_").replace(",", ""))


def fresh(asked: argparse.Namespace, name: str, seed: int) -> Path:
    """An output folder that does not exist."""
    out = Path(asked.out / f"{name}_{seed}")
    shutil.rmtree(out, ignore_errors=True)
    return out


def tuned(
    asked: argparse.Namespace, out: Path, seed: int, start: Path, epochs: int, **kind: bool
) -> None:
    """Fine-tune a student."""
    clipdistill.distill(
        RECIPES[BEST].arch,
        asked.images,
        asked.out / "emb",
        out,
        init_checkpoint=start,
        num_epochs=epochs,
        seed=seed,
        device="cpu",
        **kind,
    )


def drawn(asked: argparse.Namespace, name: str, count: int, seed: int, more: list[Path]) -> Path:
    """A folder of links to photos drawn from the pool, and to further ones."""
    folder = Path(asked.out / name)
    if not folder.is_dir():
        folder.mkdir()
        pool = sorted(path for path in asked.images.iterdir() if path.is_file())
        for path in [*random.Random(seed).sample(pool, count), *more]:
            (folder / path.name).symlink_to(path.resolve())
    return folder


def trained_on(
    pool: Path, world: World, asked: argparse.Namespace, seed: int, epochs: int, views: int
) -> dict[str, float]:
    """Embed a pool, learn class vectors from it and train a student on it."""
    emb = pool.with_name(f"{pool.name}-emb-{views}")
    refined, out = (
        pool.with_name(f"{pool.name}.npy"),
        pool.with_name(f"{pool.name}-student-{views}"),
    )
    shutil.rmtree(out, ignore_errors=True)
    clipdistill.embed(pool, emb, model_name=asked.teacher, views=views)
    clipdistill.adapt(asked.out / "text.npy", emb, refined)
    clipdistill.distill(
        RECIPES[SMALLER].arch,
        pool,
        emb,
        out,
        student_weights=asked.student_weights,
        image_size=RECIPES[SMALLER].options["image_size"],
        num_epochs=epochs,
        seed=seed,
        device="cpu",
    )
    return measured(out, world, load_text(refined))


def measured(student: Path, world: World, refined: TextEmbeddings) -> dict[str, float]:
    """Accuracies of a student and of its teacher, and the agreement on the 1,000 names."""
    vectors = normalized(embed(open_embedder(str(student), device="cpu"), world.labelled).vectors)
    top = np.argmax(world.teacher @ world.names.vectors.T, axis=1)
    return {
        "text": accuracy(vectors, world.text["text"], world),
        "refined": accuracy(vectors, refined, world),
        "teacher refined": accuracy(world.teacher, refined, world),
        "names": float((np.argmax(vectors @ world.names.vectors.T, axis=1) == top).mean()),
    }


def report(done: dict[str, Any], world: World) -> None:
    """All cases, with the seeds' means and their range."""
    lines = []
    for name in CASES:
        rows = [row for key, row in done.items() if key.rpartition(" | ")[0] == name]
        if rows:
            measures = ("text", "refined", "teacher refined", "names")
            lines.append([name, *(spread([row[one] for row in rows]) for one in measures)])
    images = len(world.labelled.items)
    notes = [
        f"tf_efficientnet_lite0 from ImageNet weights at 160 px; zero-shot top-1 of {images}",
        f"labelled photos. At 96 px: {FEW} photos, {FEW_EPOCHS} epochs; and 1,000 photos of the",
        f"pool with 1,000 of other things (junk), {JUNK_EPOCHS} epochs.",
    ]
    columns = ["case", "text", "refined", "teacher, refined", "agreement on 1,000 names"]
    write_report(
        "recipe-limits", "The best recipe, smaller and with poorer pools", notes, columns, lines
    )


if __name__ == "__main__":
    main()
