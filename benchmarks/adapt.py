"""Class vectors from a pool: `adapt` beside text and other methods, on pools of many kinds.

The pools are made from a folder of unlabelled photos: all of it, small parts, unbalanced parts,
parts with junk, parts without a class.  Which photo is of which kind is not known; where a pool has
to be made by kind, the soft means of the whole folder tell.  Labelled photos only measure.

    python benchmarks/adapt.py --pool EMB --labelled EMB --others EMB --text TEXT.npy \
        --synonyms SYNONYMS.npy --many MANY.npy

EMB are embeddings of one teacher: of the unlabelled photos, of a folder with one folder per class,
and of photos of other classes whose names are in the files' (n01440764_tench.jpg).  MANY are text
embeddings of those names.  With --student, --images (the pool's) and --labelled-images the verb
itself runs, and the student's accuracy is measured with each class list.  SYNONYMS are those of
every label of TEXT and of others that mean nearly the same, written as label<TAB>prompt: "brown
bear = grizzly bear<TAB>grizzly bear".
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from reporting import write_report

from clipdistill import adapt, evaluate, load_embeddings, load_text
from clipdistill.core.zeroshot import moved_along, normalized
from clipdistill.distillation import class_vectors
from clipdistill.formats.embeddings import unit_vectors

BLOCK = 4096
Scores = Callable[[np.ndarray], np.ndarray]
"""Embeddings (N, D) -> scores (N, C), the best label highest."""


class Data:
    """Everything that is read.

    Attributes:
        pool, labelled, others: unit embeddings (N, D).
        truth: class of each labelled image in `text`, (N,).
        other_names: the name of each of the others.
        text, synonyms, many: text embeddings.
        kinds: class of each image of the pool as the soft means tell, (N,).
    """

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.text, self.synonyms, self.many = (
            load_text(path) for path in (arguments.text, arguments.synonyms, arguments.many)
        )
        self.pool, _ = read(arguments.pool)
        self.labelled, names = read(arguments.labelled)
        self.truth = np.array([self.text.labels.index(name.split("/")[0]) for name in names])
        self.others, names = read(arguments.others)
        self.other_names = [
            re.sub(r"^n\d+_", "", Path(name).stem).replace("_", " ") for name in names
        ]
        self.kinds = soft_means(self.text.vectors, self.pool)(self.pool).argmax(axis=1)


@dataclass
class Test:
    """What a scenario measures: embeddings (N, D), and for each which classes are right (N, C)."""

    name: str
    images: np.ndarray
    right: np.ndarray


@dataclass
class Scenario:
    """A class list, a pool, and what to measure with the class vectors learnt from it."""

    text: np.ndarray
    pool: np.ndarray
    tests: list[Test]


def read(root: Path) -> tuple[np.ndarray, list[str]]:
    """Unit embeddings and the images' names."""
    found = load_embeddings(root)
    return unit_vectors(found), [row.image_path for row in found.rows]


def one_hot(truth: np.ndarray, classes: int) -> np.ndarray:
    """Bool (N, classes)."""
    return truth[:, None] == np.arange(classes)


