"""Prompt files: text with one prompt per line."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from pathlib import Path

from ..core.errors import FormatError, InputError
from ..core.files import read_text


@dataclass(frozen=True)
class Prompts:
    """The classes of a zero-shot classifier.

    Attributes:
        labels: one per class, in order of first appearance.
        prompts: one or more per label.
    """

    labels: tuple[str, ...]
    prompts: tuple[tuple[str, ...], ...]


def parse_prompts(text: str) -> Prompts:
    """Parse prompt lines; blank lines and lines that start with `#` are skipped.

    `label<TAB>prompt` gives a prompt its label; several lines may have the same label.  Without a
    tab the prompt is its own label.  A repeated line counts once, whatever Unicode form its accents
    have: labels and prompts are in form NFC.
    """
    classes: dict[str, list[str]] = {}
    text = unicodedata.normalize("NFC", text)
    # Not str.splitlines, which also splits at form feeds and U+2028, invisible in editors.
    for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n"):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        label, tab, prompt = line.partition("\t")
        label, prompt = label.strip(), prompt.strip()
        if not label or (tab and not prompt):
            label = prompt = label or prompt
        known = classes.setdefault(label, [])
        if (prompt or label) not in known:
            known.append(prompt or label)
    return Prompts(tuple(classes), tuple(tuple(prompts) for prompts in classes.values()))


def load_prompts(path: Path) -> Prompts:
    """Load a prompt file.

    Raises:
        InputError: there is no such file, or no prompt in it.
        FormatError: it is neither UTF-8 text nor UTF-16 text with a byte order mark, or has NULs.
    """
    text = read_text(path, "the prompts file", "a text file with one prompt per line")
    if "\0" in text:
        raise FormatError(
            f"{path}: the prompts file should be UTF-8 text, but has NUL bytes. If it is UTF-16 "
            f"text, convert it, for example with: iconv -f utf-16le -t utf-8 {path}"
        )
    prompts = parse_prompts(text)
    if not prompts.labels:
        raise InputError(
            f"{path}: there are no prompts in it. Write one per line, such as: a photo of a dog"
        )
    return prompts
