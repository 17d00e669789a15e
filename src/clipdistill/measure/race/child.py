"""The parent's side of a worker: starts it, sends requests, and reports why it ended."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...core.errors import ClipDistillError


class Child:
    """A process with one model in one runtime.

    Args:
        model: argument of `open_embedder`.
        threads: processor threads that it may use; None: the runtime's own number.
    """

    def __init__(self, model: str, threads: int | None) -> None:
        self.model = model
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `close`
        self._process = subprocess.Popen(
            [sys.executable, "-m", "clipdistill.measure.race.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=environment(threads),
            text=True,
            encoding="utf-8",
        )

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Send a request and wait for the answer; see `send` and `receive`."""
        self.send(do, **arguments)
        return self.receive()

    def send(self, do: str, **arguments: Any) -> None:
        """Send a request; `receive` must follow before the next request."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it ended: `receive` raises the reason
            self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
            self._process.stdin.flush()

    def receive(self) -> dict[str, Any]:
        """Wait for the answer.

        Raises:
            ClipDistillError: the answer is an error, or the process ended.
        """
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise ClipDistillError(f"its process ended ({self._reason()})")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise ClipDistillError(str(answer["error"]))
        return answer

    def time(self, batch: int, runs: int) -> list[float]:
        """Return the seconds of each of `runs` passes with `batch` images."""
        return [float(second) for second in self.ask("time", batch=batch, runs=runs)["seconds"]]

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._errors.close()

    def _reason(self) -> str:
        code = self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return f"exit code {code}{': ' + lines[-1][:200] if lines else ''}"


@contextlib.contextmanager
def children(models: list[str], threads: int | None) -> Iterator[list[Child]]:
    """Start a child for each model; all are ended when the block ends."""
    started: list[Child] = []
    try:
        for model in models:
            started.append(Child(model, threads))
        yield started
    finally:
        for child in started:
            child.close()


def environment(threads: int | None = None) -> dict[str, str]:
    """Return this process's environment for a child that imports this package.

    Args:
        threads: processor threads that the child may use; None: its libraries' own number.
    """
    source = str(Path(__file__).parents[3])
    paths = [source, *filter(None, [os.environ.get("PYTHONPATH")])]
    own = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    if threads is not None:
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
            own[name] = str(threads)
    return own
