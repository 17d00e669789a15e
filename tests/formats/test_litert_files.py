"""Strangers' .tflite files: verified before a runtime reads them."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipdistill.core.errors import FormatError, InputError
from clipdistill.formats import litert
from clipdistill.formats.classifier import OnnxCard
from clipdistill.formats.litert import MEMBER, append_card, network_size, read_litert
from clipdistill.formats.litert_wire import CUSTOM, DELEGATE, check_network
from clipdistill.images.preprocess import Preprocess
from clipdistill.models.open import open_embedder

flatbuffers = pytest.importorskip("flatbuffers")
SIDE, DIM = 4, 3


def network(
    *, operator: int = 22, custom: str = "", tensor: int = 0, shape=(1, DIM), side: int = SIDE
) -> bytes:
    """A network of one operator, RESHAPE unless given, with a constant of 8 bytes.

    Args:
        operator: number of the operator.
        custom: name of a custom operator.
        tensor: number of its input.
        shape: shape of its output.
        side: side of the input.
    """
    builder = flatbuffers.Builder(0)

    def table(fields: list[tuple[int, str, object]], count: int) -> int:
        builder.StartObject(count)
        for number, kind, value in fields:
            if kind == "offset":
                builder.PrependUOffsetTRelativeSlot(number, value, 0)
            else:
                getattr(builder, f"Prepend{kind}Slot")(number, value, 0)
        return builder.EndObject()

    def vector(values: list[int], kind: str = "UOffsetTRelative") -> int:
        builder.StartVector(4, len(values), 4)
        for value in reversed(values):
            getattr(builder, f"Prepend{kind}")(value)
        return builder.EndVector()

    name = builder.CreateString(custom) if custom else 0
    code = table(
        [(0, "Int8", min(operator, 127)), (3, "Int32", operator)]
        + ([(1, "offset", name)] if name else []),
        4,
    )
    constant = table([(0, "offset", builder.CreateByteVector(bytes(8)))], 3)
    buffers = [table([], 3), constant]
    tensors = []
    for sides, kind, buffer in (
        ((1, 3, side, side), 0, 0),
        (shape, 0, 0),
        ((2,), 2, 1),
    ):
        numbers = vector(list(sides), "Int32")
        fields = [(0, "offset", numbers), (1, "Int8", kind), (2, "Uint32", buffer)]
        tensors.append(table(fields, 10))
    ins, outs = vector([tensor, 2], "Int32"), vector([1], "Int32")
    node = table([(1, "offset", ins), (2, "offset", outs)], 14)
    graph_in, graph_out = vector([0], "Int32"), vector([1], "Int32")
    listed, nodes = vector(tensors), vector([node])
    graph = table([(n, "offset", v) for n, v in enumerate((listed, graph_in, graph_out, nodes))], 6)
    codes, graphs, stored = vector([code]), vector([graph]), vector(buffers)
    model = table(
        [(0, "Uint32", 3), (1, "offset", codes), (2, "offset", graphs), (4, "offset", stored)], 8
    )
    builder.Finish(model, file_identifier=b"TFL3")
    return bytes(builder.Output())


def card() -> OnnxCard:
    return OnnxCard(
        "student",
        "test_resnet",
        DIM,
        Preprocess(SIDE, (0.5,) * 3, (0.5,) * 3),
        None,
        target="litert",
    )


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    append_card(path, card())
    return path


def test_what_was_written_is_read(tmp_path: Path) -> None:
    data = network()
    found, read = read_litert(written(tmp_path / "a.tflite", data))
    assert (read, found) == (data, card())
    assert found.target == "litert"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (network(operator=CUSTOM, custom="FlexMatMul"), "custom operator 'FlexMatMul'"),
        (network(operator=DELEGATE), "a delegate"),
        (network(operator=119), "operator 119"),  # WHILE
        (network(tensor=9), "does not exist"),
        (network(shape=(-1, DIM)), "shape"),
        (network(shape=(1 << 20, 1 << 20)), "shape"),
    ],
)
def test_what_is_refused(tmp_path: Path, data: bytes, words: str) -> None:
    path = written(tmp_path / "a.tflite", data)
    with pytest.raises(FormatError, match=words):
        read_litert(path)
    with pytest.raises(FormatError, match=r"clipdistill export"):
        open_embedder(str(path))


def test_files_of_other_kinds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.tflite"
    with pytest.raises(InputError, match="no such LiteRT file"):
        read_litert(path)
    path.write_bytes(network())
    with pytest.raises(FormatError, match="no clipdistill metadata"):
        read_litert(path)
    for other in (b"", b"not a network at all"):
        path.write_bytes(other)
        with pytest.raises(FormatError, match="not a readable LiteRT file"):
            read_litert(path)
    written(path, network())
    monkeypatch.setattr(litert, "MAX_FILE_BYTES", 100)
    with pytest.raises(FormatError, match="at most 2 GiB"):
        read_litert(path)


@pytest.mark.parametrize(
    ("text", "kind", "words"),
    [
        ("{", zipfile.ZIP_STORED, "metadata is damaged"),
        ("[]", zipfile.ZIP_STORED, "one object of texts"),
        ('{"a": 1}', zipfile.ZIP_STORED, "one object of texts"),
        ("{}", zipfile.ZIP_STORED, "clipdistill"),
        ("{}", zipfile.ZIP_DEFLATED, "compressed or too large"),
    ],
)
def test_damaged_metadata(tmp_path: Path, text: str, kind: int, words: str) -> None:
    path = tmp_path / "a.tflite"
    path.write_bytes(network())
    with zipfile.ZipFile(path, "a", kind) as archive:
        archive.writestr(MEMBER, text)
    with pytest.raises(FormatError, match=words):
        read_litert(path)


GOOD = network()


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), max_size=8),
    st.integers(0, len(GOOD)),
)
def test_damaged_networks_are_refused_or_harmless(changes: list[tuple[int, int]], cut: int) -> None:
    """No bytes raise anything but a FormatError, and truncation is always found."""
    data = bytearray(GOOD)
    for at, value in changes:
        data[at] = value
    try:
        check_network(Path("a.tflite"), bytes(data))
        check_network(Path("a.tflite"), bytes(data)[:cut])
    except FormatError:
        pass


def test_truncated_networks_are_refused() -> None:
    for cut in range(len(GOOD) - 8):
        with pytest.raises(FormatError):
            check_network(Path("a.tflite"), GOOD[:cut])


class TestInTheRuntime:
    """What LiteRT itself is given."""

    def test_a_network_of_another_shape(self, tmp_path: Path) -> None:
        pytest.importorskip("ai_edge_litert", reason="needs clipdistill[litert]")
        path = written(tmp_path / "a.tflite", network(side=2))
        with pytest.raises(FormatError, match=r"cannot read it|does not fit its metadata"):
            open_embedder(str(path))

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
    def test_damaged_networks_do_not_end_the_process(self, tmp_path: Path) -> None:
        """What passes the check opens, or raises a FormatError."""
        pytest.importorskip("ai_edge_litert", reason="needs clipdistill[litert]")
        random = np.random.default_rng(0)
        for number in range(60):
            data = bytearray(GOOD)
            for at in random.integers(0, len(data), 2):
                data[at] = random.integers(0, 256)
            path = written(tmp_path / f"{number}.tflite", bytes(data))
            child = os.fork()
            if not child:
                try:
                    open_embedder(str(path))
                    os._exit(0)
                except FormatError:
                    os._exit(3)
                except BaseException:
                    os._exit(4)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) in (0, 3), data.hex()


def test_the_network_ends_where_the_archive_begins(tmp_path: Path) -> None:
    assert network_size(written(tmp_path / "a.tflite", GOOD)) == len(GOOD)
    assert json.loads(zipfile.ZipFile(tmp_path / "a.tflite").read(MEMBER))
