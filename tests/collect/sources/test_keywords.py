"""Prompts as words, and licences as names."""

from __future__ import annotations

import pytest

from clipdistill.collect.sources.keywords import caption_words, content_words, keywords
from clipdistill.collect.sources.licenses import license_of, short_name
from clipdistill.core.errors import InputError


@pytest.mark.parametrize(
    ("prompt", "query"),
    [
        ("a photo of a red disc", "red disc"),
        ("an aerial photograph of the Alps", "Alps"),
        ("Photos of cats", "cats"),
        ("a dog", "dog"),
        ('insource:"x" -cat (or) [dog]', "insource x cat or dog"),
        ("a photo of", "photo of"),
        ("写真 of 猫", "写真 of 猫"),
    ],
)
def test_keywords_are_without_phrases_and_operators(prompt, query):
    assert keywords(prompt) == query


def test_a_prompt_without_words_is_an_error():
    with pytest.raises(InputError, match="no words"):
        keywords("?!")


def test_words_that_carry_the_meaning():
    assert content_words("a photo of the red discs on a table") == ("red", "disc", "table")
    assert content_words("some of this") == ("some", "of", "this")  # better than nothing
    assert caption_words("Two CATS, one glass; a bus") == ["two", "cat", "one", "glass", "a", "bus"]


def test_licences_get_their_short_names():
    assert license_of("https://creativecommons.org/licenses/by-nc/2.0/") == (
        "CC BY-NC 2.0",
        "https://creativecommons.org/licenses/by-nc/2.0/",
    )
    assert license_of("http://creativecommons.org/publicdomain/zero/1.0/")[0] == "CC0 1.0"
    assert license_of("https://creativecommons.org/publicdomain/mark/1.0/")[0] == (
        "Public Domain Mark 1.0"
    )
    assert license_of("https://example.org/terms") == ("", "https://example.org/terms")
    assert license_of("?") == ("", "")
    assert short_name("by-sa", "4.0") == "CC BY-SA 4.0"
    assert short_name("cc0", "1.0") == "CC0 1.0"
