"""Labels and times as they are shown."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipdistill.core.wording import shown_labels, timed


@pytest.mark.parametrize(
    ("label", "shown"),
    [
        ("a photo of a cat", "cat"),
        ("A photo of an empty sofa.", "empty sofa"),
        ("a photo of the Eiffel Tower", "Eiffel Tower"),
        ("a picture of cats", "cats"),
        ("an image of a dog", "dog"),
        ("cat", "cat"),
        ("a drawing of a cat", "a drawing of a cat"),  # says more than the class
        ("a photo of", "a photo of"),
        ("a photo of a photographer", "photographer"),
        ("", ""),
    ],
)
def test_a_common_template_is_not_shown(label: str, shown: str) -> None:
    assert shown_labels([label]) == {label: shown}


def test_labels_that_would_become_equal_are_shown_whole() -> None:
    same, other = ("a photo of a cat", "an image of a cat"), ("fish", "a photo of fish")
    labels = (*same, "a photo of a dog", *other)
    assert list(shown_labels(labels).values()) == [*same, "dog", *other]


parts = st.sampled_from(["a photo of ", "a picture of ", "an image of ", "a ", "the ", "cat", "."])


@given(st.lists(st.lists(parts, max_size=6).map("".join), unique=True))
def test_labels_never_become_equal(labels: list[str]) -> None:
    shown = shown_labels(labels)
    assert list(shown) == labels
    assert len(set(shown.values())) == len(labels)


def test_a_time_is_shown_with_the_spread_of_its_rounds() -> None:
    assert timed(0.358, (0.41, 0.339, 0.358)) == "0.36 (0.34 to 0.41)"
    assert timed(0.358, (0.358,)) == timed(0.358) == "0.36"
    assert timed(None) == "-"
