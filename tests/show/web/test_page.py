"""The web page of `demo --web`: in Chromium, and what its server answers to others."""

from __future__ import annotations

import base64
import contextlib
import http.client
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image

from browser import PHONE, launched, opened
from clipdistill.core.errors import InputError
from clipdistill.core.model_names import short_name
from clipdistill.core.zeroshot import Independent, judged
from clipdistill.formats.text import TextEmbeddings, save_text
from clipdistill.models.embedder import Embedder
from clipdistill.models.open import open_embedder
from clipdistill.models.recognizer import Recognizer
from clipdistill.pipeline.toy.world import draw
from clipdistill.show.predict import predict
from clipdistill.show.web.class_lists import ClassLists, Models, check_classes

pytest.importorskip("starlette")
from clipdistill.show.web import server
from clipdistill.show.web.server import running_page

KINDS = ("boat", "car", "cat", "house", "star")
HOSTILE = (
    "</script><script>window.hacked = 1</script>",
    "<img src=x onerror='window.hacked = 2'>",
    '"><b onmouseover="window.hacked = 3">${window.hacked = 4}{{value}}',
)
LONG = (
    "a photo of a small yellow fruit with one green leaf on top",
    "Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft",
    "تفاحة صفراء",
)
TOY = f"local-dir:{files('clipdistill.pipeline.toy') / 'toy_teacher'}"
ANSWERS = 10_000
"""Milliseconds in which an answer should be there."""


@pytest.fixture(scope="module")
def toy():
    """The toy teacher, loaded."""
    from clipdistill.models.teacher import load_teacher

    return load_teacher(TOY, device="cpu")


@pytest.fixture(scope="module")
def encode(toy):
    """Class names -> text embeddings."""

    def run(names):
        vectors = toy.embed_texts([f"a picture of a {name}" for name in names])
        prompts = tuple((name,) for name in names)
        return TextEmbeddings(vectors, tuple(names), prompts, ("a picture of a {}",), toy.card)

    return run


@pytest.fixture(scope="module")
def model() -> Embedder:
    """The toy teacher as a model: it serves as student and as teacher."""
    return open_embedder(TOY, device="cpu")


@pytest.fixture(scope="module")
def recognizer(model, encode) -> Recognizer:
    """The model with a few classes."""
    return Recognizer(model, encode(KINDS), own=False)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> dict[str, Path]:
    """Kind -> an image of it."""
    folder = tmp_path_factory.mktemp("drawn")
    for kind in KINDS:
        draw(5, 0, kind=kind).image.save(folder / f"{kind}.png")
    return {kind: folder / f"{kind}.png" for kind in KINDS}


@pytest.fixture(scope="module")
def chromium(drawn, tmp_path_factory):
    """A Chromium whose camera sees a boat."""
    film = tmp_path_factory.mktemp("film") / "camera.mjpeg"
    frame = io.BytesIO()
    Image.open(drawn["boat"]).resize((480, 480)).save(frame, "JPEG", quality=90)
    film.write_bytes(frame.getvalue() * 10)
    with launched(
        "--use-fake-ui-for-media-stream",
        "--use-fake-device-for-media-stream",
        f"--use-file-for-fake-video-capture={film}",
    ) as browser:
        yield browser


@pytest.fixture(scope="module")
def both(recognizer, encode, drawn):
    """The address of a page with student, teacher, text encoder and examples."""
    examples = [drawn["car"], drawn["star"], Path(__file__)]
    with running_page(recognizer, teacher=recognizer, encode=encode, examples=examples) as url:
        yield url


@pytest.fixture(scope="module")
def alone(recognizer):
    """The address of a page with a student alone."""
    with running_page(recognizer, threshold=0.317) as url:
        yield url


@contextlib.contextmanager
def visiting(chromium, url, **options):
    """A watched visit of the page, once it is ready; nothing may be wrong with it at the end."""
    with opened(chromium, url, **options) as seen:
        seen.page.set_default_timeout(ANSWERS)
        seen.page.wait_for_selector("#count:not(:empty)")
        yield seen
        assert seen.elsewhere == []
        assert seen.complaints == []
        assert seen.page.evaluate("window.hacked") is None


def upload(page, path: Path) -> None:
    page.locator("#file").set_input_files(path)


def chosen(page) -> list[str]:
    page.wait_for_selector("#cards .card")
    return page.locator(".best strong").all_inner_texts()


