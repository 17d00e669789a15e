"""Patterns that name several files: globs, and braces as in shard-{000000..001000}.tar."""

from __future__ import annotations

import fnmatch
import glob
import itertools
import re
from collections.abc import Sequence

from ..core.errors import InputError

MOST_NAMES = 500_000
"""Names that braces may stand for."""

_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d{1,18})\.\.(\d{1,18})")


def is_pattern(text: str) -> bool:
    """Whether a path has braces or the characters of a glob."""
    return any(character in text for character in "{}") or glob.has_magic(text)


def split_pattern(text: str) -> tuple[str, list[str]]:
    """Split a pattern into the folder before its first special character, and the names below."""
    parts = text.split("/")
    first = next(place for place, part in enumerate(parts) if is_pattern(part))
    return "/".join(parts[:first]) or ("/" if text.startswith("/") else "."), parts[first:]


def expand_braces(text: str, shown: str = "") -> list[str]:
    """Return the names that braces stand for, in order.

    {000..012} counts, with as many digits as written; {cats,dogs} lists.

    Args:
        text: the names with braces.
        shown: what messages name; default: `text`.

    Raises:
        InputError: they are malformed, or stand for more than `MOST_NAMES` names.
    """
    pieces = _BRACES.split(text)
    shown = shown or text
    if any(character in piece for piece in pieces[::2] for character in "{}"):
        raise InputError(f"{shown}: its braces do not match. {_EXPECTED}")
    choices = [_choices(shown, piece) if n % 2 else [piece] for n, piece in enumerate(pieces)]
    count = 1
    for some in choices:
        count *= len(some)
    if count > MOST_NAMES:
        raise InputError(
            f"{shown}: its braces stand for {count:,} names, the limit is {MOST_NAMES:,}. Name the "
            "folder, or use a glob such as shard-*.tar."
        )
    return ["".join(one) for one in itertools.product(*choices)]


_EXPECTED = "Expected a range such as {000000..001000}, or a list such as {train,more}."


def _choices(text: str, inside: str) -> Sequence[str]:
    found = _RANGE.fullmatch(inside)
    if found:
        first, last = int(found[1]), int(found[2])
        if last < first:
            raise InputError(f"{text}: the range {{{inside}}} ends before it begins. {_EXPECTED}")
        width = len(found[1]) if found[1].startswith("0") else 0
        return _Numbers(first, last, width)
    if "," in inside:
        return inside.split(",")
    raise InputError(f"{text}: {{{inside}}} is no range and no list. {_EXPECTED}")


class _Numbers(Sequence[str]):
    """The numbers of a range as texts, made when they are read."""

    def __init__(self, first: int, last: int, width: int) -> None:
        self._numbers, self._width = range(first, last + 1), width

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: int) -> str:  # type: ignore[override]
        """One number."""
        return f"{self._numbers[index]:0{self._width}d}"


def fits(names: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether the names of a path fit those of a glob; "**" stands for any number of folders."""
    if not pattern:
        return not names
    if pattern[0] == "**":
        return any(fits(names[start:], pattern[1:]) for start in range(len(names) + 1))
    return bool(names) and _fits(names[0], pattern[0]) and fits(names[1:], pattern[1:])


def may_fit_below(names: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether something in the folder of these names may fit."""
    for name, part in itertools.zip_longest(names, pattern):
        if name is None or part == "**":
            return True
        if part is None or not _fits(name, part):
            return False
    return False


def _fits(name: str, part: str) -> bool:
    return fnmatch.fnmatchcase(name, part) and (part.startswith(".") or not name.startswith("."))
