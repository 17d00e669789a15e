"""Every verb that writes refuses an output that another process is writing."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

import killing
from clipdistill import verbs
from clipdistill.core.errors import OutputError
from clipdistill.distillation.options import DistillOptions
from clipdistill.formats.student import load_card


@dataclass
class Things:
    """What the verbs are given, and a folder for what they write."""

    root: Path
    images: Path
    embeddings: Path
    text: Path
    student: Path
    classifier: Path
    teacher: str

    @property
    def prompts(self) -> Path:
        path = self.root / "prompts.txt"
        path.write_text("red disc\ngreen square\n")
        return path


@pytest.fixture(scope="module")
def made(tmp_path_factory, pictures, tiny_teacher_name, tiny_text, tiny_student, tiny_classifier):
    from clipdistill.distillation.embed import embed

    root = tmp_path_factory.mktemp("things")
    pictures(root / "images", 40)
    embed(root / "images", root / "embeddings", model_name=tiny_teacher_name, device="cpu")
    return Things(
        root,
        root / "images",
        root / "embeddings",
        tiny_text,
        tiny_student,
        tiny_classifier,
        tiny_teacher_name,
    )


@pytest.fixture
def things(made: Things, tmp_path: Path) -> Things:
    return replace(made, root=tmp_path)


FAST = DistillOptions(batch_size=8, num_epochs=3, val_fraction=0.2, device="cpu")

Call = Callable[[Things, Path], Any]


def _distill(of: Things, out: Path) -> Any:
    from clipdistill.distillation.distill import distill

    return distill("test_resnet", of.images, of.embeddings, out, FAST)


def _quickstart(of: Things, out: Path) -> Any:
    from clipdistill.pipeline.quickstart import quickstart

    return quickstart(out=out)


def _engine(of: Things, out: Path) -> Any:
    from clipdistill.deploy.engine import engine

    return engine(of.classifier, out)


def _quantize(of: Things, out: Path) -> Any:
    from clipdistill.distillation.quantize import quantize

    return quantize(of.student, of.images, out, device="cpu")


def _embed(of: Things, out: Path) -> Any:
    from clipdistill.distillation.embed import embed

    return embed(of.images, out, model_name=of.teacher, device="cpu")


def _embed_text(of: Things, out: Path) -> Any:
    from clipdistill.distillation.embed_text import embed_text

    return embed_text(of.prompts, out.with_suffix(""), model_name=of.teacher, device="cpu")


def _adapt(of: Things, out: Path) -> Any:
    from clipdistill.distillation.adapt import adapt

    return adapt(of.text, of.embeddings, out)


def _pool_merge(of: Things, out: Path) -> Any:
    from clipdistill.collect.pool_merge import pool_merge

    return pool_merge(out, of.embeddings)


def _select(of: Things, out: Path) -> Any:
    from clipdistill.collect.select import select

    return select(of.images, of.embeddings, of.text, out, num_images=2, sheets=False)


def _export(of: Things, out: Path) -> Any:
    from clipdistill.deploy.export import export

    return export(str(of.student), out, text=of.text)


def _relabel(of: Things, out: Path) -> Any:
    from clipdistill.deploy.relabel import relabel

    return relabel(of.classifier, of.text, out)


def _predictions(of: Things, out: Path) -> Any:
    from clipdistill.measure.evaluate import evaluate

    return evaluate(str(of.classifier), images=of.images, predictions=out)


def _calibrate(of: Things, out: Path) -> Any:
    """Stores a calibration in text embeddings."""
    from clipdistill.measure.evaluate import evaluate

    for ending in (".npy", ".json"):
        out.with_suffix(ending).write_bytes(of.text.with_suffix(ending).read_bytes())
    return evaluate(
        str(of.student),
        images=of.images,
        embeddings=of.embeddings,
        text=out,
        calibrate=True,
        device="cpu",
    )


def _benchmark(of: Things, out: Path) -> Any:
    from clipdistill.measure.benchmark import BenchmarkOptions, benchmark

    options = BenchmarkOptions(out=out, rounds=1, limit=4, batch="1")
    return benchmark(str(of.classifier), images=of.images, options=options)


def _report(of: Things, out: Path) -> Any:
    from clipdistill.show.report import report
    from run_folders import assemble

    run = of.root / "run"
    return report(run if run.exists() else assemble(run).out, out=out, format="markdown")


FOLDERS: dict[str, Call] = {
    "distill": _distill,
    "embed": _embed,
    "pool merge": _pool_merge,
    "quantize": _quantize,
    "select": _select,
}
FILES: dict[tuple[str, str], Call] = {
    ("adapt", "text.npy"): _adapt,
    ("benchmark", "speed.md"): _benchmark,
    ("embed-text", "text.npy"): _embed_text,
    ("evaluate", "predictions.json"): _predictions,
    ("evaluate", "text.npy"): _calibrate,
    ("export", "classifier.onnx"): _export,
    ("relabel", "classifier.onnx"): _relabel,
    ("report", "README.md"): _report,
}
LONG: dict[str, tuple[Call, str]] = {
    "quickstart": (_quickstart, ""),
    "engine": (_engine, "it.engine"),
}
"""Verbs that are not tried to their end here: one takes minutes, one needs a GPU."""
ELSEWHERE = {"search", "download", "run", "demo"}
"""Verbs whose own tests check it."""
READERS = {"predict", "lint", "serve", "pool search", "status", "doctor"}


def test_no_verb_is_forgotten() -> None:
    checked = {*FOLDERS, *(verb for verb, _ in FILES), *LONG, *ELSEWHERE, *READERS}
    assert {verb.name for verb in verbs.VERBS} == checked


def check_refused(
    call: Call, things: Things, out: Path, *, folder: bool, again: bool = True
) -> None:
    with killing.holding(out, things.root / "ready", folder=folder) as other:
        with pytest.raises(OutputError) as raised:
            call(things, out)
        assert f"{out}: `clipdistill distill` (process {other.pid})" in str(raised.value)
        if not again:
            return
        killing.kill(other)
        call(things, out)
    assert not [path for path in things.root.rglob(".clipdistill*") if path.is_file()]


@pytest.mark.parametrize("verb", sorted(FOLDERS))
def test_a_folder_that_another_process_writes_is_refused(things: Things, verb: str) -> None:
    if verb == "quantize" and importlib.util.find_spec("modelopt") is None:
        pytest.skip("needs ModelOpt")
    check_refused(FOLDERS[verb], things, things.root / "out", folder=True)


@pytest.mark.parametrize(("verb", "name"), sorted(FILES))
def test_a_file_that_another_process_writes_is_refused(
    things: Things, verb: str, name: str
) -> None:
    check_refused(FILES[verb, name], things, things.root / "out" / name, folder=False)


@pytest.mark.parametrize("verb", sorted(LONG))
def test_a_long_verb_is_refused_before_it_begins(things: Things, verb: str) -> None:
    call, file = LONG[verb]
    check_refused(call, things, things.root / "out" / file, folder=not file, again=False)


def _distill_alone(of: Things, out: Path) -> None:
    import torch

    torch.set_num_threads(1)
    _distill(of, out)


def test_of_two_distillations_one_is_refused_and_the_other_whole(things: Things) -> None:
    out = things.root / "student"
    with killing.running(_distill_alone, things, out) as first:
        while not list(out.glob(".clipdistill-lock")):
            assert first.is_alive()
        with pytest.raises(OutputError, match=rf"`clipdistill distill` \(process {first.pid}\)"):
            _distill(things, out)
        first.join(120)
        assert first.exitcode == 0
    assert load_card(out).training["epochs"] == 3