def predict_one(recognizer: Recognizer, path: Path) -> tuple[str, ...]:
    """The labels that an image has."""
    with Image.open(path) as image:
        pixels = recognizer.preprocess.to_pixels(image.convert("RGB"))
    shares = recognizer.probabilities(pixels[None])[0]
    return judged(shares, recognizer.labels, 5, recognizer.least(None))[1]


def use_classes(page, names) -> None:
    page.get_by_role("textbox", name="Classes").fill("\n".join(names))
    page.get_by_role("button", name="Use these classes").click()


def in_use(page, number: int) -> None:
    page.wait_for_selector(f"#class-note:has-text('{number} classes in use')")


def until(true: Callable[[], bool], page=None) -> None:
    """Wait; a browser's requests only pass while its page is given the time."""
    end = time.monotonic() + ANSWERS / 1000
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01) if page is None else page.wait_for_timeout(10)


GIVE = """([kind, name, data]) => {
  const bytes = Uint8Array.from(atob(data), (one) => one.charCodeAt(0));
  const given = new DataTransfer();
  given.items.add(new File([bytes], name));
  const about = { bubbles: true, cancelable: true };
  stage.dispatchEvent(kind === "drop"
    ? new DragEvent(kind, { ...about, dataTransfer: given })
    : new ClipboardEvent(kind, { ...about, clipboardData: given }));
}"""


