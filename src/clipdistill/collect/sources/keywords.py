"""The words of a prompt, for sources without embeddings."""

from __future__ import annotations

import re

from ...core.errors import InputError

_OPENING = re.compile(
    r"^(?:(?:(?:a|an|the)\s+)?(?:[\w-]+\s+)?(?:photo|photograph|picture|image)s?\s+of\s+)?"
    r"(?:(?:a|an|the)\s+)?",
    re.IGNORECASE,
)
_OPERATORS = str.maketrans(dict.fromkeys('"~*?\\/:!|&()[]{}^<>+=#@$', " "))
"""Operators of search engines (the syntax of CirrusSearch and Elasticsearch)."""
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
    """Convert a prompt to a query for a keyword search.

    An opening article or "a photo of a" is removed, because such searches require every word.
    Characters that a search engine may parse as operators are removed too.

    Raises:
        InputError: no word is left.
    """
    text = _OPENING.sub("", prompt.strip()) or prompt
    words = [word.strip("-.,;'") for word in text.translate(_OPERATORS).split()]
    if not any(words):
        raise InputError(f"The prompt {prompt!r} has no words to search for. Change the prompt.")
    return " ".join(word for word in words if word)


def content_words(prompt: str) -> tuple[str, ...]:
    """The words of a prompt without stop words, in the form of `caption_words`."""
    every = caption_words(_OPENING.sub("", prompt.strip()) or prompt)
    return tuple(dict.fromkeys(word for word in every if word not in _STOP)) or tuple(every)


def caption_words(text: str) -> list[str]:
    """The words of a text in lower case, English plurals as singulars."""
    return [_singular(word) for word in re.findall(r"\w+", text.lower())]


def is_cased(word: str) -> bool:
    """Whether a word is of a script with blanks between words (Latin, Greek, Cyrillic ...).

    Words of other scripts (Chinese, Thai) have to be searched for inside longer strings.
    """
    return word.isascii() or word.upper() != word.lower()


def _singular(word: str) -> str:
    plain = len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is"))
    return word[:-1] if plain else word
