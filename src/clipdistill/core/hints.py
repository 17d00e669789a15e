"""Messages in the options of the command that was typed.

A message is written where something goes wrong, in the options of the verb that this code belongs
to.  Another verb, and an older script, may have the option under another name or not at all.  They
pass every message through `reworded` before it is shown.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from typing import Any, get_args, get_origin

from cyclopts import Parameter

from .signatures import KEYWORD, Option, options_of, plain_hint

OPTION = re.compile(r"(?<![\w/.-])--[a-z][\w-]*")
COMMAND = re.compile(r"`[^`]*`|(?:(?<=: )|^\s*)(?:clipdistill|trtexec|python3 -m) .*")
"""Commands as they can be typed: in backticks, after a colon, or on a line of their own."""
BRACKETS = re.compile(r" ?\([^()]*\)")
SENTENCE = re.compile(r"(?<=[.?!]) (?=[A-Z`-])")
NOTHING: Mapping[str, str] = {}


def option_names(function: Callable[..., Any]) -> set[str]:
    """The options of a verb as they are typed: {"--num-epochs", "--no-flip", ...}."""
    return {name for option in options_of(function) for name in _names(option)}


def _names(option: Option) -> list[str]:
    if option.kind is not KEYWORD:
        return []
    name = option.name.replace("_", "-")
    marks = get_args(option.hint)[1:] if get_origin(option.hint) is not None else ()
    given = [one.name for one in marks if isinstance(one, Parameter) and one.name]
    names = [name for one in given for name in ((one,) if isinstance(one, str) else one)]
    negative = [f"--no-{name}"] if plain_hint(option.hint) is bool else []
    return [*(names or [f"--{name}"]), *negative]


def reworded(
    text: str,
    options: Collection[str],
    words: Mapping[str, str] = NOTHING,
    renamed: Mapping[str, str] = NOTHING,
) -> str:
    """A message in the options of one command.

    Options are renamed, and hints that name an option which the command does not have are left out:
    words in brackets, what follows a semicolon, and whole sentences but the first, which says what
    happened.  Commands of `clipdistill` stay as they are.

    Args:
        text: the message.
        options: of the command, as they are typed.
        words: replaced before anything else.
        renamed: options that have another name here, beyond `_` for `-`.
    """
    for before, after in words.items():
        text = text.replace(before, after)
    return "\n".join(_line(line, options, renamed) for line in text.split("\n"))


def _line(line: str, options: Collection[str], renamed: Mapping[str, str]) -> str:
    first, *rest = (_sentence(one, options, renamed) for one in SENTENCE.split(line))
    return " ".join([first, *(one for one in rest if fits(one, options))])


def _sentence(sentence: str, options: Collection[str], renamed: Mapping[str, str]) -> str:
    both = re.compile(f"{COMMAND.pattern}|{OPTION.pattern}")
    sentence = both.sub(lambda found: _here(found[0], options, renamed), sentence)
    sentence = BRACKETS.sub(lambda found: found[0] if fits(found[0], options) else "", sentence)
    first, *rest = sentence.split("; ")
    kept = "; ".join([first, *(part for part in rest if fits(part, options))])
    end = sentence[-1:]
    return kept if kept.endswith(end) or end not in ".?!" else kept + end


def _here(found: str, options: Collection[str], renamed: Mapping[str, str]) -> str:
    """An option's name here; a command, and an option that is not here, as it is."""
    name = renamed.get(found, found)
    older = "--" + name[2:].replace("-", "_")
    return next((one for one in (name, older) if one in options), found)


def fits(text: str, options: Collection[str]) -> bool:
    """Whether a text names options of the command alone, its whole commands aside."""
    return all(option in options for option in OPTION.findall(COMMAND.sub("", text)))
