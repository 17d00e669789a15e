"""Prompt files: UTF-8 text, a prompt a line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..core.errors import FormatError, InputError


@dataclass(frozen=True)
class Prompts:
    """The classes of a zero-shot classifier.

    Attributes:
        labels: one a class, in order of first appearance.
        prompts: for each label its prompts (one or more).
    """

    labels: tuple[str, ...]
    prompts: tuple[tuple[str, ...], ...]


def parse_prompts(text: str) -> Prompts:
    """Parse prompt lines; blank lines and lines starting with `#` are skipped.

    `label<TAB>prompt` names the class; several lines with one label are averaged.  Without a tab
    the prompt is its own label.  A line that stands twice counts once.
    """
    classes: dict[str, list[str]] = {}
    # Not str.splitlines, which also cuts at form feeds and U+2028, that editors do not show.
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
        InputError: no such file, or no prompt in it.
        FormatError: not UTF-8 text.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise InputError(
            f"{path}: no readable prompts file ({error.strerror or error}). "
            "Expected a text file, a prompt a line."
        ) from error
    except UnicodeDecodeError as error:
        raise FormatError(
            f"{path}: prompts should be UTF-8 text, but byte {error.start} "
            f"(0x{error.object[error.start]:02x}) is not. "
            f"Convert it, for example: iconv -f latin1 -t utf-8 {path}"
        ) from error
    prompts = parse_prompts(text)
    if not prompts.labels:
        raise InputError(f"{path}: no prompts in it. Write one a line, such as: a photo of a dog")
    return prompts
