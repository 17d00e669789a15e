"""One honest line about a student."""

from __future__ import annotations

from dataclasses import replace

import pytest

from clipdistill.formats.measurements import Evaluation, ModelEvaluation
from clipdistill.measure.assessment import Evidence, assess, assess_evaluation, chance

EVEN = {name: 0.1 for name in "abcdefghij"}
GOOD = Evidence(
    images=500,
    classes=10,
    agreement=0.97,
    accuracy=0.89,
    teacher_accuracy=0.90,
    answers=dict.fromkeys("abcdefghij", 50),
    teacher_answers=dict.fromkeys("abcdefghij", 50),
    true_shares=EVEN,
    train_images=9000,
)


def unlabelled(**changes: object) -> Evidence:
    return replace(GOOD, accuracy=None, teacher_accuracy=None, true_shares={}, **changes)


def test_within_chance_of_the_teacher_is_as_good():
    assert assess(GOOD).level == "good"
    assert assess(replace(GOOD, accuracy=0.9 - 0.8 * chance(0.9, 500))).level == "good"
    assert assess(replace(GOOD, accuracy=0.92)).line.startswith("As good as the teacher: 92.0%")
    assert assess(replace(GOOD, accuracy=0.84)).level == "care"
    assert assess(replace(GOOD, accuracy=0.984, teacher_accuracy=1.0)).level == "good"
    assert assess(replace(GOOD, accuracy=0.97, teacher_accuracy=1.0)).level == "care"
    assert assess(unlabelled()).level == "good"
    assert assess(unlabelled(agreement=0.85)).level == "care"


@pytest.mark.parametrize("labelled", [True, False])
def test_a_student_that_always_gives_one_answer_is_unusable(labelled):
    answers = {"a": 480, "b": 20}
    evidence = (
        replace(GOOD, answers=answers, accuracy=0.12)
        if labelled
        else unlabelled(answers=answers, agreement=0.14)
    )
    found = assess(evidence)
    assert found.level == "unusable"
    assert "it answers 'a' for 96%" in found.line
    assert "Try a pretrained student" in found.line


def test_one_answer_is_right_where_nearly_all_images_are_of_one_class():
    many = {"a": 480, "b": 20}
    evidence = replace(
        GOOD, answers=many, teacher_answers=many, true_shares={"a": 0.96, "b": 0.04}, accuracy=0.97
    )
    assert assess(evidence).level == "good"


def test_no_better_than_the_commonest_class_is_unusable():
    shares = {"a": 0.6, **dict.fromkeys("bcdefghij", 0.4 / 9)}
    spread = {"a": 300, "b": 200}
    found = assess(replace(GOOD, accuracy=0.61, answers=spread, true_shares=shares))
    assert found.level == "unusable"
    assert "commonest class (60%)" in found.line


def test_a_weak_teacher_comes_before_the_student():
    found = assess(replace(GOOD, accuracy=0.30, teacher_accuracy=0.31))
    assert found.level == "unusable"
    assert "the teacher itself is right on only 31%" in found.line
    assert "better teacher" in found.line


def test_far_from_the_teacher():
    assert assess(replace(GOOD, accuracy=0.4)).level == "unusable"
    assert assess(unlabelled(agreement=0.5)).level == "unusable"


def test_few_images_are_the_first_thing_to_change():
    found = assess(replace(GOOD, accuracy=0.7, train_images=100))
    assert found.level == "care"
    assert "100 for 10 classes are few" in found.line


def test_nothing_measured_says_so():
    assert assess(Evidence(0, 10)).level == "unknown"
    assert assess(Evidence(50, 10)).level == "unknown"
    assert "--labelled" in assess(Evidence(50, 10)).line


def test_one_class_has_no_commonest_answer():
    evidence = Evidence(50, 1, 1.0, 1.0, 1.0, {"a": 50}, {"a": 50}, {"a": 1.0})
    assert assess(evidence).level == "good"


def test_chance_shrinks_with_images_and_is_never_zero():
    assert chance(0.9, 500) == pytest.approx(0.0268, abs=1e-3)
    assert chance(1.0, 100) > 0
    assert chance(0.5, 0) > 0


def test_an_evaluation_is_assessed_by_its_last_student():
    def row(model: str, role: str, right: int) -> ModelEvaluation:
        confusion = [[right, 50 - right], [50 - right, right]]
        return ModelEvaluation(
            model=model,
            runtime="torch",
            role=role,
            accuracy=right / 50,
            top5=1.0,
            agreement=0.9,
            cosine=0.9,
            confidence=0.9,
            size_mb=1.0,
            latency_ms=1.0,
            images=100,
            per_class={},
            counts={"a": 50, "b": 50},
            confusion=confusion,
            labels=["a", "b"],
        )

    rows = (row("t", "teacher", 48), row("s", "student", 48), row("s.onnx", "student", 38))
    evaluation = Evaluation(rows, "t", True, 100, (), ())
    assert assess_evaluation(evaluation, 5000).level == "care"
    assert assess_evaluation(evaluation, 5000, "s").level == "good"
    assert assess_evaluation(replace(evaluation, rows=rows[:1])) is None
