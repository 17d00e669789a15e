"""Several things in one image: ways to give it labels, fitted to a pool without labels.

The test images are composed: two or three labelled photos side by side in one image, every labelled
photo alone, and photos of other things, which have no label.  Labels only measure, except in the
rows "labels".  A pool of images of several things is composed of unlabelled photos in the same way.

    python benchmarks/independent.py --teacher local-dir:TEACHER --student STUDENT --pool EMB \
        --text TEXT.npy --adapted ADAPTED.npy --labelled photos/labelled --others photos/web \
        --unlabelled photos/unlabelled --names NAMES.npy

EMB are the teacher's embeddings of the unlabelled photos; TEXT are text embeddings of the kinds,
and ADAPTED what `adapt` made of them.  --others has photos named like n01440764_tench.jpg; those
whose name (NAMES: their text embeddings) is near one of the kinds are left out.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from reporting import write_report

from clipdistill import load_embeddings, load_text
from clipdistill.core import independent, metrics
from clipdistill.core.zeroshot import Independent, LogitScale, probabilities
from clipdistill.distillation.batches import split_rows
from clipdistill.formats.embeddings import unit_vectors
from clipdistill.formats.text import TextEmbeddings
from clipdistill.images.preprocess import Preprocess
from clipdistill.measure.several import several_labels
from clipdistill.models.embedder import Embedder
from clipdistill.models.open import open_embedder

SIDE = 320
GREY = (127, 127, 127)
PAIRS, TRIPLES, OTHERS = 300, 200, 200
COMPOSED_POOL = 500
HELD, FEW = 300, 30
"""Images of the pool that a student is fitted on, of those that it was not trained on."""
VAL_FRACTION, SEED = 0.05, 0
"""Of its training."""
NEAR = 0.6
"""Cosine of a name with a kind from which photos of that name are left out."""
BATCH = 50

Shares = np.ndarray
Judge = Callable[[np.ndarray], tuple[Shares, np.ndarray]]
"""Embeddings (N, D) -> probabilities and thresholds, (N, C) and (C,)."""


@dataclass(frozen=True)
class Picture:
    """Photos that make one image, and the kinds they show."""

    paths: tuple[Path, ...]
    kinds: tuple[int, ...]


@dataclass
class Data:
    """What is measured on.

    Attributes:
        truth: which kinds each test image shows, bool (N, C).
        test: embeddings of the test images by model, (N, D).
        pool: the teacher's embeddings of the unlabelled photos.
        composed: the teacher's embeddings of images composed of them.
        held: rows of the pool that the student embedded, and was not trained on.
        held_student: its embeddings of them.
    """

    truth: np.ndarray
    test: dict[str, np.ndarray]
    pool: np.ndarray
    composed: np.ndarray
    held: np.ndarray
    held_student: np.ndarray


def cropped(path: Path, width: int, height: int) -> Image.Image:
    """A photo, resized and cropped in its centre."""
    with Image.open(path) as file:
        image = file.convert("RGB")
    scale = max(width / image.width, height / image.height)
    size = max(width, round(image.width * scale)), max(height, round(image.height * scale))
    image = image.resize(size, Image.Resampling.BICUBIC)
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    return image.crop((left, top, left + width, top + height))


def composed(paths: Sequence[Path]) -> Image.Image:
    """One photo as it is, or two or three side by side in a square."""
    if len(paths) == 1:
        with Image.open(paths[0]) as file:
            return file.convert("RGB")
    canvas, half = Image.new("RGB", (SIDE, SIDE), GREY), SIDE // 2
    if len(paths) == 2:
        high = half * 4 // 3
        for place, path in enumerate(paths):
            canvas.paste(cropped(path, half, high), (place * half, (SIDE - high) // 2))
    else:
        places = ((0, 0), (half, 0), (half // 2, half))
        for place, path in zip(places, paths, strict=True):
            canvas.paste(cropped(path, half, half), place)
    return canvas


def pictures(arguments: argparse.Namespace, text: TextEmbeddings) -> Iterator[Picture]:
    """The test images."""
    random = np.random.default_rng(0)
    files = [sorted((arguments.labelled / label).iterdir()) for label in text.labels]
    for kind, paths in enumerate(files):
        yield from (Picture((path,), (kind,)) for path in paths)
    for number, count in ((2, PAIRS), (3, TRIPLES)):
        for _ in range(count):
            kinds = tuple(int(one) for one in random.choice(len(files), number, replace=False))
            paths = (files[kind][random.integers(len(files[kind]))] for kind in kinds)
            yield Picture(tuple(paths), kinds)
    names = load_text(arguments.names)
    near = (names.vectors @ text.vectors.T).max(axis=1)
    far = {name for name, cosine in zip(names.labels, near, strict=True) if cosine < NEAR}
    others = [
        path
        for path in sorted(arguments.others.iterdir())
        if re.sub(r"^n\d+_", "", path.stem).replace("_", " ") in far
    ]
    for place in random.choice(len(others), OTHERS, replace=False):
        yield Picture((others[place],), ())


def embed(model: Embedder, groups: Sequence[Sequence[Path]]) -> np.ndarray:
    """Embeddings of composed images."""
    preprocess: Preprocess = model.spec.preprocess
    found = []
    for start in range(0, len(groups), BATCH):
        pixels = [preprocess.to_pixels(composed(paths)) for paths in groups[start : start + BATCH]]
        found.append(model.embed_pixels(np.stack(pixels)))
        print(f"{model.spec.name}: {start + len(pixels)}/{len(groups)}", file=sys.stderr)
    return np.concatenate(found)


def read(arguments: argparse.Namespace, text: TextEmbeddings) -> Data:
    """Compose and embed everything."""
    tests = list(pictures(arguments, text))
    truth = np.zeros((len(tests), len(text.labels)), bool)
    for row, one in enumerate(tests):
        truth[row, list(one.kinds)] = True
    stored = load_embeddings(arguments.pool)
    names = [row.image_path for row in stored.rows]
    random = np.random.default_rng(1)
    held = random.permutation(split_rows(names, VAL_FRACTION, SEED)[1])[:HELD]
    mixed = [
        [arguments.unlabelled / names[place] for place in random.choice(len(names), number)]
        for number in random.integers(2, 4, COMPOSED_POOL)
    ]
    teacher = open_embedder(arguments.teacher, device="cpu")
    student = open_embedder(str(arguments.student), device="cpu")
    groups = [one.paths for one in tests]
    return Data(
        truth=truth,
        test={"teacher": embed(teacher, groups), "student": embed(student, groups)},
        pool=unit_vectors(stored),
        composed=embed(teacher, mixed),
        held=held,
        held_student=embed(student, [[arguments.unlabelled / names[row]] for row in held]),
    )


def softmax(text: TextEmbeddings, least: float) -> Judge:
    """One answer per image, as without --independent; every label above `least`."""

    def judge(images: np.ndarray) -> tuple[Shares, np.ndarray]:
        shares = probabilities(images, text.vectors, LogitScale(text.teacher.logits.scale))
        return shares, np.full(len(text.labels), least)

    return judge


def background_prompt(text: TextEmbeddings, names: TextEmbeddings) -> Judge:
    """The class against the mean of many other names, by the teacher's temperature."""
    other = names.vectors.mean(axis=0)
    other /= np.linalg.norm(other)

    def judge(images: np.ndarray) -> tuple[Shares, np.ndarray]:
        margin = images @ text.vectors.T - (images @ other)[:, None]
        shares = 1 / (1 + np.exp(-np.clip(text.teacher.logits.scale * margin, -60, 60)))
        return shares, np.full(len(text.labels), 0.5)

    return judge


