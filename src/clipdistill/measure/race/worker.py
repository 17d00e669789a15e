"""The child process of `benchmark`: one model in one runtime, controlled by lines of JSON.

In its own process, a model's peak memory can be measured, its runtime's threads do not run while
other models are timed, and a crash of the runtime affects no other model.  Run as `python -m
clipdistill.measure.race.worker`.  It reads requests from stdin and writes answers to stdout; what
libraries print goes to stderr.

    {"do": "open", "model", "device", "threads", "arch", "image_size"} -> description of the model
    {"do": "load", "path", "count"}           reads the images for timing: uint8 (count, S, S, 3)
    {"do": "time", "batch", "runs"}           -> {"seconds": [...]}
    {"do": "memory"}                          -> {"peak_bytes": int or null}
    {"do": "embed", "path", "count", "out"}   writes float32 (count, D) to the .npy `out`

Instead, an answer can be {"error": text}.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...core.errors import ClipDistillError, first_line
from ...formats.engine import load_engine_card
from ...formats.onnx_wire import read_onnx, sparse_share
from ...formats.student import is_student, load_card
from ...models.embedder import Embedder
from ...models.open import kind_of, open_embedder, split_runtime

EMBED_BATCH = 32


class Worker:
    """Answers requests about one model."""

    def __init__(self) -> None:
        self._embedder: Embedder | None = None
        self._pixels: NDArray[np.float32] = np.zeros((0,), np.float32)

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return the answer to a request."""
        actions: dict[str, Callable[..., dict[str, Any]]] = {
            "open": self._open,
            "load": self._load,
            "time": self._time,
            "memory": self._memory,
            "embed": self._embed,
        }
        return actions[request.pop("do")](**request)

    @property
    def embedder(self) -> Embedder:
        """The opened model."""
        assert self._embedder is not None, "the first request is `open`"
        return self._embedder

    def _open(
        self,
        model: str,
        device: str,
        threads: int | None,
        arch: str | None,
        image_size: int | None,
    ) -> dict[str, Any]:
        self._embedder = open_embedder(
            model, arch=arch, image_size=image_size, device=device, threads=threads
        )
        spec = self._embedder.spec
        return {
            "runtime": spec.runtime,
            "role": spec.role,
            "dim": spec.dim,
            "size_bytes": spec.size_bytes,
            "arch": spec.arch,
            "precision": spec.precision,
            "device": spec.device,
            "sparse": stored_sparsity(model),
            "preprocess": spec.preprocess.to_json(),
            "teacher": None if spec.teacher is None else spec.teacher.to_json(),
        }

    def _load(self, path: str, count: int) -> dict[str, Any]:
        self._pixels = self.embedder.spec.preprocess.normalize(self._read(path, 0, count))
        return {}

    def _time(self, batch: int, runs: int) -> dict[str, Any]:
        repeats = -(-batch // len(self._pixels))
        pixels = np.ascontiguousarray(np.concatenate([self._pixels] * repeats)[:batch])
        seconds = []
        for _ in range(runs):
            started = time.perf_counter()
            self.embedder.embed_images(pixels)
            seconds.append(time.perf_counter() - started)
        return {"seconds": seconds}

    def _memory(self) -> dict[str, Any]:
        return {"peak_bytes": peak_memory()}

    def _embed(self, path: str, count: int, out: str) -> dict[str, Any]:
        parts = [
            self.embedder.embed_pixels(self._read(path, start, min(EMBED_BATCH, count - start)))
            for start in range(0, count, EMBED_BATCH)
        ]
        np.save(out, np.concatenate(parts))
        return {}

    def _read(self, path: str, start: int, count: int) -> NDArray[np.uint8]:
        """Read images of a raw file; mapped, they would count as memory."""
        side = self.embedder.spec.preprocess.size
        each = side * side * 3
        values = np.fromfile(path, np.uint8, count * each, offset=start * each)
        return values.reshape(count, side, side, 3)


def stored_sparsity(model: str) -> float | None:
    """Return the share of a model's weights that are 2:4, 0 to 1; None when unknown."""
    name = split_runtime(model)[1]
    kind, path = kind_of(name), Path(name)
    if kind == "onnx":
        return sparse_share(path, read_onnx(path))
    if kind == "engine":
        return load_engine_card(path).stored_sparse
    if kind == "student" and path.is_dir() and is_student(path):
        compression = getattr(load_card(path), "compression", None)
        sparse = None if compression is None else compression.sparse
        return 0.0 if sparse is None else float(sparse.weights_share)
    return None


def peak_memory() -> int | None:
    """Return the largest resident set of this process so far, in bytes; None outside Linux.

    It is Linux's VmHWM, not ru_maxrss of getrusage, which is inherited from the parent.
    """
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return None
    for line in status.splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return None


def main() -> int:
    """Answer requests until stdin ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    worker = Worker()
    for line in sys.stdin:
        try:
            answer = worker.answer(json.loads(line))
        except ClipDistillError as error:
            answer = {"error": str(error)}
        except (RuntimeError, MemoryError, ValueError, OSError, TypeError) as error:
            # An error of the runtime, such as out of memory, becomes the reason in a row.
            answer = {"error": f"{type(error).__name__}: {first_line(error)}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
