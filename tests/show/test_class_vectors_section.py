"""The report's section on class vectors that were learnt from the pool."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from clipdistill.core.zeroshot import normalized
from clipdistill.formats.embeddings import EmbeddingStore, Header, Row
from clipdistill.formats.run import RunFolder
from clipdistill.formats.text import Adaptation, load_text, save_text
from clipdistill.show.pages.class_vectors import class_vectors_of
from clipdistill.show.pages.gather import gather
from clipdistill.show.report import report
from run_folders import TEACHER, assemble

pytest.importorskip("jinja2")
pytest.importorskip("matplotlib")

LABELS = ("ant", "bee", "cat", "<dog>")


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    """A run of four classes; "bee" moved much farther than the others."""
    folder = assemble(tmp_path / "run", LABELS)
    text = load_text(folder.text)
    step = np.full((4, 1), 0.1) * [[1], [8], [1], [1]]
    away = normalized(np.random.default_rng(1).normal(size=text.vectors.shape))
    learnt = normalized(text.vectors + step * away)
    adaptation = Adaptation(
        text=text.vectors,
        shift=np.zeros(text.vectors.shape[1], np.float32),
        pool="embeddings",
        teacher="teacher",
        method="a method",
        rounds=3,
        images=(5, 4, 3, 0),
        refused=("<dog>",),
        left_out=0,
        changed=0.25,
    )
    save_text(folder.text, replace(text, vectors=learnt, adaptation=adaptation, calibration=None))
    return folder


def embed(folder: RunFolder, vectors: np.ndarray, names: list[str]) -> None:
    """Replace the embeddings of the run."""
    for path in sorted(folder.embeddings.rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    header = Header(TEACHER, "clip-retrieval", "float16", normalized=True)
    store = EmbeddingStore(folder.embeddings, header)
    store.append([Row(name, "", 1, 1) for name in names], vectors.astype(np.float16))
    store.finish([])


def test_the_images_nearest_to_each_class_vector_are_shown(folder: RunFolder) -> None:
    vectors = load_text(folder.text).vectors
    names = [f"{index:05d}.jpg" for index in range(4)]
    embed(folder, vectors[[1, 0, 3, 2]], names)
    found = class_vectors_of(gather(folder.out))
    assert found is not None
    nearest = {row.label: row.thumbnails[0] for row in found.rows}
    assert {label: key for label, (key, _) in nearest.items()} == {
        "ant": names[1],
        "bee": names[0],
        "cat": names[3],
        "<dog>": names[2],
    }
    assert all(image.startswith("data:image/jpeg") for _, image in nearest.values())


def test_a_class_that_moved_far_comes_first(folder: RunFolder) -> None:
    found = class_vectors_of(gather(folder.out))
    assert found is not None
    assert (found.rows[0].label, found.far, found.refused) == ("bee", ("bee",), ("<dog>",))
    page = report(folder.out).out.read_text()
    assert "25.0% of the images get another label than by text alone" in page
    assert re.search(r"Moved much farther than the others: <bdi>bee</bdi>\.", page)
    assert "<dog>" not in page


def test_kept_text_is_reported_with_its_reason(folder: RunFolder) -> None:
    text = load_text(folder.text)
    assert text.adaptation is not None
    kept = replace(text.adaptation, kept_text="too few images.")
    save_text(folder.text, replace(text, vectors=kept.text, adaptation=kept))
    page = report(folder.out).out.read_text()
    assert "The class vectors of the text were kept: too few images." in page
    assert "Moved much farther" not in page


def test_without_learnt_class_vectors_there_is_no_section(tmp_path: Path) -> None:
    folder = assemble(tmp_path / "run", LABELS)
    assert class_vectors_of(gather(folder.out)) is None
    assert "Class vectors learnt from the images" not in report(folder.out).out.read_text()