def by(text: TextEmbeddings, found: Independent) -> Judge:
    """Probabilities as they are stored."""
    return lambda images: (
        probabilities(images, text.vectors, found),
        np.array(found.thresholds),
    )


def logistic(
    text: TextEmbeddings, pool: np.ndarray, target: Callable[[np.ndarray], np.ndarray]
) -> Judge:
    """A logistic function per class, fitted to guesses about the pool."""
    cosines = (pool @ text.vectors.T).astype(np.float64)
    guessed = target(cosines)
    lines = [
        independent.logistic(cosines[:, one], guessed[:, one]) for one in range(len(text.labels))
    ]
    slopes, offsets = np.array(lines).T

    def judge(images: np.ndarray) -> tuple[Shares, np.ndarray]:
        values = slopes * (images @ text.vectors.T) + offsets
        return 1 / (1 + np.exp(-np.clip(values, -60, 60))), np.full(len(text.labels), 0.5)

    return judge


def nearest(cosines: np.ndarray) -> np.ndarray:
    """Guess that each image shows its nearest class, and no other."""
    return independent.nearest(cosines).astype(np.float64)


def own_mixtures(cosines: np.ndarray, rounds: int = 200) -> np.ndarray:
    """Guess by two normal distributions for each class of its own."""
    shares = (cosines > np.quantile(cosines, 0.97, axis=0)).astype(np.float64)
    for _ in range(rounds):
        densities = []
        for weights in (1 - shares, shares):
            total = weights.sum(axis=0)
            mean = (weights * cosines).sum(axis=0) / total
            variance = (weights * (cosines - mean) ** 2).sum(axis=0) / total
            fit = (cosines - mean) ** 2 / (2 * variance)
            densities.append((mean, np.log(total / np.sqrt(variance)) - fit))
        (low, first), (_, second) = densities
        shares = np.where(cosines < low, 0, 1 / (1 + np.exp(np.clip(first - second, -60, 60))))
    return shares


def ours(text: TextEmbeddings, pool: np.ndarray) -> Independent:
    """What `adapt --independent` fits."""
    found = independent.fit_pool(text.vectors, lambda: iter([pool]), text.labels, "pool")
    assert found is not None
    return found


