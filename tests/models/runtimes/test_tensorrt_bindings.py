"""Our code and its stand-in for TensorRT against NVIDIA's real bindings of several versions."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from clipdistill.deploy import tensorrt_build
from clipdistill.models.runtimes import tensorrt
from clipdistill.show.checks import importing
from fake_tensorrt import VERSIONS, Gpu, fake_tensorrt
from real_tensorrt import WHEELS, compiler, surface

Surface = dict[str, Any]
FOUND = sorted(WHEELS.glob("*.whl"))
OURS = (tensorrt_build, tensorrt, importing)
MADE = ("Logger", "Builder", "OnnxParser", "Runtime")
"""Classes that our code makes itself; TensorRT returns the others."""
pytestmark = [
    pytest.mark.interop,
    pytest.mark.skipif(not FOUND, reason="no bindings of TensorRT here; run: make interop"),
    pytest.mark.skipif(compiler() is None, reason="needs cc, nm and readelf"),
]


@pytest.fixture(scope="module", params=FOUND or [None], ids=lambda path: path and path.name[:40])
def real(request, tmp_path_factory: pytest.TempPathFactory) -> Surface:
    return surface(request.param, tmp_path_factory.mktemp("bindings"))


@pytest.fixture
def fake(real: Surface) -> Surface:
    """The stand-in for the same version."""
    return listed(fake_tensorrt(real["__version__"], Gpu()))


def listed(module: Any) -> Surface:
    """What is in a stand-in, in the form of `real_tensorrt.surface`."""
    names = [name for name in vars(module) if not name.startswith("_") and name != "seen"]
    return {name: entry(getattr(module, name)) for name in names}


def entry(value: Any) -> dict[str, Any]:
    if hasattr(value, "__members__"):
        return {"enum": {name: int(one) for name, one in value.__members__.items()}}
    if not isinstance(value, type):
        return {"constant": value.name}
    found: dict[str, Any] = {}
    if value.__name__ in MADE:
        found["__init__"] = signature(value.__init__)
    for name in dir(value):
        one = getattr(value, name)
        if name.startswith("_"):
            continue
        if callable(one) and not hasattr(one, "__members__"):
            found[name] = signature(one)
        elif isinstance(one, property):
            found[name] = {"property": one.fset is not None}
        elif inspect.ismemberdescriptor(one):
            found[name] = {"property": True}
        else:
            found[name] = entry(one)
    return {"class": found}


def signature(function: Any) -> dict[str, Any]:
    """The parameters of a method without self, and what it returns; "" for anything."""
    known = inspect.signature(function)
    returned = str(known.return_annotation).replace(" | None", "").replace("None", "")
    return {
        "method": list(known.parameters)[1:],
        "returns": {"Any": "", "tuple[int, ...]": "Dims"}.get(returned, returned),
    }


def signatures(doc: str) -> list[tuple[list[str], int, str]]:
    """The signatures in pybind11's docstring: parameters without self, the required ones, result.

    (They are one per overload.)
    """
    found = []
    for arguments, result in re.findall(r"\w+\((self: .*)\) -> (.*)", doc):
        names = re.findall(r"(?:^|, )(\w+): ", arguments)[1:]
        short = result.rpartition(".")[2].removeprefix("nvinfer1::I")  # a slip of 8.6's
        found.append((names, len(names) - arguments.count(" = "), short))
    return found


def members(found: Surface) -> Iterator[tuple[str, ...]]:
    """Everything that can be named: ("Builder",), ("Builder", "create_network") ..."""
    for name, one in found.items():
        if isinstance(one, dict) and name != "starts":
            yield (name,)
            yield from ((name, member) for member in one.get("class", one.get("enum", ())))


def at(found: Surface, path: tuple[str, ...]) -> Any:
    outer = found[path[0]]
    return outer if len(path) == 1 else outer.get("class", outer.get("enum"))[path[1]]


def named_by_our_code() -> set[tuple[str, ...]]:
    """The dotted names that begin with `trt.`, at most two deep."""
    found = set()
    for module in OURS:
        for node in ast.walk(ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8"))):
            text = ast.unparse(node) if isinstance(node, ast.Attribute) else ""
            if re.fullmatch(r"trt(\.[A-Za-z]\w*)+", text):
                found.add(tuple(text.split(".")[1:3]))
    return found


def test_a_version_has_what_the_stand_in_has_and_lacks_what_it_lacks(real, fake) -> None:
    """Every name that our code or the stand-in of any version uses is in both, or in neither."""
    used = named_by_our_code()
    for version in VERSIONS:
        used |= set(members(listed(fake_tensorrt(version, Gpu()))))
    assert ("NetworkDefinitionCreationFlag",) in used
    there, here = set(members(real)), set(members(fake))
    assert {path for path in used if (path in there) != (path in here)} == set()


def test_names_mean_the_same(real: Surface, fake: Surface) -> None:
    """Enums have the same values, methods take the same arguments, properties can be set."""
    for path in members(fake):
        ours, theirs = at(fake, path), at(real, path)
        where = ".".join(path)
        if isinstance(ours, int):
            assert theirs == ours, where
        elif "property" in ours:
            assert theirs["property"] or not ours["property"], where
        elif "method" in ours:
            mine, known = ours["method"], signatures(theirs["method"])
            fitting = [
                result
                for names, least, result in known
                if least <= len(mine) and names[: len(mine)] == mine
            ]
            assert fitting, (where, mine, known)
            assert ours["returns"] in ("", *fitting), (where, ours["returns"], known)
        elif "constant" in ours:
            assert theirs == ours, where


def test_it_fails_to_start_as_the_real_one_does(real: Surface) -> None:
    gpu = Gpu()
    gpu.supported = False
    trt = fake_tensorrt(real["__version__"], gpu)
    for name in ("Builder", "Runtime"):
        with pytest.raises(TypeError) as caught:
            getattr(trt, name)(trt.Logger(trt.Logger.ERROR))
        assert real["starts"][name] == f"TypeError: {caught.value}"
