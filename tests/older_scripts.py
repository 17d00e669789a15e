"""Running the older scripts in this process: PyTorch is slow to import."""

from __future__ import annotations

import io
import runpy
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[1] / "scripts"
NAMES = sorted(path.stem for path in SCRIPTS.glob("[!_]*.py"))


@dataclass(frozen=True)
class Done:
    """What a command printed, and its exit code."""

    returncode: int
    stdout: str
    stderr: str


def run(script: str, *args: object) -> Done:
    """Run one script as its command would."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(SCRIPTS)
        patch.setattr(sys, "argv", [script, *map(str, args)])
        patch.setattr(sys, "stdout", out)
        patch.setattr(sys, "stderr", err)
        with pytest.raises(SystemExit) as caught:
            runpy.run_path(str(SCRIPTS / f"{script}.py"), run_name="__main__")
    return Done(int(caught.value.code or 0), out.getvalue(), err.getvalue())
