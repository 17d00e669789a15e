"""Numbers out of range: one check for all verbs, before anything is done."""

from __future__ import annotations

import math

import pytest

import clipdistill
from clipdistill import cli
from clipdistill.core.errors import InputError
from clipdistill.core.ranges import RANGES, Range
from clipdistill.core.signatures import call, options_of, plain_hint
from clipdistill.verbs import VERBS


def numbers() -> list[tuple[str, str]]:
    """Every option of every verb that is a number."""
    return [
        (verb.name, option.name)
        for verb in VERBS
        for option in options_of(verb.function())
        if plain_hint(option.hint) in (int, float)
    ]


def functions() -> dict[str, object]:
    return {verb.name: verb.function() for verb in VERBS}


@pytest.mark.parametrize(("verb", "name"), numbers())
def test_every_number_of_every_verb_has_a_range(verb, name):
    below = RANGES[name].least - 1
    flag = "--" + name.replace("_", "-")
    for value in (int(below) if below == int(below) else below, math.nan, math.inf):
        with pytest.raises(InputError, match=rf"^{flag} {value}: expected {RANGES[name]}\.$"):
            call(functions()[verb], (), {name: value})


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.name)
def test_every_default_is_in_its_range(verb):
    for option in options_of(verb.function()):
        if plain_hint(option.hint) in (int, float) and isinstance(option.default, int | float):
            assert option.default in RANGES[option.name], option.name


@pytest.mark.parametrize("size", ["0", "-5"])
def test_the_command_line_names_the_option_and_the_range(tmp_path, capsys, size):
    (tmp_path / "photos").mkdir()
    out = tmp_path / "out"
    assert cli.main(["embed", str(tmp_path / "photos"), str(out), f"--batch-size={size}"]) == 2
    assert f"--batch-size {size}: expected 1 or more." in capsys.readouterr().err
    assert not out.exists()


def test_python_callers_get_the_same_sentence(tmp_path):
    with pytest.raises(InputError, match=r"^--top-k 0: expected 1 or more\.$"):
        clipdistill.predict("model.onnx", "a.jpg", top_k=0)


@pytest.mark.parametrize(
    ("range_", "words", "inside", "outside"),
    [
        (Range(1), "1 or more", [1, 10**9], [0, -5, math.nan, math.inf]),
        (Range(0, above=True), "above 0", [1e-9, 5], [0, -1]),
        (Range(0, 1), "0 to 1", [0, 0.5, 1], [-0.1, 1.1]),
        (Range(0, 1, below=True), "0 to below 1", [0, 0.999], [1]),
        (Range(0, 0.5, above=True), "above 0, to 0.5", [0.5], [0, 0.6]),
    ],
)
def test_ranges(range_, words, inside, outside):
    assert str(range_) == words
    assert all(value in range_ for value in inside)
    assert not any(value in range_ for value in outside)
