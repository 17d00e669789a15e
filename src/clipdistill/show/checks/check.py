"""What a check of `doctor` finds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["works", "missing", "broken", "not tried"]


@dataclass(frozen=True)
class Check:
    """The state of one part.

    Attributes:
        part: name of the part: "train", "cuda", "disk" ...
        state: "works"; "missing": not there; "broken": there, but it cannot be used; "not tried".
        found: what was found, such as versions, or why the part cannot be used.
        gives: what the part is for.
        remedy: command or advice for a part that does not work; empty when it works.
    """

    part: str
    state: State
    found: str
    gives: str
    remedy: str = ""
