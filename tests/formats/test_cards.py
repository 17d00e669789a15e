"""The cards that travel with artefacts: round trips, and what is refused."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipdistill.core.errors import FormatError, MismatchError
from clipdistill.core.zeroshot import LogitScale
from clipdistill.formats.cards import StudentCard, TeacherCard
from clipdistill.images.preprocess import Preprocess

finite = st.floats(allow_nan=False, allow_infinity=False)
preprocesses = st.builds(Preprocess, size=st.integers(1, 8192))
teachers = st.builds(
    TeacherCard,
    model_name=st.text(),
    pretrained=st.text(),
    fingerprint=st.none() | st.text(),
    dim=st.integers(1, 1 << 20),
    logits=st.builds(LogitScale, finite, st.none() | finite),
    preprocess=preprocesses,
)
plain = st.recursive(
    st.none() | st.booleans() | st.integers() | finite | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
students = st.builds(
    StudentCard,
    arch=st.text(),
    dim=st.integers(1, 1 << 20),
    preprocess=preprocesses,
    teacher=st.none() | teachers,
    training=st.dictionaries(st.text(), plain, max_size=3),
)


@given(teachers)
def test_teacher_round_trip(card):
    assert TeacherCard.from_json(json.loads(json.dumps(card.to_json()))) == card


@given(students)
def test_student_round_trip(card):
    teacher = None if card.teacher is None else card.teacher.shipped()
    read = StudentCard.from_json(json.loads(json.dumps(card.to_json())))
    assert read == replace(card, teacher=teacher)


TEACHER = TeacherCard("ViT", "tag", "f" * 32, 8, LogitScale(), Preprocess(32))
STUDENT = StudentCard("resnet18", 8, Preprocess(32), TEACHER, {"epochs": 1})


@pytest.mark.parametrize(
    "change",
    [
        {"dim": 0},
        {"dim": -1},
        {"dim": "many"},
        {"dim": float("inf")},
        {"dim": None},
        {"dim": 10**9},
        {"logit_scale": float("nan")},
        {"logit_scale": None},
        {"logit_bias": float("inf")},
        {"logit_bias": "x"},
        {"preprocess": None},
        {"preprocess": {"size": 3}},
    ],
)
def test_bad_teacher_cards_are_refused(change):
    with pytest.raises(FormatError):
        TeacherCard.from_json({**TEACHER.to_json(), **change})


@pytest.mark.parametrize("card", [TEACHER, STUDENT])
def test_missing_fields_are_named(card):
    optional = {"logit_bias"}
    for name in set(card.to_json()) - optional:
        value = {key: kept for key, kept in card.to_json().items() if key != name}
        with pytest.raises(FormatError, match=name):
            type(card).from_json(value)


@given(st.sampled_from([TEACHER, STUDENT]), st.data())
@settings(max_examples=100)
def test_any_damage_is_a_card_or_a_format_error(card, data):
    value = card.to_json()
    name = data.draw(st.sampled_from(sorted(value)))
    value[name] = data.draw(plain | st.floats())
    with contextlib.suppress(FormatError):
        type(card).from_json(value)


@pytest.mark.parametrize("value", [None, [], 3, "x"])
def test_something_else_than_an_object(value):
    for kind in (TeacherCard, StudentCard):
        with pytest.raises(FormatError):
            kind.from_json(value)


def test_one_space_is_told_from_another():
    TEACHER.check_same(TEACHER, "a", "b")
    other = TeacherCard("ViT", "other", "0" * 32, 8, LogitScale(), Preprocess(32))
    with pytest.raises(MismatchError, match=r"text\.npy.*ViT/tag \(8-d\).*emb.*ViT/other.*--model"):
        TEACHER.check_same(other, "text.npy", "emb")


def test_unknown_teachers_are_compared_by_dimension():
    def unknown(dim: int) -> TeacherCard:
        return TeacherCard("unknown", "", None, dim, LogitScale(), Preprocess(224))

    TEACHER.check_same(unknown(8), "a", "b")
    unknown(8).check_same(TEACHER, "a", "b")
    with pytest.raises(MismatchError, match="16-d"):
        TEACHER.check_same(unknown(16), "a", "b")
