"""What learning class vectors from the pool changed, class by class, with the nearest images."""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...formats.embeddings import META, Embeddings, load_embeddings
from ...formats.predictions import Picture
from .gather import Gathered, images_folder
from .thumbnails import thumbnail

MOST_CLASSES = 20
"""Most classes that are shown, those that moved the farthest first."""
NEAREST = 3
"""Images that are shown per class."""
FAR = 1.5
"""A class moved far when it moved this many times as far as the median class."""
BLOCK = 65536
"""Embeddings that are compared at a time."""


@dataclass(frozen=True)
class ClassVector:
    """One class.

    Attributes:
        label: label of the class.
        images: number of images of the pool nearest to its class vector.
        moved: 1 - cosine of the class vector of the text and the learnt one.
        far: whether that is far more than for the other classes.
        thumbnails: (key, "data:" URI) of the nearest images; the URI is empty where the image is
            not found.
    """

    label: str
    images: int
    moved: float
    far: bool
    thumbnails: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class ClassVectors:
    """All classes.

    Attributes:
        kept_text: reason why the class vectors of the text were kept; empty where they were not.
        changed: share of the images whose label changed, 0 to 1.
        rounds: number of rounds.
        far: labels of the classes that moved far.
        refused: labels that are nearest to no image.
        rows: the classes that moved the farthest.
        total: number of classes.
    """

    kept_text: str
    changed: float
    rounds: int
    far: tuple[str, ...]
    refused: tuple[str, ...]
    rows: tuple[ClassVector, ...]
    total: int


def class_vectors_of(run: Gathered) -> ClassVectors | None:
    """Compare learnt class vectors with those of the text; None where none were learnt."""
    text = run.text
    if text is None or text.adaptation is None:
        return None
    learnt, labels = text.adaptation, text.labels
    moved = 1 - np.einsum("cd,cd->c", learnt.text, text.vectors.astype(np.float32))
    far = _far(moved)
    order = [] if learnt.kept_text else np.argsort(-moved, kind="stable")[:MOST_CLASSES].tolist()
    nearest = _nearest(run, text.vectors[order].astype(np.float32))
    rows = tuple(
        ClassVector(labels[row], learnt.images[row], float(moved[row]), bool(far[row]), images)
        for row, images in zip(order, nearest, strict=True)
    )
    return ClassVectors(
        kept_text=learnt.kept_text,
        changed=learnt.changed,
        rounds=learnt.rounds,
        far=() if learnt.kept_text else tuple(labels[index] for index in np.flatnonzero(far)),
        refused=learnt.refused,
        rows=rows,
        total=len(labels),
    )


def _far(moved: NDArray[np.float32]) -> NDArray[np.bool_]:
    if len(moved) < 3:  # no other classes to compare with
        return np.zeros(len(moved), dtype=bool)
    return moved > FAR * max(float(np.median(moved)), 1e-3)


def _nearest(run: Gathered, vectors: NDArray[np.float32]) -> list[tuple[tuple[str, str], ...]]:
    """The nearest images of the pool to each of some class vectors."""
    if not len(vectors) or not (run.folder.embeddings / META).is_file():
        return [()] * len(vectors)
    pool = load_embeddings(run.folder.embeddings)
    folder = images_folder(run.folder, run.record)
    return [
        tuple((key, thumbnail(_picture(folder, key), run.folder)) for key in keys)
        for keys in _nearest_keys(pool, vectors)
    ]


def _nearest_keys(pool: Embeddings, vectors: NDArray[np.float32]) -> list[list[str]]:
    found: list[list[tuple[float, int]]] = [[] for _ in vectors]
    for start in range(0, len(pool.vectors), BLOCK):
        block = pool.vectors[start : start + BLOCK].astype(np.float32)
        lengths = np.linalg.norm(block, axis=1)
        scores = (block @ vectors.T) / np.maximum(lengths, 1e-12)[:, None]
        for best, column in zip(found, scores.T, strict=True):
            some = np.argsort(-column, kind="stable")[:NEAREST]
            best[:] = heapq.nlargest(
                NEAREST, [*best, *((float(column[row]), -(start + int(row))) for row in some)]
            )
    return [[pool.rows[-row].image_path for _, row in best] for best in found]


def _picture(folder: Path, key: str) -> Picture:
    """The image with a key below its folder, which may be in a tar."""
    tar, dot, _ = key.partition(".tar/")
    return Picture(str(folder / (f"{tar}.tar" if dot else key)), key, None)
