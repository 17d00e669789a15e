"""Folders of runs, assembled with the program's own writers instead of trained."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from clipdistill.core.zeroshot import Calibration, LogitScale, normalized
from clipdistill.formats.cards import Compression, Quantization, StudentCard, TeacherCard
from clipdistill.formats.embeddings import EmbeddingStore, Failure, Header, Row
from clipdistill.formats.ledger import DUPLICATE, FAILED, OK, REFUSED, Ledger, LedgerRow
from clipdistill.formats.measurements import (
    Baseline,
    Benchmark,
    BenchmarkRow,
    Evaluation,
    ModelEvaluation,
    save_measurement,
)
from clipdistill.formats.predictions import ModelPredictions, Picture, Predictions, save_predictions
from clipdistill.formats.run import RunFolder, RunRecord, StepRecord, save_run
from clipdistill.formats.student import WEIGHTS, save_card, write_metrics
from clipdistill.formats.text import TextEmbeddings, save_text
from clipdistill.images.preprocess import Preprocess
from clipdistill.pipeline.toy.world import KINDS, draw, jpeg

DIM = 8
TEACHER = TeacherCard("hf-hub:some/teacher", "", "ab" * 16, DIM, LogitScale(), Preprocess(32))
INT8 = Compression(
    int8=Quantization(
        method="percentile",
        calibration_images=64,
        trained=True,
        layers=("a",),
        residuals=(),
        folded=(),
        skipped=(),
        quantizers=2,
    )
)


def assemble(
    out: Path,
    labels: Sequence[str] = KINDS,
    *,
    labelled: bool = True,
    a_class: int = 3,
    names: Sequence[str] | None = None,
    downloaded: bool = True,
) -> RunFolder:
    """A whole run of a dense and an INT8 student; each class has `a_class` pictures.

    Args:
        out: the folder.
        labels: the classes.
        labelled: whether the truth is known.
        a_class: pictures a class.
        names: file names of the first pictures, in place of plain ones.
        downloaded: whether there is a ledger.
    """
    folder = RunFolder(out)
    out.mkdir(parents=True, exist_ok=True)
    make_record(folder)
    folder.prompts.write_text("".join(f"{i}\n" for i in range(len(labels))))
    make_text(folder, labels)
    make_student(folder, "dense")
    make_student(folder, "int8")
    pictures = make_pictures(folder, labels, a_class, names or ())
    make_embeddings(folder, [picture.key for picture in pictures])
    if downloaded:
        make_ledger(folder, labels)
    make_measured(folder, labels, pictures, labelled=labelled)
    make_benchmark(folder, labelled)
    make_baseline(folder, labels, labelled)
    return folder


def make_record(folder: RunFolder) -> None:
    """run.json, of a finished run with --qat."""
    steps = (
        StepRecord("embed", "clipdistill embed photos runs/a/embeddings", "0f" * 16, 12.5, ("e",)),
        StepRecord("distill dense", "clipdistill distill resnet18 photos e s", "1f" * 16, 4000, ()),
    )
    record = RunRecord(
        {"student": "resnet18", "qat": True, "image_size": 64},
        steps,
        {"clipdistill": "0.1.0", "torch": "2.9"},
        "a processor, 2 cores",
        "2026-11-24T13:02:11+00:00",
        "2026-11-24T14:05:00+00:00",
    )
    save_run(folder, record)


def make_text(folder: RunFolder, labels: Sequence[str], *, calibrated: bool = True) -> None:
    """text.npy and text.json."""
    vectors = normalized(np.random.default_rng(0).normal(size=(len(labels), DIM)))
    fitted = Calibration(
        logits=LogitScale(50.0),
        threshold=0.4,
        method="labels",
        model="student",
        images=60,
        ece_before=0.2,
        ece_after=0.05,
        coverage=0.9,
    )
    prompts = tuple((f"a photo of {label}",) for label in labels)
    calibration = fitted if calibrated else None
    text = TextEmbeddings(vectors, tuple(labels), prompts, ("{}",), TEACHER, calibration)
    save_text(folder.text, text)


def make_student(folder: RunFolder, name: str) -> None:
    """A student's card and metrics; nobody loads its weights."""
    path = folder.student(name)
    path.mkdir(parents=True)
    (path / WEIGHTS).write_bytes(b"weights")
    rows = [{"epoch": 0, "state": "dense", "val_cosine": 0.9}] if name != "dense" else []
    rows += [
        {"epoch": epoch, "loss": 0.5 / epoch, "val_cosine": 1 - 0.5 / epoch}
        for epoch in range(1, 6)
    ]
    write_metrics(path, rows)
    training = {
        "options": {"pretrained": True},
        "epochs": 5,
        "best": rows[-1],
        "train_images": 57,
        "parameters": 123456,
    }
    compression = INT8 if name == "int8" else None
    card = StudentCard("resnet18", DIM, Preprocess(64), TEACHER, training, compression)
    save_card(path, card)


