"""Prompt files: UTF-8 text with one prompt per line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..core.errors import InputError
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
    tab the prompt is its own label.  A repeated line counts once.
    """
    classes: dict[str, list[str]] = {}
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
        FormatError: it is not UTF-8 text.
    """
    prompts = parse_prompts(
        read_text(path, "the prompts file", "a text file with one prompt per line")
    )
    if not prompts.labels:
        raise InputError(
            f"{path}: there are no prompts in it. Write one per line, such as: a photo of a dog"
        )
    return prompts