class TestInChromium:
    """What a visitor does."""

    @pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
    def test_upload_is_answered_by_both(self, chromium, both, drawn, dark):
        with visiting(chromium, both, dark=dark, size=PHONE if dark else (1280, 900)) as seen:
            page = seen.page
            assert seen.faults() == []
            upload(page, drawn["boat"])
            assert chosen(page) == ["boat", "boat"]
            assert page.locator(".card h2").all_inner_texts() == ["Student", "Teacher"]
            left, right = (page.locator(".card").nth(n).bounding_box() for n in (0, 1))
            assert left["y"] == right["y"]  # beside each other, on a phone too
            assert left["x"] < right["x"]
            assert all(" ms" in one for one in page.locator(".took").all_inner_texts())
            assert " ms" in page.locator("#timing").inner_text()
            assert page.locator("#agreement").inner_text() == "Student and teacher agree."
            page.wait_for_selector("#heard:has-text('Student: boat. Teacher: boat.')")
            assert seen.faults() == []
            paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
            assert (sum(map(int, paper[4:-1].split(","))) < 300) == dark
            width = page.evaluate("document.documentElement.scrollWidth")
            assert width <= page.viewport_size["width"]

    @pytest.mark.parametrize("kind", ["drop", "paste"])
    def test_dropped_and_pasted(self, chromium, alone, drawn, kind):
        with visiting(chromium, alone) as seen:
            data = base64.b64encode(drawn["cat"].read_bytes()).decode()
            seen.page.evaluate(GIVE, [kind, "cat.png", data])
            assert chosen(seen.page) == ["cat"]
            assert seen.page.locator("#image").get_attribute("src").startswith("blob:")

    def test_by_keyboard_alone(self, chromium, both):
        with visiting(chromium, both) as seen:
            page, reached = seen.page, []
            for _ in range(9):
                page.keyboard.press("Tab")
                reached.append(page.evaluate("document.activeElement.ariaLabel ?? ''"))
                reached[-1] = reached[-1] or page.evaluate("document.activeElement.id")
                ring = page.evaluate(
                    "getComputedStyle(document.activeElement.id === 'file' ? "
                    "document.activeElement.nextElementSibling : document.activeElement).outline"
                )
                assert "solid 3px" in ring
                if reached[-1] == "Example 2":  # the third file is no image
                    page.keyboard.press("Enter")
                    assert chosen(page) == ["star", "star"]
            examples = ["Example 1", "Example 2"]
            settings = ["threshold", "both"]
            assert reached == ["file", "camera", *examples, "classes", "use", "reset", *settings]
            page.keyboard.press("Space")
            page.wait_for_selector("#cards:not(:has(.card:nth-child(2)))")

    def test_new_classes_work_at_once(self, chromium, both, drawn):
        with visiting(chromium, both) as seen:
            page = seen.page
            upload(page, drawn["boat"])
            assert chosen(page) == ["boat", "boat"]
            use_classes(page, ["flower", " sun ", "", "cup", "cup"])
            in_use(page, 3)
            page.wait_for_selector(".name:has-text('sun')")
            names = page.locator(".card >> nth=1").locator(".name").all_inner_texts()
            assert sorted(names) == ["cup", "flower", "sun"]
            use_classes(page, ["x" * 101])
            page.wait_for_selector("#class-note.problem:has-text('at most 100')")
            page.get_by_role("button", name="Reset").click()
            page.wait_for_selector(".best:has-text('boat')")
            assert page.get_by_role("textbox").input_value().split() == list(KINDS)

    def test_a_forgotten_list_is_sent_again(self, chromium, both, drawn, monkeypatch):
        monkeypatch.setattr("clipdistill.show.web.class_lists.LISTS_KEPT", 1)
        with visiting(chromium, both) as seen:
            use_classes(seen.page, ["boat", "cup"])
            in_use(seen.page, 2)
            post(both, "/classes", {"classes": ["another", "visitor"]})
            upload(seen.page, drawn["boat"])
            assert chosen(seen.page) == ["boat", "boat"]
            (complaint,) = seen.complaints
            assert "409" in complaint
            seen.complaints.clear()

    def test_a_problem_stays_until_there_is_another_image(self, chromium, both, tmp_path):
        broken = tmp_path / "broken.png"
        broken.write_bytes(b"no image")
        with visiting(chromium, both) as seen:
            upload(seen.page, broken)
            seen.page.wait_for_selector("#problem:has-text('not a ')")
            use_classes(seen.page, ["flower", "ship"])
            in_use(seen.page, 2)
            seen.page.wait_for_selector("#problem:has-text('not a ')")
            seen.page.get_by_role("button", name="Example 1").click()
            seen.page.wait_for_selector(".card")
            assert not seen.page.locator("#problem").is_visible()
            seen.page.get_by_role("button", name="Clear").click()
            seen.page.wait_for_selector("#hint")
            assert seen.page.locator(".card").count() == 0

    def test_hostile_names_are_text(self, chromium, both, drawn):
        with visiting(chromium, both) as seen:
            upload(seen.page, drawn["cat"])
            assert chosen(seen.page) == ["cat", "cat"]
            use_classes(seen.page, HOSTILE)
            in_use(seen.page, 3)
            seen.page.wait_for_selector(".name:has-text('hacked')")
            names = seen.page.locator(".card >> nth=0").locator(".name").all_inner_texts()
            assert sorted(names) == sorted(HOSTILE)
            seen.page.locator(".name").first.hover()

    def test_hostile_names_of_the_model_are_text(self, chromium, model, encode, drawn):
        hostile = Recognizer(model, encode(HOSTILE), own=False)
        with running_page(hostile) as url, visiting(chromium, url) as seen:
            assert seen.page.locator("#fixed li").all_inner_texts() == list(HOSTILE)
            upload(seen.page, drawn["cat"])
            seen.page.wait_for_selector(".name:has-text('hacked')")

    @pytest.mark.parametrize("size", [PHONE, (1280, 900)], ids=["phone", "desktop"])
    def test_long_labels_are_shown_whole(self, chromium, model, encode, drawn, size):
        wordy = Recognizer(model, encode(LONG), own=False)
        with (
            running_page(wordy, teacher=wordy) as url,
            visiting(chromium, url, size=size) as seen,
        ):
            upload(seen.page, drawn["cat"])
            chosen(seen.page)
            shown = seen.page.locator("li, .name, .best strong, .card").evaluate_all(
                "all => all.filter((one) => one.scrollWidth > one.clientWidth + 1 && "
                "getComputedStyle(one).display !== 'inline').map((one) => one.outerHTML)"
            )
            assert shown == []
            names = seen.page.locator(".card >> nth=0").locator(".name").all_inner_texts()
            assert sorted(names) == sorted(LONG)
            assert seen.page.evaluate("document.documentElement.scrollWidth") <= size[0]

    def test_threshold_one_is_unknown(self, chromium, recognizer, drawn):
        with (
            running_page(recognizer, teacher=recognizer, threshold=0.317) as url,
            visiting(chromium, url) as seen,
        ):
            assert seen.page.locator("#least").inner_text() == "31.7%"
            upload(seen.page, drawn["house"])
            assert chosen(seen.page) == ["house", "house"]
            seen.page.get_by_label("Threshold").press("End")
            seen.page.wait_for_selector(".card.unsure")
            assert chosen(seen.page) == ["unknown", "house"]  # the teacher has no threshold
            said = seen.page.locator("#agreement").inner_text()
            assert "its likeliest class is the teacher’s" in said

    def test_an_image_of_several_things_gets_every_label(self, chromium, model, encode, drawn):
        own = encode(KINDS)
        cosines = np.sort((own.vectors @ own.vectors.T)[KINDS.index("house")])
        fitted = Independent(
            scales=(20.0,) * 5,
            biases=(-20.0 * float(cosines[2]),) * 5,
            thresholds=(0.05, 0.05, 0.05, 0.05, 1.0),
            method="pool",
            source="",
            images=9,
            matched=(9,) * 5,
            unmatched=(),
        )
        several = Recognizer(model, replace(own, independent=fitted), own=False)
        shown = predict_one(several, drawn["house"])
        with (
            running_page(several, teacher=several, encode=encode) as url,
            visiting(chromium, url) as seen,
        ):
            assert seen.page.locator("#least").inner_text() == "each label’s own"
            upload(seen.page, drawn["house"])
            assert chosen(seen.page) == [", ".join(shown) or "unknown"] * 2
            assert "star" not in shown
            seen.page.get_by_label("Threshold").press("Home")
            seen.page.wait_for_selector(".best strong:has-text('star')")
            assert len(chosen(seen.page)[0].split(", ")) == 5
            use_classes(seen.page, ["house", "a tree"])  # new classes get a cautious threshold
            in_use(seen.page, 2)

    def test_disagreement(self, chromium, recognizer, encode, model, drawn):
        other = encode(KINDS)
        turned = replace(other, vectors=np.roll(other.vectors, 1, axis=0))
        with (
            running_page(recognizer, teacher=Recognizer(model, turned, own=False)) as url,
            visiting(chromium, url) as seen,
        ):
            upload(seen.page, drawn["boat"])
            assert chosen(seen.page) == ["boat", "car"]
            assert seen.page.locator("#agreement").inner_text() == "Student and teacher disagree."

    def test_without_an_encoder_the_list_is_fixed(self, chromium, alone):
        with visiting(chromium, alone) as seen:
            assert seen.page.locator("#fixed li").all_inner_texts() == list(KINDS)
            assert "need a text encoder" in seen.page.locator("#class-note").inner_text()
            assert seen.page.get_by_role("textbox").count() == 0
            assert seen.page.get_by_role("button", name="Use these classes").count() == 0
            assert seen.page.get_by_role("checkbox").count() == 0
            assert seen.faults() == []

    def test_an_unreadable_upload_is_a_sentence(self, chromium, alone, tmp_path, drawn):
        broken = tmp_path / "broken.png"
        broken.write_bytes(drawn["car"].read_bytes()[:400])
        bomb = tmp_path / "bomb.png"
        Image.new("1", (9000, 9000)).save(bomb)
        large = tmp_path / "large.png"
        large.write_bytes(bytes((20 << 20) + 1))
        with visiting(chromium, alone) as seen:
            upload(seen.page, broken)
            seen.page.wait_for_selector("#problem:has-text('cannot be used: cannot be decoded')")
            assert seen.page.locator(".card").count() == 0
            upload(seen.page, bomb)
            seen.page.wait_for_selector("#problem:has-text('over the limit of 50,000,000')")
            upload(seen.page, large)
            seen.page.wait_for_selector("#problem:has-text('at most 20 MB')")