def make_pictures(
    folder: RunFolder, labels: Sequence[str], a_class: int, names: Sequence[str]
) -> list[Picture]:
    """Drawn pictures on the disk (the same few again and again)."""
    drawn = [jpeg(draw(11, index).image) for index in range(12)]
    pictures = []
    folder.images.mkdir()
    for index in range(a_class * len(labels)):
        name = names[index] if index < len(names) else f"{index:05d}.jpg"
        path = folder.images / name
        path.write_bytes(drawn[index % len(drawn)])
        pictures.append(Picture(str(path), name, index // a_class))
    return pictures


def make_embeddings(folder: RunFolder, keys: Sequence[str]) -> None:
    """The store of embeddings, with one picture that could not be used."""
    store = EmbeddingStore(
        folder.embeddings, Header(TEACHER, "clip-retrieval", "float16", normalized=True)
    )
    vectors = np.ones((len(keys), DIM), np.float16)
    store.append([Row(key, "", 1, 1) for key in keys], vectors)
    store.finish([Failure("broken.jpg", "cannot be decoded")])


def make_ledger(folder: RunFolder, labels: Sequence[str]) -> None:
    """What became of the URLs of a download."""
    ledger = Ledger(folder.images)
    rows = []
    for index, label in enumerate(labels):
        url, prompt = f"https://example.org/{index}", f"a photo of {label}"
        by = {
            "license": "CC BY 4.0",
            "license_url": "https://creativecommons.org/licenses/by/4.0/",
            "attribution": f"Author {index}",
        }
        name = f"{index:05d}.jpg"
        rows += [
            LedgerRow(url, name, OK, sha256=str(index), prompt=prompt, **by),
            LedgerRow(f"{url}b", name, DUPLICATE, sha256=str(index), prompt=prompt),
            LedgerRow(f"{url}c", "", FAILED, "http: 404", 404, prompt=prompt),
        ]
    rows.append(LedgerRow("https://example.org/no", "", REFUSED, "robots: reserved", prompt="x"))
    ledger.add(rows)
    ledger.finish()


def make_measured(
    folder: RunFolder, labels: Sequence[str], pictures: Sequence[Picture], *, labelled: bool
) -> None:
    """evaluation.json and predictions.json: the teacher is always right, students often."""
    truth = [picture.truth or 0 for picture in pictures]
    names = [("hf-hub:some/teacher (8-d)", "torch", "teacher", 0.0)]
    names += [(str(folder.student("dense")), "torch", "student", 0.1)]
    names += [(str(folder.export("int8", "onnxruntime")), "onnxruntime", "student", 0.2)]
    rows, said = [], []
    for model, runtime, role, wrong in names:
        chance = random.Random(7)
        told = [chance.randrange(len(labels)) if chance.random() < wrong else t for t in truth]
        ranked = tuple(_ranked(one, len(labels), chance) for one in told)
        cosine = tuple(0.7 + 0.3 * chance.random() for _ in truth)
        said.append(ModelPredictions(model, runtime, role, ranked, cosine))
        rows.append(_evaluation(model, runtime, role, labels, told, truth, labelled))
    result = Evaluation(tuple(rows), "the teacher", labelled, len(truth), (), ())
    save_measurement(folder.evaluation, result)
    known = [p if labelled else Picture(p.path, p.key, None) for p in pictures]
    save_predictions(folder.predictions, Predictions(tuple(labels), tuple(known), tuple(said)))


def _ranked(best: int, count: int, chance: random.Random) -> tuple[tuple[int, float], ...]:
    share = 0.5 + chance.random() / 2
    return ((best, share), ((best + 1) % count, (1 - share) / 2), ((best + 2) % count, 0.0))


def _evaluation(
    model: str,
    runtime: str,
    role: str,
    labels: Sequence[str],
    told: Sequence[int],
    truth: Sequence[int],
    labelled: bool,
) -> ModelEvaluation:
    counts = np.zeros((len(labels), len(labels)), int)
    np.add.at(counts, (truth, told), 1)
    share = float(np.mean(np.array(told) == truth))
    right = dict(zip(labels, (np.diagonal(counts) / counts.sum(axis=1)).tolist(), strict=True))
    return ModelEvaluation(
        model=model,
        runtime=runtime,
        role=role,
        accuracy=share if labelled else None,
        top5=share if labelled else None,
        agreement=share,
        cosine=0.9,
        confidence=0.8,
        size_mb=1.5 if runtime == "torch" else 0.5,
        latency_ms=2.0,
        images=len(truth),
        per_class=right if labelled else {},
        counts=dict(zip(labels, counts.sum(axis=0).tolist(), strict=True)),
        confusion=counts.tolist() if labelled else [],
        labels=list(labels),
    )


def make_benchmark(folder: RunFolder, labelled: bool) -> None:
    """benchmark.json: two students in ONNX Runtime, a teacher, and one that failed."""
    share = 0.9 if labelled else None
    common = {
        "device": "cpu",
        "precision": "fp32",
        "throughput": {"1": 300.0, "8": 900.0},
        "latency_p90_ms": 4.0,
        "peak_mb": 300.0,
        "accuracy": share,
        "agreement": 0.9,
        "cosine": 0.9,
        "images": 20,
    }
    rows = (
        BenchmarkRow(
            "hf-hub:some/teacher", "torch", role="teacher", size_mb=10.0, latency_ms=20.0, **common
        ),
        BenchmarkRow(
            str(folder.export("dense", "onnxruntime")),
            "onnxruntime",
            role="student",
            size_mb=1.5,
            latency_ms=3.0,
            round_ms=(3.0, 3.1, 2.9),
            **common,
        ),
        BenchmarkRow(
            str(folder.export("int8", "onnxruntime")),
            "onnxruntime",
            role="student",
            size_mb=0.5,
            latency_ms=1.0,
            round_ms=(1.0, 1.1, 0.9),
            **common | {"precision": "int8"},
        ),
        BenchmarkRow("trt/int8.onnx", "openvino", reason="it went away"),
    )
    result = Benchmark(
        rows=rows,
        reference="the teacher",
        conclusions=("int8 is 3 times faster.",),
        images=20,
        labelled=20 if labelled else 0,
        batches=(1, 8),
        rounds=3,
        threads=None,
        machine="a processor, 2 cores",
        failures=(),
    )
    save_measurement(folder.benchmark, result)


def make_baseline(folder: RunFolder, labels: Sequence[str], labelled: bool) -> None:
    """baseline.json, with two prompts that overlap and one that no picture was given."""
    baseline = Baseline(
        teacher="hf-hub:some/teacher",
        labelled=labelled,
        images=60,
        labelled_images=20 if labelled else 0,
        accuracy=1.0 if labelled else None,
        confidence=0.9,
        margin=0.8,
        counts=dict.fromkeys(labels, 3),
        per_class={},
        overlapping=((labels[0], labels[1], 0.97),),
        empty=(labels[-1],),
    )
    save_measurement(folder.baseline, baseline)
