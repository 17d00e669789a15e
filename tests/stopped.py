"""Stop something with a real signal, in a process of its own, always at the same moment."""

from __future__ import annotations

import importlib
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import killing
from clipdistill import cli


@dataclass(frozen=True)
class Moment:
    """After the `count`-th call of a method."""

    module: str
    kind: str
    method: str
    count: int

    def signals(self, number: int) -> None:
        """Send the signal to this process at this moment."""
        kind = getattr(importlib.import_module(self.module), self.kind)
        real, calls = getattr(kind, self.method), []

        def method(*args: Any, **more: Any) -> Any:
            calls.append(1)
            result = real(*args, **more)
            if len(calls) == self.count:
                os.kill(os.getpid(), number)
            return result

        setattr(kind, self.method, method)


def as_command(
    action: Callable[..., Any], arguments: tuple[Any, ...], log: Path, moment: Moment, number: int
) -> None:
    """For another process: do it as the command line does, and stop it at a moment."""
    import torch

    torch.set_num_threads(1)
    written = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(written, 1)
    os.dup2(written, 2)
    # A shell's background jobs ignore Ctrl-C, and so would this one.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    moment.signals(number)
    sys.exit(cli.run_script(lambda: action(*arguments)))


def check_stopped(
    action: Callable[..., Any], arguments: tuple[Any, ...], log: Path, moment: Moment, number: int
) -> None:
    """Stop it at the moment; it ends with the signal's exit code and one sentence."""
    with killing.running(as_command, action, arguments, log, moment, number) as process:
        process.join(120)
        assert process.exitcode == 128 + number, log.read_text()
    by = "" if number == signal.SIGINT else f" by {signal.Signals(number).name}"
    assert f"stopped{by}; run the same command again to go on" in log.read_text()
    assert "Traceback" not in log.read_text()