class Slow:
    """An embedder that takes its time, and counts."""

    def __init__(self, inner, seconds: float = 0.0) -> None:
        self.spec, self.inner, self.seconds = inner.spec, inner, seconds
        self.gate, self.lock = threading.Event(), threading.Lock()
        self.gate.set()
        self.calls = self.at_once = 0

    def embed_pixels(self, pixels):
        assert self.lock.acquire(blocking=False), "two requests had the model at once"
        try:
            self.calls += 1
            self.gate.wait(20)
            time.sleep(self.seconds)
            return self.inner.embed_pixels(pixels)
        finally:
            self.lock.release()


WATCH_BUSY = """
window.waited = null;
document.addEventListener("change", () => (window.started = performance.now()), true);
new MutationObserver(() => {
  if (!busy.hidden) requestAnimationFrame(() => (waited ??= performance.now() - started));
}).observe(busy, { attributes: true });
"""


def test_the_page_is_busy_at_once_and_the_newest_image_counts(chromium, recognizer, drawn):
    slow = Slow(recognizer.embedder, 1.0)
    with (
        running_page(replace(recognizer, embedder=slow)) as url,
        visiting(chromium, url) as seen,
    ):
        seen.page.evaluate(WATCH_BUSY)
        upload(seen.page, drawn["boat"])
        until(lambda: seen.page.evaluate("waited") is not None, seen.page)
        assert seen.page.evaluate("waited") < 100
        assert seen.page.locator("#answer").get_attribute("aria-busy") == "true"
        upload(seen.page, drawn["car"])
        upload(seen.page, drawn["cat"])
        assert chosen(seen.page) == ["cat"]
        assert not seen.page.locator("#busy").is_visible()
        assert slow.calls <= 3 + 1  # one to warm up