def scenarios(data: Data, seed: int) -> Iterator[Scenario]:
    """All pools, drawn with `seed`."""
    random = np.random.default_rng(seed)
    text, pool, kinds, count = data.text.vectors, data.pool, data.kinds, len(data.text.labels)
    right = one_hot(data.truth, count)

    def draw(images: np.ndarray, number: int) -> np.ndarray:
        return images[random.choice(len(images), min(number, len(images)), replace=False)]

    def plain(name: str, images: np.ndarray) -> Scenario:
        return Scenario(text, images, [Test(name, data.labelled, right)])

    clean = draw(pool, len(pool) * 5 // 6)
    yield plain("clean", clean)
    yield plain("300 images", draw(pool, 300))
    yield plain("100 images", draw(pool, 100))
    shares = random.permutation(np.geomspace(1, 1 / 20, count))
    yield plain("imbalance 20:1", pool[random.random(len(pool)) < shares[kinds]])
    shares = random.permutation(np.where(np.arange(count) < count // 2, 1, 1 / 20))
    yield plain("imbalance 20:1, half the classes", pool[random.random(len(pool)) < shares[kinds]])
    junk = data.others[[name not in data.text.labels for name in data.other_names]]
    yield plain("half junk: other photos", np.concatenate([draw(pool, len(junk)), junk]))
    yield plain("only junk: other photos", junk)
    for name, size in (("half junk: other kinds", count // 2), ("nine tenths junk", count // 10)):
        part = np.sort(random.permutation(count)[:size])
        mine = np.isin(data.truth, part)
        test = Test(name, data.labelled[mine], right[mine][:, part])
        yield Scenario(text[part], pool, [test])
        if size == count // 2:
            test = Test("only junk: other kinds", test.images, test.right)
            yield Scenario(text[part], pool[~np.isin(kinds, part)], [test])
    for gone in (1, 3):
        absent = random.permutation(count)[:gone]
        name = f"{gone} class{'es' * (gone > 1)} without an image"
        mine = np.isin(data.truth, absent)
        yield Scenario(
            text,
            pool[~np.isin(kinds, absent)],
            [
                Test(name, data.labelled, right),
                Test(f"{name}: those", data.labelled[mine], right[mine]),
            ],
        )
    yield Scenario(
        data.synonyms.vectors, clean, [Test("near-synonyms", data.labelled, synonyms(data))]
    )
    yield from many_classes(data, clean, random)
    yield Scenario(text[:1], clean, [Test("one class", data.labelled[:25], right[:25, :1])])


def synonyms(data: Data) -> np.ndarray:
    """Which of the synonyms' labels are right for each labelled image: bool (N, C)."""
    kind = [label.split(" = ")[0] for label in data.synonyms.labels]
    truth = np.array(data.text.labels)[data.truth]
    return truth[:, None] == np.array(kind)


def many_classes(data: Data, clean: np.ndarray, random: np.random.Generator) -> Iterator[Scenario]:
    """A long class list: a pool with an image of every other class, and one of few classes."""
    labels = np.array(data.many.labels)
    others = np.array(data.other_names)[:, None] == labels
    order = random.permutation(len(others))
    half = len(order) // 2
    name = f"{len(labels)} classes, {half} images"
    test = Test(name, data.others[order[half:]], others[order[half:]])
    yield Scenario(data.many.vectors, data.others[order[:half]], [test])
    name = f"{len(labels)} classes, images of {len(data.text.labels)}"
    known = np.array(data.text.labels)[data.truth][:, None] == labels
    yield Scenario(
        data.many.vectors,
        clean,
        [
            Test(f"{name}: such photos", data.labelled, known),
            Test(f"{name}: other photos", data.others, others),
        ],
    )


def by(vectors: np.ndarray) -> Scores:
    """Scores of class vectors (C, D)."""
    return lambda images: images @ vectors.T


def soft(cosines: np.ndarray) -> np.ndarray:
    """Softmax of each row."""
    shares = np.exp(cosines - cosines.max(axis=1, keepdims=True))
    return shares / shares.sum(axis=1, keepdims=True)


def text_alone(text: np.ndarray, pool: np.ndarray) -> Scores:
    """The baseline."""
    return by(text)


def soft_means(text: np.ndarray, pool: np.ndarray, rounds: int = 10, scale: float = 20) -> Scores:
    """Every image counts for every class, by a softmax."""
    vectors = text
    for _ in range(rounds):
        shares = soft(scale * pool @ vectors.T)
        vectors = normalized(text + normalized(shares.T @ pool))
    return by(vectors)


def balanced(text: np.ndarray, pool: np.ndarray, rounds: int = 10, scale: float = 20) -> Scores:
    """Soft means whose classes have equally many images (Sinkhorn, 3 iterations)."""
    vectors = text
    for _ in range(rounds):
        shares = np.exp(scale * pool @ vectors.T)
        for _ in range(3):
            shares /= np.maximum(shares.sum(axis=0), 1e-30) * len(text)
            shares /= shares.sum(axis=1, keepdims=True) * len(pool)
        vectors = normalized(text + normalized(shares.T @ pool))
    return by(vectors)


def best_share(text: np.ndarray, pool: np.ndarray, rounds: int = 3, share: float = 0.3) -> Scores:
    """The best 30% of each class; classes of fewer than 3 images move by the others' mean shift."""
    vectors = text
    for _ in range(rounds):
        cosines = pool @ vectors.T
        labels, near = cosines.argmax(axis=1), cosines.max(axis=1)
        sums = np.zeros_like(text)
        for one in range(len(text)):
            mine = np.flatnonzero(labels == one)
            sums[one] = pool[
                mine[np.argsort(-near[mine], kind="stable")[: int(np.ceil(share * len(mine)))]]
            ].sum(axis=0)
        fat = np.bincount(labels, minlength=len(text)) >= 3
        if not fat.any():
            return by(text)
        means = normalized(sums)
        means[~fat] = normalized(text + (means[fat] - text[fat]).mean(axis=0))[~fat]
        vectors = normalized(text + means)
    return by(vectors)


def transclip(text: np.ndarray, pool: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """TransCLIP's zero-shot solver (arXiv 2406.01837): means (C, D), one diagonal variance (D,).

    10 rounds, 5 updates of the assignments in each, 3 neighbours, weight 1 of the text, as in its
    paper and its authors' code.
    """
    count, dim = pool.shape
    first = soft(100 * pool @ text.T)
    shares = first.copy()
    best = np.argsort(-shares, axis=0, kind="stable")[:8]
    means = normalized(
        np.stack([shares[rows, one] @ pool[rows] for one, rows in enumerate(best.T)])
    )
    variance = np.full(dim, 1 / dim, np.float32)
    near, weight = neighbours(pool, 3)
    for number in range(11):
        squares = ((pool**2) / variance).sum(axis=1, keepdims=True)
        products = (pool / variance) @ means.T
        fit = -0.5 * (squares - 2 * products + ((means**2) / variance).sum(axis=1))
        for _ in range(5):
            value = fit + 50 / 6 * spread(shares, near, weight)
            value = first * np.exp((value - value.max(axis=1, keepdims=True)) / 50)
            shares = value / value.sum(axis=1, keepdims=True)
        if number < 10:
            sums = shares.T @ pool
            means = normalized(sums)
            total = (shares.T @ (pool**2)).sum(axis=0) - 2 * (sums * means).sum(axis=0)
            variance = (total + (shares.sum(axis=0)[:, None] * means**2).sum(axis=0)) / count
    return means, variance


def neighbours(pool: np.ndarray, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows and cosines of the nearest other images, (N, number) each."""
    near = np.empty((len(pool), number), np.intp)
    weight = np.empty((len(pool), number), np.float32)
    for start in range(0, len(pool), 1024):
        cosines = pool[start : start + 1024] @ pool.T
        rows = np.arange(len(cosines))
        cosines[rows, start + rows] = -9
        best = np.argpartition(-cosines, number, axis=1)[:, :number]
        near[start : start + 1024] = best
        weight[start : start + 1024] = np.take_along_axis(cosines, best, axis=1)
    return near, weight


def spread(shares: np.ndarray, near: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Shares (N, C) of the neighbours, and of those whose neighbour an image is, weighted."""
    result = np.zeros_like(shares)
    for rows, values in zip(near.T, weight.T, strict=True):
        result += values[:, None] * shares[rows]
        np.add.at(result, rows, values[:, None] * shares)
    return result


def transclip_scores(text: np.ndarray, pool: np.ndarray) -> Scores:
    """TransCLIP's own model for new images: text and the Gaussians (no neighbours)."""
    means, variance = transclip(text, pool)
    constant = 0.5 * (means**2 / variance).sum(axis=1)
    return lambda images: 100 * images @ text.T + ((images / variance) @ means.T - constant) / 50


def transclip_means(text: np.ndarray, pool: np.ndarray) -> Scores:
    """Class vectors half text, half TransCLIP's means: what a student can use."""
    return by(normalized(text + transclip(text, pool)[0]))


def blocks_of(pool: np.ndarray) -> class_vectors.Blocks:
    """The pool as `learn` reads it."""
    return lambda: (pool[start : start + BLOCK] for start in range(0, len(pool), BLOCK))


def ours(text: np.ndarray, pool: np.ndarray) -> Scores:
    """What `adapt` does."""
    return by(class_vectors.learn(text, blocks_of(pool)).vectors)


def with_prior(prior: float) -> Callable[[np.ndarray, np.ndarray], Scores]:
    """What `adapt` does with another `PRIOR`."""

    def method(text: np.ndarray, pool: np.ndarray) -> Scores:
        usual, class_vectors.PRIOR = class_vectors.PRIOR, prior
        try:
            return ours(text, pool)
        finally:
            class_vectors.PRIOR = usual

    return method


METHODS = {
    "text": text_alone,
    "soft means": soft_means,
    "balanced": balanced,
    "TransCLIP": transclip_scores,
    "its means": transclip_means,
    "best share": best_share,
    "adapt": ours,
    "prior 3": with_prior(3),
    "prior 10": with_prior(10),
}


def main() -> None:
    """Measure and report."""
    arguments = parse()
    data = Data(arguments)
    found: dict[str, dict[str, list[float]]] = {}
    kept: dict[str, list[str]] = {}
    for seed in range(arguments.seeds):
        for scenario in scenarios(data, seed):
            reason = class_vectors.learn(scenario.text, blocks_of(scenario.pool)).kept_text
            for name, method in METHODS.items():
                scores = method(scenario.text, scenario.pool)
                for test in scenario.tests:
                    best = scores(test.images).argmax(axis=1)
                    share = test.right[np.arange(len(best)), best].mean()
                    found.setdefault(test.name, {}).setdefault(name, []).append(100 * share)
            for test in scenario.tests:
                kept.setdefault(test.name, []).append(reason)
            print(f"seed {seed}: {scenario.tests[0].name}", file=sys.stderr)
    rows = [row(name, values, kept[name]) for name, values in found.items()]
    columns = ["pool", *METHODS, "adapt - text, worst", "text kept"]
    write_report("adapt", "Class vectors from a pool", describe(data, arguments), columns, rows)


def row(name: str, values: dict[str, list[float]], kept: list[str]) -> list[str]:
    """One line of the table."""
    worst = min(np.subtract(values["adapt"], values["text"]))
    refused = sum(map(bool, kept))
    return [
        name,
        *(f"{np.mean(values[method]):.1f}" for method in METHODS),
        f"{worst:+.1f}",
        f"{refused} of {len(kept)}" if refused else "",
    ]


def describe(data: Data, arguments: argparse.Namespace) -> list[str]:
    """The lines above the table."""
    lines = [
        f"Accuracy in percent, means of {arguments.seeds} draws of each pool out of "
        f"{len(data.pool):,} photos of {len(data.text.labels)} kinds; measured on "
        f"{len(data.labelled)} labelled photos that are in no pool (a difference of 1 is "
        f"{len(data.labelled) // 100} of them). Nothing was fitted to labels; PRIOR and "
        "the guards' limits were settled after such tables had been seen. `worst`: the worst draw.",
        "",
        "`soft means`: ten rounds of softmax(20 x cosine). `balanced`: the same with Sinkhorn. "
        "`TransCLIP`: its text and Gaussians for new images (not one matrix, so no student can use "
        "it). `its means`: half text, half its means. `best share`: the best 30% of each class, "
        "half text, 3 rounds. `adapt`: the same with a prior of 5 images and the guards; `prior 3` "
        "and `prior 10`: with another.",
        "",
    ]
    lines += typed_later(data, arguments.seeds)
    return [*lines, *students(arguments)] if arguments.student else lines


def typed_later(data: Data, seeds: int) -> list[str]:
    """Labels that are added after `adapt`, as text and as moved along."""
    text, count = data.text.vectors, len(data.text.labels)
    plain, along, before = [], [], []
    for seed in range(seeds):
        later = np.random.default_rng(seed).permutation(count)[:3]
        old = np.setdiff1d(np.arange(count), later)
        learnt = class_vectors.learn(text[old], blocks_of(data.pool[~np.isin(data.kinds, later)]))
        vectors = text.copy()
        vectors[old] = learnt.vectors
        before.append(accuracy(text, data))
        plain.append(accuracy(vectors, data))
        vectors[later] = moved_along(text[later], learnt.shift)
        along.append(accuracy(vectors, data))
    return [
        f"Three labels typed after `adapt` (pool without their images), all {count} labels: text "
        f"alone {np.mean(before):.1f}; adapted, the new ones as plain text {np.mean(plain):.1f}; "
        f"adapted, the new ones moved along (what the demo does) {np.mean(along):.1f}.",
    ]


def students(arguments: argparse.Namespace) -> list[str]:
    """A student's accuracy with text, with adapted vectors, and with its own class means."""
    with tempfile.TemporaryDirectory() as folder:
        refined, own = Path(folder) / "refined.npy", Path(folder) / "own.npy"
        adapt(arguments.text, arguments.pool, refined)
        adapt(
            arguments.text,
            arguments.pool,
            own,
            student=arguments.student,
            images=arguments.images,
        )
        text, refined, own = (
            evaluate(arguments.student, labelled=arguments.labelled_images, text=path).rows[0]
            for path in (arguments.text, refined, own)
        )
    return [
        "",
        f"A student ({arguments.student_is}): {100 * text.accuracy:.1f} with text, "
        f"{100 * refined.accuracy:.1f} with adapted vectors, {100 * own.accuracy:.1f} with the "
        "means of its own embeddings (--student, --images).",
    ]


def accuracy(vectors: np.ndarray, data: Data) -> float:
    """Percent of the labelled images."""
    return 100 * float(((data.labelled @ vectors.T).argmax(axis=1) == data.truth).mean())


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("pool", "labelled", "others", "text", "synonyms", "many"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    for name in ("student", "images", "labelled-images"):
        parser.add_argument(f"--{name}", type=Path)
    parser.add_argument("--student-is", default="", help="what it is, for the report")
    parser.add_argument("--seeds", type=int, default=3)
    return parser.parse_args()


if __name__ == "__main__":
    main()
