"""Reading a source that drops, stalls, breaks, vanishes and comes back."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
from scripted_source import BROKEN, GONE, STALL, Clock, Script, drain, frame

from clipdistill.core.errors import InputError
from clipdistill.show.live.frames import Source, fault, pictures
from clipdistill.show.live.handoff import Finished, Handoff
from clipdistill.show.live.reader import Patience, Reader


def read_all(script: Script, *, clock: Clock | None = None, **options):
    """Run a reader to its end, keeping every frame."""
    clock = clock or Clock()
    frames = Handoff(100)
    reader = Reader(script.source(), frames, clock=clock, sleep=clock.sleep, **options)
    reader.start()
    return reader, drain(frames)


# The handoff


def test_the_newest_frame_replaces_the_one_that_waits() -> None:
    handoff = Handoff(1, newest=True)
    assert all(handoff.put(number) for number in range(5))
    assert handoff.get() == 4
    assert handoff.dropped == 4
    assert handoff.get(0.01) is None


def test_every_frame_waits_for_its_turn() -> None:
    handoff = Handoff(2)
    giver = threading.Thread(target=lambda: [handoff.put(n) for n in range(50)] and None)
    giver.start()
    assert [handoff.get(5) for _ in range(50)] == list(range(50))
    giver.join(5)
    assert handoff.dropped == 0


def test_an_error_comes_after_what_was_given_before_it() -> None:
    handoff = Handoff(3)
    handoff.put(1)
    handoff.finish(ValueError("broken"))
    assert handoff.get() == 1
    with pytest.raises(ValueError, match="broken"):
        handoff.get()


def test_a_taker_that_leaves_frees_the_giver() -> None:
    handoff = Handoff(1)
    handoff.put(1)
    accepted: list[bool] = []
    giver = threading.Thread(target=lambda: accepted.append(handoff.put(2)))
    giver.start()
    handoff.cancel()
    giver.join(5)
    assert accepted == [False]
    with pytest.raises(Finished):
        handoff.get()


# Ends


def test_a_file_ends() -> None:
    reader, got = read_all(Script([frame(1), frame(2)], live=False))
    assert [int(one.pixels[0, 0, 0]) for one in got] == [1, 2]
    assert (reader.read, reader.broken, reader.lost) == (2, 0, False)
    assert reader.ended == "scripted has ended"


def test_a_file_that_ends_early_says_so() -> None:
    script = Script([frame()] * 3, live=False)
    script.frames = 10
    reader, _ = read_all(script)
    assert reader.ended == "scripted ended after 3 of 10 frames"


def test_a_source_that_cannot_be_opened_is_an_error_at_once() -> None:
    script = Script(None)
    frames = Handoff()
    Reader(script.source(), frames).start()
    with pytest.raises(InputError, match="nothing there"):
        drain(frames)
    assert script.opened == 1


def test_an_unforeseen_error_is_raised_where_frames_are_got() -> None:
    def explode():
        raise ZeroDivisionError("in the driver")

    frames = Handoff()
    Reader(Script([frame(), explode]).source(), frames).start()
    with pytest.raises(ZeroDivisionError):
        drain(frames)


# Broken frames and other sizes


def test_broken_frames_are_counted_and_skipped() -> None:
    odd = [BROKEN, np.zeros((4, 4), np.uint8), np.zeros((0, 4, 3), np.uint8), np.zeros((4, 4, 3))]
    reader, got = read_all(Script([frame(1), *odd, frame(2)], live=False))
    assert [int(one.pixels[0, 0, 0]) for one in got] == [1, 2]
    assert reader.broken == 4
    assert reader.problems[0] == "frame 2: cannot be decoded"
    assert "of shape (4, 4)" in reader.problems[1]


def test_frames_may_change_their_size() -> None:
    _, got = read_all(Script([frame(1), frame(2, (16, 4)), frame(3)], live=False))
    assert [one.pixels.shape for one in got] == [(6, 8, 3), (4, 16, 3), (6, 8, 3)]


def test_a_camera_that_gives_only_broken_frames_counts_as_gone() -> None:
    clock = Clock()

    def broken_after_a_second():
        clock.sleep(1)
        return BROKEN

    script = Script([frame(), *[broken_after_a_second] * 50], [frame(), STALL])
    frames = Handoff(4)
    patience = Patience(stall=10, retries=1)
    reader = Reader(script.source(), frames, clock=clock, sleep=clock.sleep, patience=patience)
    reader.start()
    assert frames.get(5) is not None
    assert frames.get(5) is not None  # of the second connection
    assert reader.broken == 11
    script.released.set()
    reader.stop()


def test_what_is_no_frame() -> None:
    assert fault(frame()) == ""
    assert fault(None) != ""
    assert fault(np.zeros((4, 4, 4), np.uint8)) != ""


# Vanishing and coming back


def test_a_vanished_camera_comes_back() -> None:
    clock = Clock()
    script = Script([frame(1), GONE], None, None, [frame(2), frame(3), GONE])
    reader, got = read_all(script, clock=clock, patience=Patience(retries=3))
    assert [int(one.pixels[0, 0, 0]) for one in got] == [1, 2, 3]
    assert reader.reconnects == 1
    # Each attempt waits twice as long as the one before; after a reconnection they start again.
    assert clock.slept == [0.5, 1, 2, 0.5, 1, 2]
    assert reader.lost
    assert reader.ended == "scripted vanished and did not come back (3 attempts)"


def test_the_note_shows_that_it_is_lost() -> None:
    notes: list[str] = []
    frames = Handoff(4)
    script = Script([frame(), GONE], None, [frame(), GONE], None)
    reader = Reader(
        script.source(),
        frames,
        patience=Patience(retries=2),
        sleep=lambda seconds: notes.append(reader.note),
    )
    reader.start()
    drain(frames)
    assert notes[:2] == [
        "scripted vanished; attempt 1 of 2 in 0.5 s",
        "scripted is still gone; attempt 2 of 2 in 1 s",
    ]
    assert notes[2] == "scripted vanished; attempt 1 of 2 in 0.5 s"  # it had come back
    assert reader.note == ""


def test_waiting_is_bounded() -> None:
    patience = Patience()
    waits = [patience.delay(attempt) for attempt in range(1, 11)]
    assert waits[:4] == [0.5, 1, 2, 4]
    assert max(waits) == 30
    assert patience.delay(10_000) == 30


def test_no_retries() -> None:
    reader, got = read_all(Script([frame(), GONE]), patience=Patience(retries=0))
    assert len(got) == 1
    assert reader.ended == "scripted vanished"


# Stalls


def test_a_stalled_camera_is_left_and_opened_again() -> None:
    clock = Clock()
    script = Script([frame(1), STALL], [frame(2), GONE])
    frames = Handoff(4)
    reader = Reader(
        script.source(), frames, clock=clock, sleep=clock.sleep, patience=Patience(retries=1)
    )
    reader.start()
    assert int(frames.get(5).pixels[0, 0, 0]) == 1

    def watch() -> None:
        clock.now += 1
        reader.check()

    got = drain(frames, watch)
    assert [int(one.pixels[0, 0, 0]) for one in got] == [2]
    assert script.opened >= 2
    assert reader.reconnects == 1
    script.released.set()  # the thread that was left behind wakes, and does no harm
    assert reader.lost


def test_a_file_that_stalls_ends() -> None:
    clock = Clock()
    script = Script([frame(1), STALL], live=False)
    frames = Handoff(4)
    reader = Reader(script.source(), frames, clock=clock)
    reader.start()

    def watch() -> None:
        clock.now += 1
        reader.check()

    assert len(drain(frames, watch)) == 1
    assert (reader.lost, reader.ended) == (True, "scripted gives no frames")
    script.released.set()


def test_a_slow_taker_is_no_stall() -> None:
    clock = Clock()
    frames = Handoff(1)
    reader = Reader(Script([frame()] * 5, live=False).source(), frames, clock=clock)
    reader.start()
    deadline = time.monotonic() + 10
    while reader.read < 2 and time.monotonic() < deadline:
        time.sleep(0.005)
    clock.now += 100  # the reader waits for room
    reader.check()
    assert len(drain(frames)) == 5
    assert not reader.lost


# Pace


def test_a_file_plays_at_its_own_speed() -> None:
    clock = Clock()
    _, got = read_all(Script([frame()] * 5, live=False, fps=10), clock=clock, paced=True)
    assert [round(one.at, 6) for one in got] == [0, 0.1, 0.2, 0.3, 0.4]
    assert clock.slept == pytest.approx([0.1] * 4)


def test_a_camera_is_never_slowed() -> None:
    clock = Clock()
    read_all(Script([frame()] * 5, fps=10), clock=clock, paced=True, patience=Patience(retries=0))
    assert clock.slept == []


def test_a_stream_that_turns_out_to_be_live_is_not_made_to_wait() -> None:
    script = Script([frame()] * 50)
    frames = Handoff(2)  # as for a file
    source = Source("stream", script.open)
    reader = Reader(source, frames, patience=Patience(retries=0))
    reader.start()
    deadline = time.monotonic() + 10
    while not reader.ended and time.monotonic() < deadline:
        time.sleep(0.005)
    got = drain(frames)
    assert len(got) == 2
    assert frames.dropped == 48
    assert got[0].live


def test_stop_lets_go_of_the_source() -> None:
    played = []
    script = Script([frame] * 100_000)
    source = script.source()
    opened = source.open

    def remember():
        played.append(opened())
        return played[-1]

    frames = Handoff(1, newest=True)
    reader = Reader(type(source)("scripted", remember, live=True), frames)
    reader.start()
    assert frames.get(5) is not None
    reader.stop()
    assert played[0].closed


# Folders of pictures


def test_pictures_of_a_folder(tmp_path) -> None:
    from PIL import Image

    for number in (1, 2):
        Image.new("RGB", (10, 8), (number, 0, 0)).save(tmp_path / f"{number}.png")
    (tmp_path / "3.png").write_bytes(b"no picture")
    frames = Handoff(4)
    reader = Reader(pictures(tmp_path, at_least=8), frames)
    reader.start()
    assert [tuple(one.pixels[0, 0]) for one in drain(frames)] == [(1, 0, 0), (2, 0, 0)]
    assert reader.broken == 1
    assert reader.ended.endswith("has ended")