def test_camera_is_answered_live_and_the_newest_frame_counts(chromium, recognizer):
    slow = Slow(recognizer.embedder, 0.5)
    with (
        running_page(replace(recognizer, embedder=slow)) as url,
        visiting(chromium, url, permissions=("camera",)) as seen,
    ):
        page = seen.page
        page.evaluate(
            "window.words = 0; new MutationObserver(() => heard.textContent && words++)"
            ".observe(heard, {childList: true})"
        )
        page.get_by_role("button", name="Use the camera").click()
        assert chosen(page) == ["boat"]
        until(lambda: slow.calls >= 5, page)
        assert page.locator("#live").is_visible()
        assert seen.faults() == []
        page.wait_for_selector("#heard:text-is('Model: boat.')")
        assert page.evaluate("words") == 1
        page.get_by_role("button", name="Stop").click()
        before = slow.calls
        page.wait_for_timeout(1500)  # a queue would be answered still
        assert slow.calls - before <= 1
        assert chosen(page) == ["boat"]  # the last frame stays, with its answer
        assert page.locator("#image").is_visible()
        assert not page.locator("#video").is_visible()


@pytest.mark.parametrize(
    ("error", "sentence"),
    [("NotAllowedError", "did not allow the camera"), ("NotFoundError", "No camera could be")],
)
def test_without_a_camera_there_is_a_sentence(chromium, alone, error, sentence):
    with visiting(chromium, alone) as seen:
        seen.page.evaluate(
            "(name) => navigator.mediaDevices.getUserMedia = "
            "() => Promise.reject(new DOMException('', name))",
            error,
        )
        seen.page.get_by_role("button", name="Use the camera").click()
        seen.page.wait_for_selector(f"#problem:has-text('{sentence}')")
        assert seen.page.get_by_role("button", name="Use the camera").is_visible()


def ask(url: str, path: str, method: str = "GET", body: bytes = b"", **headers: str):
    """One request as it is written; status, headers and body of the answer."""
    address = urlsplit(url)
    connection = http.client.HTTPConnection(address.hostname, address.port, timeout=10)
    with contextlib.closing(connection):
        connection.putrequest(method, path, skip_host=True)
        for name, value in {"host": address.netloc, **headers}.items():
            connection.putheader(name.replace("_", "-"), value)
        connection.putheader("content-length", headers.get("said", str(len(body))))
        connection.endheaders(body)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()


def post(url: str, path: str, body) -> tuple[int, dict]:
    """A request as the page makes it."""
    image = isinstance(body, bytes)
    kind = "application/octet-stream" if image else "application/json"
    data = body if image else json.dumps(body).encode()
    status, _, answer = ask(url, path, "POST", data, content_type=kind, origin=url)
    return status, json.loads(answer)


