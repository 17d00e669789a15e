"""Locks of outputs, between real processes."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from pathlib import Path

import pytest

import killing
from clipdistill.core.errors import OutputError
from clipdistill.core.locks import LOCK, locked, locked_files
from clipdistill.core.progress import reporting
from clipdistill.core.reporters import PlainReporter


def take(path: Path, kind: str) -> contextlib.AbstractContextManager[None]:
    return locked(path, "distill") if kind == "folder" else locked_files("distill", path)


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_another_process_is_refused_until_the_first_is_dead(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "out" / "it"
    with killing.holding(path, tmp_path / "ready", folder=kind == "folder") as process:
        with pytest.raises(OutputError) as raised, take(path, kind):
            pass
        assert str(raised.value) == (
            f"{path}: `clipdistill distill` (process {process.pid}) is writing it now. Wait until "
            "it has finished, or choose another output."
        )
        killing.kill(process)
        assert list((tmp_path / "out").rglob(f"{LOCK}*"))
        with take(path, kind):
            pass
    assert not list((tmp_path / "out").rglob("*")) or kind == "folder"
    assert not list(tmp_path.rglob(f"{LOCK}*"))


def test_who_has_patience_waits_and_says_for_whom(tmp_path: Path, capsys) -> None:
    path = tmp_path / "pixels"
    with killing.holding(path, tmp_path / "ready", folder=True) as process:
        with pytest.raises(OutputError, match="writing it now"), locked(path, "distill", 0.1):
            pass
        threading.Timer(0.5, killing.kill, [process]).start()
        with reporting(PlainReporter()), locked(path, "distill", 60):
            assert not process.is_alive()
    waits = f"{path}: waiting for `clipdistill distill` (process {process.pid}), which is writing"
    assert capsys.readouterr().err.count(waits) == 1


def test_files_side_by_side_have_locks_of_their_own(tmp_path: Path) -> None:
    with killing.holding(tmp_path / "a.onnx", tmp_path / "ready", folder=False):
        with locked_files("export", tmp_path / "b.onnx", None):
            pass
        with (
            pytest.raises(OutputError, match=r"a\.onnx"),
            locked_files("export", tmp_path / "b.onnx", tmp_path / "a.onnx"),
        ):
            pass
        with locked_files("export", tmp_path / "b.onnx"):
            pass


def test_a_verb_may_lock_what_its_caller_has_and_a_thread_may_not(tmp_path: Path) -> None:
    found: list[str] = []

    def other() -> None:
        try:
            with locked(tmp_path, "distill"):
                found.append("locked")
        except OutputError as error:
            found.append(str(error))

    with locked(tmp_path, "quickstart"):
        with locked(tmp_path / ".." / tmp_path.name, "run"):
            pass
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert "`clipdistill quickstart`" in found[0]
    other()
    assert found[1] == "locked"


def test_a_lock_that_was_removed_while_it_was_taken_is_taken_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fcntl

    real, calls = fcntl.flock, []

    def flock(handle: int, how: int) -> None:
        calls.append(how)
        if len(calls) == 1:
            (tmp_path / LOCK).unlink()  # as by a process that ends
        real(handle, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    with locked(tmp_path, "distill"):
        assert (tmp_path / LOCK).read_text().startswith(f"distill {os.getpid()} ")
        assert len(calls) == 2


@pytest.mark.parametrize("kind", ["folder", "file"])
@pytest.mark.parametrize("lacking", ["fcntl", "locks"])
def test_without_locks_everything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, lacking: str
) -> None:
    """As on Windows, and on network disks."""
    real = os.open

    def no_folders(path: os.PathLike[str], *arguments: int, **more: int) -> int:
        if os.path.isdir(path):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *arguments, **more)

    def no_locks(handle: int, how: int) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "open", no_folders)
    if lacking == "fcntl":
        monkeypatch.setitem(sys.modules, "fcntl", None)
    else:
        monkeypatch.setattr("fcntl.flock", no_locks)
    path = tmp_path / "it"
    with take(path, kind), take(path, kind):
        assert not list(tmp_path.rglob(f"{LOCK}*"))


def test_folders_that_stay_empty_are_removed_again(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), locked(tmp_path / "a" / "b", "distill"):
        raise ZeroDivisionError
    assert not (tmp_path / "a").exists()
    with locked(tmp_path / "a" / "b", "distill"):
        (tmp_path / "a" / "file").touch()
    assert [path.name for path in tmp_path.rglob("*")] == ["a", "file"]


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_a_place_that_cannot_be_written_to_is_named_as_usual(tmp_path: Path, kind: str) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(OutputError, match=r"(Cannot write|in the way).*(Choose|move)"),
        take(tmp_path / "file" / "it", kind),
    ):
        pass


def test_a_link_in_place_of_a_lock_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("mine")
    (tmp_path / LOCK).symlink_to("precious")
    with pytest.raises(OutputError, match="Cannot write"), locked(tmp_path, "distill"):
        pass
    assert (tmp_path / "precious").read_text() == "mine"
