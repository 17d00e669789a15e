"""The errors of clipdistill, and the exit code each gives on the command line.

    ClipDistillError            1   any other error that clipdistill raises on purpose
    ├── InputError              3   what the user named is missing, empty or unreadable
    │   ├── ImageError          3   one image cannot be used (a row in the report, rarely fatal)
    │   └── OptionError         2   an option has a wrong value, or one that is needed is missing
    ├── FormatError             4   a file is not what it should be: truncated, another kind, newer
    ├── MismatchError           5   two artefacts do not belong together: teacher, dimension, labels
    ├── ModelNotFoundError      6   unknown model name, or its weights cannot be fetched
    ├── OutputError             7   the output cannot be written: permissions, disk full, in the way
    ├── TrainingError           8   training cannot continue: a loss that is not finite
    ├── MissingExtraError       9   an optional part of clipdistill is not installed
    └── ServiceError           10   a service fails, refuses, or sends an unexpected answer

Exit code 2 is a wrong command line; 130, 143 and 129 are Ctrl-C, SIGTERM and SIGHUP.  Every message
names what was expected, what was found, and what to do about it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any


class ClipDistillError(Exception):
    """Base of every error that clipdistill raises on purpose."""

    exit_code = 1

    def __reduce__(self) -> tuple[Any, ...]:
        """Keep message and attributes on the way to another process, whatever `__init__` takes."""
        return _restored, (type(self), self.args, self.__dict__)


def _restored(
    kind: type[ClipDistillError], arguments: tuple[Any, ...], attributes: dict[str, Any]
) -> ClipDistillError:
    error = kind.__new__(kind, *arguments)
    error.__dict__.update(attributes)
    return error


class InputError(ClipDistillError):
    """What the user named is missing, empty or unreadable."""

    exit_code = 3


class ImageError(InputError):
    """One image cannot be used; `str(error)` is the reason for the report."""


class OptionError(InputError):
    """An option has a wrong value, or one that is needed is missing: a wrong command line."""

    exit_code = 2


class FormatError(ClipDistillError):
    """A file is not what it should be: truncated, of another kind, of a newer version."""

    exit_code = 4


class MismatchError(ClipDistillError):
    """Two artefacts do not belong together."""

    exit_code = 5


class ModelNotFoundError(ClipDistillError):
    """A model name is unknown, or its weights cannot be fetched."""

    exit_code = 6


class OutputError(ClipDistillError):
    """An output cannot be written."""

    exit_code = 7


class TrainingError(ClipDistillError):
    """Training cannot continue."""

    exit_code = 8


class MissingExtraError(ClipDistillError):
    """An optional dependency is not installed."""

    exit_code = 9

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the package {package!r}, which is not installed. "
            f"Run: pip install 'clipdistill[{extra}]'"
        )


class ServiceError(ClipDistillError):
    """A service on the network fails, refuses, or sends an unexpected answer.

    Attributes:
        status: HTTP status of its answer; 0 when there was no answer.
    """

    exit_code = 10

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, at most 200 characters, or its type's name."""
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:200]


def did_you_mean(name: str, known: Iterable[str], most: int = 4) -> str:
    """Return ' Did you mean a, b?' for the names nearest to `name`, or an empty string."""
    near = difflib.get_close_matches(name, list(known), n=most, cutoff=0.5)
    return f" Did you mean {', '.join(near)}?" if near else ""