class TestServer:
    """What others get from it."""

    @pytest.mark.parametrize(
        ("path", "headers", "status"),
        [
            ("/", {}, 200),
            ("/page.js", {}, 200),
            ("/about", {}, 200),
            ("/nothing", {}, 404),
            ("/predict", {}, 405),
            ("/about", {"host": "evil.example"}, 400),
            ("/about", {"origin": "http://evil.example"}, 403),
        ],
    )
    def test_every_answer_has_the_policy(self, alone, path, headers, status):
        found, got, _ = ask(alone, path, **headers)
        assert found == status
        assert got["content-security-policy"] == (
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
            "connect-src 'self'; media-src blob: 'self'; form-action 'none'; base-uri 'none'; "
            "frame-ancestors 'none'"
        )
        assert got["x-content-type-options"] == "nosniff"
        assert got["referrer-policy"] == "no-referrer"
        assert "camera=(self)" in got["permissions-policy"]
        assert got["cross-origin-opener-policy"] == "same-origin"
        assert got["cross-origin-resource-policy"] == "same-origin"

    def test_the_markup_needs_no_exception(self, alone):
        markup = ask(alone, "/")[2].decode()
        assert " style=" not in markup
        assert "<style" not in markup
        assert " on" + "click" not in markup
        assert markup.count("<script") == markup.count("></script>") == 1

    @pytest.mark.parametrize(
        "host",
        [
            "evil.example",
            "127.0.0.1.evil.example:80",
            "localhost.evil.example",
            "evil.example@localhost",
            "localhost@evil.example",
            "localhost:80@evil.example",
            "localhost, evil.example",
            "",
            "[::1",
        ],
    )
    def test_other_hosts_get_nothing(self, alone, host):
        status, _, body = ask(alone, "/about", host=host)
        assert status == 400
        assert b"accepts no requests for the host" in body

    @pytest.mark.parametrize("host", ["localhost", "localhost:1", "LOCALHOST:80", "[::1]:80"])
    def test_this_machines_names_do(self, alone, host):
        assert ask(alone, "/about", host=host, origin=f"http://{host}")[0] == 200

    @pytest.mark.parametrize(
        "headers",
        [
            {"origin": "http://evil.example"},
            {"origin": "http://127.0.0.1:1"},
            {"origin": "null"},
            {"origin": ""},
            {"sec_fetch_site": "cross-site"},
            {"sec_fetch_site": "same-site"},
        ],
    )
    def test_other_pages_get_nothing(self, alone, drawn, headers):
        kind = {"content_type": "application/octet-stream"}
        image = drawn["cat"].read_bytes()
        assert ask(alone, "/predict", "POST", image, **kind, **headers)[0] == 403
        assert ask(alone, "/about", **headers)[0] == 403

    def test_a_link_elsewhere_opens_the_page(self, alone):
        assert ask(alone, "/", sec_fetch_site="cross-site")[0] == 200

    @pytest.mark.parametrize("path", ["/predict", "/classes"])
    @pytest.mark.parametrize("kind", ["text/plain", "multipart/form-data; boundary=a", ""])
    def test_what_a_form_can_send_is_refused(self, alone, path, kind):
        assert ask(alone, path, "POST", b"{}", content_type=kind)[0] == 415

    def test_no_other_page_is_given_leave(self, alone):
        asked = {
            "access_control_request_method": "POST",
            "access_control_request_headers": "content-type",
        }
        for more in ({}, {"origin": "http://evil.example"}):
            status, headers, _ = ask(alone, "/predict", "OPTIONS", **asked, **more)
            assert status in (403, 405)
            assert not any(name.lower().startswith("access-control") for name in headers)

    @pytest.mark.parametrize(
        "path",
        [
            "/etc/passwd",
            "//etc/passwd",
            "/../../../../etc/passwd",
            "/static/page.js",
            "/static/../server.py",
            "/page.js/../../server.py",
            "/%2e%2e/server.py",
            "/..%2fserver.py",
            "/server.py",
            "/examples/",
            "/examples/0",
            "/examples/3",
            "/examples/-1",
            "/examples/1/../../about",
            "/examples/..%2f..%2fetc%2fpasswd",
            f"/examples/{'9' * 5000}",
            "/docs",
            "/openapi.json",
            "/gradio_api/file=/etc/passwd",
        ],
    )
    def test_no_file_of_the_machine_and_no_other_route(self, both, path):
        status, _, body = ask(both, path)
        assert status in (400, 404)
        assert b"root:" not in body

    def test_examples_are_copies(self, both, drawn):
        status, headers, body = ask(both, "/examples/1")
        assert (status, headers["content-type"]) == (200, "image/png")
        with Image.open(io.BytesIO(body)) as copy, Image.open(drawn["car"]) as image:
            assert max(copy.size) <= 512
            np.testing.assert_array_equal(copy, image.convert("RGB"))

    def test_bodies_are_bounded(self, alone, monkeypatch):
        kind = {"content_type": "application/octet-stream"}
        assert ask(alone, "/predict", "POST", said=str(1 << 40), **kind)[0] in (400, 413)
        assert ask(alone, "/predict", "POST", said=str((20 << 20) + 1), **kind)[0] == 413
        monkeypatch.setattr(server, "MAX_UPLOAD", 100)
        chunks = [b"0" * 60] * 2  # whose sum no header gives away
        address = urlsplit(alone)
        connection = http.client.HTTPConnection(address.hostname, address.port, timeout=10)
        with contextlib.closing(connection):
            headers = {"Content-Type": kind["content_type"]}
            connection.request("POST", "/predict", iter(chunks), headers, encode_chunked=True)
            assert connection.getresponse().status == 413

    def test_a_slow_body_is_given_up(self, alone, monkeypatch):
        monkeypatch.setattr("clipdistill.core.serving.BODY_SECONDS", 0.2)
        address = urlsplit(alone)
        with socket.create_connection((address.hostname, address.port), timeout=10) as raw:
            raw.sendall(
                f"POST /predict HTTP/1.1\r\nHost: {address.netloc}\r\n"
                "Content-Type: application/octet-stream\r\nContent-Length: 9\r\n\r\nab".encode()
            )
            assert raw.recv(100).startswith(b"HTTP/1.1 408")

    def test_half_sent_bodies_keep_nobody_out(self, alone, drawn):
        address = urlsplit(alone)
        head = (
            f"POST /predict HTTP/1.1\r\nHost: {address.netloc}\r\nContent-Type: "
            "application/octet-stream\r\nContent-Length: 1000\r\n\r\nhalf"
        )
        with contextlib.ExitStack() as stack:
            half = [
                stack.enter_context(socket.create_connection((address.hostname, address.port)))
                for _ in range(server.MAX_READING)
            ]
            for one in half:
                one.sendall(head.encode())
            time.sleep(0.5)
            assert post(alone, "/predict", drawn["cat"].read_bytes())[0] == 200
            answers = []
            for one in half:
                one.settimeout(0.2)
                with contextlib.suppress(TimeoutError):
                    answers.append(one.recv(20))
            assert answers == [b"HTTP/1.1 503 Service"]  # one gave way

    def test_it_answers_as_predict_does(self, alone, toy, encode, tmp_path, drawn):
        photo = tmp_path / "photo.jpg"
        Image.open(drawn["car"]).convert("RGB").resize((900, 700)).save(photo, quality=80)
        text = save_text(tmp_path / "text.npy", encode(KINDS))
        (one,) = predict(TOY, str(photo), text=text, device="cpu").predictions
        status, found = post(alone, "/predict", photo.read_bytes())
        assert status == 200
        ranked = found["answers"][0]["ranked"]
        assert [label for label, _ in ranked] == [label for label, _ in one.ranked]
        assert [p for _, p in ranked] == pytest.approx([p for _, p in one.ranked], abs=1e-6)

    @pytest.mark.parametrize(
        "body", [b"/etc/passwd", b"http://example.invalid/a.png", b'{"path": "/etc/passwd"}', b""]
    )
    def test_a_body_is_never_a_path_or_an_address(self, alone, body, monkeypatch):
        asked = []
        look_up = socket.getaddrinfo

        def watched_look_up(host, *rest, **options):
            asked.append(host)
            return look_up(host, *rest, **options)

        monkeypatch.setattr(socket, "getaddrinfo", watched_look_up)
        status, answer = post(alone, "/predict", body)
        assert status == 200
        assert "This image cannot be used" in answer["problem"]
        assert set(asked) <= {"127.0.0.1"}

    @pytest.mark.parametrize(
        ("body", "status", "found"),
        [
            ({"classes": ["a", 1]}, 200, "a list of texts"),
            ({"classes": "dog"}, 200, "a list of texts"),
            ({}, 200, "a list of texts"),
            ({"classes": ["\ud800"]}, 200, "cannot be shown"),
            ([], 400, "a JSON object"),
            ({"classes": float("nan")}, 400, "JSON"),
        ],
    )
    def test_class_lists_that_are_none(self, both, body, status, found):
        got, answer = post(both, "/classes", body)
        assert got == status
        assert found in answer.get("problem", "") + answer.get("message", "")

    def test_new_classes_without_an_encoder(self, alone):
        assert "need a text encoder" in post(alone, "/classes", {"classes": ["ship"]})[1]["problem"]
        assert post(alone, "/classes", {"classes": list(KINDS)})[1]["key"] == ""

    def test_one_at_a_time_few_wait_and_nobody_is_answered_who_left(
        self, recognizer, drawn, monkeypatch
    ):
        monkeypatch.setattr(server, "MAX_WAITING", 3)
        slow = Slow(recognizer.embedder)
        image = drawn["cat"].read_bytes()
        with running_page(replace(recognizer, embedder=slow)) as url:
            warm = slow.calls
            slow.gate.clear()
            statuses: list[int] = []
            threads = [
                threading.Thread(target=lambda: statuses.append(post(url, "/predict", image)[0]))
                for _ in range(6)
            ]
            threads[0].start()
            until(lambda: slow.calls == warm + 1)
            address = urlsplit(url)
            with socket.create_connection((address.hostname, address.port)) as raw:
                head = (
                    f"POST /predict HTTP/1.1\r\nHost: {address.netloc}\r\nContent-Type: "
                    f"application/octet-stream\r\nContent-Length: {len(image)}\r\n\r\n"
                )
                raw.sendall(head.encode() + image)
                time.sleep(0.3)
            for thread in threads[1:]:
                thread.start()
            until(lambda: len(statuses) == 4)  # of five one waits
            assert ask(url, "/about")[0] == 200  # it still listens
            slow.gate.set()
            for thread in threads:
                thread.join()
            assert sorted(statuses) == [200, 200, 503, 503, 503, 503]
            assert slow.calls == warm + 2

    def test_it_asks_nobody(self, recognizer, monkeypatch, drawn):
        asked = []
        look_up, connect = socket.getaddrinfo, socket.socket.connect

        def watched_look_up(host, *rest, **options):
            asked.append(host)
            return look_up(host, *rest, **options)

        def watched_connect(self, address):
            asked.append(address[0])
            return connect(self, address)

        monkeypatch.setattr(socket, "getaddrinfo", watched_look_up)
        monkeypatch.setattr(socket.socket, "connect", watched_connect)
        with running_page(recognizer) as url:
            assert ask(url, "/")[0] == 200
            assert post(url, "/predict", drawn["cat"].read_bytes())[0] == 200
        assert set(asked) == {"127.0.0.1"}


