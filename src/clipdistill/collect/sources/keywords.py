"""What a prompt asks for, as words, for sources that know no embeddings."""

from __future__ import annotations

import re

from ...core.errors import InputError

_OPENING = re.compile(
    r"^(?:(?:(?:a|an|the)\s+)?(?:[\w-]+\s+)?(?:photo|photograph|picture|image)s?\s+of\s+)?"
    r"(?:(?:a|an|the)\s+)?",
    re.IGNORECASE,
)
_OPERATORS = str.maketrans(dict.fromkeys('"~*?\\/:!|&()[]{}^<>+=#@$', " "))
"""What search engines may take for an operator (CirrusSearch's and Elasticsearch's syntax)."""
_STOP = frozenset(
    (
        "a",
        "an",
        "the",
        "of",
        "on",
        "in",
        "at",
        "by",
        "to",
        "and",
        "or",
        "with",
        "for",
        "from",
        "is",
        "are",
        "its",
        "this",
        "that",
        "some",
        "into",
    )
)


def keywords(prompt: str) -> str:
    """A prompt as a query for a keyword search.

    An opening article or "a photo of a" goes, since such searches want every word to be found; so
    do characters that a search engine may take for operators.

    Raises:
        InputError: nothing is left.
    """
    text = _OPENING.sub("", prompt.strip()) or prompt
    words = [word.strip("-.,;'") for word in text.translate(_OPERATORS).split()]
    if not any(words):
        raise InputError(f"The prompt {prompt!r} has no words to search for.")
    return " ".join(word for word in words if word)


def content_words(prompt: str) -> tuple[str, ...]:
    """The words that carry a prompt's meaning, as `caption_words` spells them."""
    every = caption_words(_OPENING.sub("", prompt.strip()) or prompt)
    return tuple(dict.fromkeys(word for word in every if word not in _STOP)) or tuple(every)


def caption_words(text: str) -> list[str]:
    """The words of a text, lower case, an English plural as its singular."""
    return [_singular(word) for word in re.findall(r"\w+", text.lower())]


def is_cased(word: str) -> bool:
    """Whether a word is of a script that puts blanks between words (Latin, Greek, Cyrillic ...).

    Words of other scripts (Chinese, Thai) have to be looked for inside longer runs.
    """
    return word.isascii() or word.upper() != word.lower()


def _singular(word: str) -> str:
    plain = len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is"))
    return word[:-1] if plain else word