def rows(data: Data, classes: dict[str, TextEmbeddings], names: TextEmbeddings) -> Iterator[list]:
    """The lines of the table."""
    singles = data.truth.sum(axis=1) == 1
    for vectors, text in classes.items():
        ways: dict[str, Judge] = {
            "softmax, best label": softmax(text, 0.5),
            "softmax, every label above 20%": softmax(text, 0.2),
            "against other names": background_prompt(text, names),
            "logistic per class, nearest images": logistic(text, data.pool, nearest),
            "mixture per class": logistic(text, data.pool, own_mixtures),
            "**one mixture over backgrounds**": by(text, ours(text, data.pool)),
            "the same, 300 images": by(text, ours(text, data.pool[data.held])),
            f"the same, {COMPOSED_POOL} composed images": by(text, ours(text, data.composed)),
        }
        for name, judge in ways.items():
            yield row("teacher", vectors, name, judge, data)
        base = ours(text, data.pool)
        student = data.test["student"]
        wanted = probabilities(data.pool[data.held], text.vectors, base)
        cosines = data.held_student @ text.vectors.T
        yield row("student", vectors, "softmax, best label", softmax(text, 0.5), data)
        yield row("student", vectors, "the teacher's, as they are", by(text, base), data)
        for count in (HELD, FEW):
            some = cosines[:count], wanted[:count]
            fitted = independent.fit_target(
                base, *some, text.labels, method="teacher", source="pool"
            )
            way = f"**fitted to the teacher, {count} images**"
            yield row("student", vectors, way, by(text, fitted), data)
        # Labels of every second test image, measured on the others.
        half = np.arange(len(student)) % 2 == 0
        for what, on in (
            ("of all kinds of images", half),
            ("of photos of one thing", half & singles),
        ):
            target = data.truth[on].astype(np.float32)
            found = independent.fit_target(
                base, student[on] @ text.vectors.T, target, text.labels, method="labels", source=""
            )
            yield row("student", vectors, f"labels {what}", by(text, found), data, ~half)


def row(
    model: str, vectors: str, way: str, judge: Judge, data: Data, on: np.ndarray | None = None
) -> list[str]:
    """Measure one way."""
    on = np.ones(len(data.truth), bool) if on is None else on
    truth = data.truth[on]
    shares, least = judge(data.test[model][on])
    has = shares >= least
    labels = tuple(map(str, range(truth.shape[1])))
    found = several_labels(shares, has, truth, labels, least)
    count = truth.sum(axis=1)
    parts = [2 * (has & truth)[count == one].sum() for one in (1, 2, 3)]
    wholes = [has[count == one].sum() + truth[count == one].sum() for one in (1, 2, 3)]
    error = metrics.calibration_error(shares.ravel(), truth.ravel())
    values = [found.mean_average_precision, found.precision, found.recall, found.f1]
    values += [part / whole for part, whole in zip(parts, wholes, strict=True)]
    values += [found.none, error]
    return [model, vectors, way, *(f"{100 * value:.1f}" for value in values)]


def main() -> None:
    """Measure and report."""
    arguments = parse()
    classes = {"text": load_text(arguments.text), "adapted": load_text(arguments.adapted)}
    names = load_text(arguments.names)
    data = read(arguments, classes["text"])
    count = data.truth.sum(axis=1)
    lines = [
        f"{(count == 1).sum()} labelled photos of {data.truth.shape[1]} kinds, {PAIRS} pairs and "
        f"{TRIPLES} triples composed of them, and {OTHERS} photos of other things. All figures in "
        "percent. mAP, precision, recall and F1 are means over the kinds; F1 of 1, 2 and 3 things "
        "is that of all labels of these images together; none: photos of other things that get no "
        "label; error: calibration error of all pairs of image and label. Everything is fitted to "
        f"{len(data.pool):,} unlabelled photos of one thing each, or to what the row names, and "
        "nothing to labels, unless the row says so. A way that is monotonous in each cosine has "
        "the mAP of the cosines.",
        "",
        "`nearest images`: every image shows its nearest class. `other names`: against the mean "
        f"text of {len(names.labels)} names. `one mixture over backgrounds`: what `adapt "
        "--independent` does. The photos of other things were chosen by their names alone, and "
        "some show a kind all the same. `labels`: fitted to every second test image, measured on "
        "the others.",
    ]
    columns = ["model", "vectors", "way", "mAP", "precision", "recall", "F1"]
    columns += ["F1, 1", "F1, 2", "F1, 3", "none", "error"]
    write_report(
        "independent",
        "Several things in one image",
        lines,
        columns,
        list(rows(data, classes, names)),
    )


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--teacher", required=True)
    for name in ("student", "pool", "text", "adapted", "names", "labelled", "others", "unlabelled"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    return parser.parse_args()


if __name__ == "__main__":
    main()