def test_it_prints_its_address_and_ctrl_c_ends_it(tiny_classifier):
    command = [sys.executable, "-m", "clipdistill", "demo", str(tiny_classifier)]
    process = subprocess.Popen(
        [*command, "--web", "--port", "0", "--device", "cpu"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    try:
        assert process.stderr is not None
        lines = iter(process.stderr.readline, "")
        line = next(line for line in lines if "The page is at" in line)
        url = next(word for word in line.split() if word.startswith("http"))
        assert ask(url, "/")[0] == 200
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=20)
    finally:
        process.kill()
    assert process.returncode == 0
    assert "Stopped showing" in out


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("/home/me/runs/x/classifier.onnx", "classifier.onnx"),
        ("runs/x/classifier.onnx", "classifier.onnx"),
        ("local-dir:/opt/teachers/lite", "lite"),
        ("hf-hub:org/repo", "hf-hub:org/repo"),
        ("ViT-B-32/laion2b_s34b_b79k", "ViT-B-32/laion2b_s34b_b79k"),
    ],
)
def test_names_without_folders(name, short):
    assert short_name(name) == short


class TestClasses:
    """The class list."""

    def test_names_become_classes(self):
        names = [" red  car", "", "# 1", "red car", "cat "]
        assert check_classes(names) == ("red car", "# 1", "cat")

    @pytest.mark.parametrize(
        ("names", "sentence"),
        [
            ([" ", ""], "is empty"),
            (list(map(str, range(301))), "301 classes are too many"),
            (["a" * 101], "at most 100"),
            (["a\x00b"], "cannot be shown"),
        ],
    )
    def test_what_cannot_be_used_is_a_sentence(self, names, sentence):
        with pytest.raises(InputError, match=sentence):
            check_classes(names)

    def test_only_new_names_are_encoded(self, recognizer, encode):
        asked = []

        def watch(names):
            asked.append(tuple(names))
            return encode(names)

        lists = ClassLists(Models(recognizer, None), watch)
        assert lists.find(lists.use(KINDS)).student is recognizer
        models = lists.find(lists.use(("boat", "ship")))
        assert models.labels == ("boat", "ship")
        np.testing.assert_array_equal(models.student.text.vectors[0], recognizer.text.vectors[0])
        lists.use(("ship", "boat", "cup"))
        lists.use(("boat", "ship"))
        assert asked == [("ship",), ("cup",)]
