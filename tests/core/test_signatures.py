"""Options of dataclasses as keywords: what Python callers and the command line see."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

import clipdistill
from clipdistill import InputError
from clipdistill.core.signatures import NameOrPath, call, documentation, public
from clipdistill.verbs import VERBS


@dataclass(frozen=True, kw_only=True)
class Base:
    """Shared.

    Attributes:
        seed: of everything.
        speed: how fast;
            two lines.
    """

    seed: int = 0
    speed: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Options(Base):
    """How.

    Attributes:
        kind: which one.
        names: several texts.
        seed: of the order.
    """

    kind: Literal["small", "large"] = "small"
    names: tuple[str, ...] = ()
    where: Path | None = None
    seed: int = 7


def work(
    model: NameOrPath,
    out: Path,
    /,
    *others: NameOrPath,
    options: Options = Options(),
    flag: bool = False,
    more: Sequence[str] = (),
) -> tuple[object, ...]:
    """Do it.

    Args:
        model: what.
        out: where to.
        others: also these.
        options: how.
        flag: whether.
        more: words.
    """
    return model, out, others, options, flag, more


verb = public(work)


def test_texts_and_paths_are_the_same():
    expected = ("a/m", Path("out"), ("x", "y"), Options(where=Path("w")), False, ())
    assert verb(Path("a/m"), "out", "x", Path("y"), where="w") == expected
    assert verb("a/m", Path("out"), Path("x"), "y", where=Path("w")) == expected


def test_fields_are_keywords_and_one_text_stands_for_several():
    result = verb("m", "o", kind="large", names="one", more=["a", "b"], speed=2, seed=np.int64(3))
    assert result[3] == Options(kind="large", names=("one",), speed=2.0, seed=3)
    assert type(result[3].speed) is float
    assert type(result[3].seed) is int
    assert result[5] == ("a", "b")


def test_only_what_was_given_reaches_the_dataclass():
    """`run` tells given options from defaults."""

    class Remembering(Options):
        given: tuple[str, ...] = ()

        def __new__(cls, **given):
            self = object.__new__(cls)
            object.__setattr__(self, "given", tuple(given))
            return self

    def function(*, options: Options = Remembering()) -> Options:
        """With options: see.

        Args:
            options: how.
        """
        return options

    assert public(function)(seed=1).given == ("seed",)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"kind": "smal"}, r"kind='smal': expected one of 'small', 'large'. Did you mean small\?"),
        ({"seed": "3"}, "seed='3': expected a whole number"),
        ({"seed": True}, "seed=True: expected a whole number"),
        ({"speed": "fast"}, "speed='fast': expected a number"),
        ({"flag": 1}, "flag=1: expected True or False"),
        ({"names": 3}, "names=3: expected a text or a list of texts"),
        ({"where": 3}, "where=3: expected a path"),
        ({"where": ""}, "where='': expected the path of a file or folder"),
        ({"seed": None}, "seed=None: expected a whole number"),
    ],
)
def test_a_wrong_value_is_refused_with_the_option(given, message):
    with pytest.raises(InputError, match=message):
        verb("m", "o", **given)


def test_an_unknown_option_is_named_with_the_nearest():
    with pytest.raises(TypeError, match=r"work\(\) has no option 'sed'. Did you mean seed"):
        verb("m", "o", sed=1)
    with pytest.raises(TypeError, match="missing a required argument: 'out'"):
        verb("m")


def test_the_documentation_has_every_option_once_with_its_own_text():
    text = documentation(work)
    assert "    seed: of the order.\n    speed: how fast;\n        two lines.\n" in text
    assert "of everything" not in text
    assert "options:" not in text
    assert text.index("kind: which one.") < text.index("flag: whether.")


def test_call_gathers_positional_only_arguments():
    assert call(work, ("x",), {"model": "m", "out": Path("o")})[:3] == ("m", Path("o"), ("x",))


@pytest.mark.parametrize("one", VERBS, ids=lambda one: one.name)
def test_every_verb_takes_keywords_and_explains_each(one):
    function = getattr(clipdistill, one.function_name)
    signature = inspect.signature(function)
    assert "options" not in signature.parameters
    for name, parameter in signature.parameters.items():
        assert f"\n    {name}: " in function.__doc__, name
        hints = str(parameter.annotation)
        assert "Path" not in hints or "str" in hints, name


def test_common_options_exist():
    for one in VERBS:
        known = inspect.signature(getattr(clipdistill, one.function_name)).parameters
        assert set(one.common) <= set(known), one.name


def test_help_starts_with_the_verbs():
    lines = clipdistill.__doc__.splitlines()
    listed = [line.split()[0] for line in lines if line.startswith("    ")]
    assert listed == [one.function_name for one in VERBS]


def test_own_options_come_before_inherited_ones():
    names = list(inspect.signature(verb).parameters)
    assert [name for name in names if name in ("kind", "names", "where", "seed", "speed")] == [
        "kind",
        "names",
        "where",
        "seed",
        "speed",
    ]
