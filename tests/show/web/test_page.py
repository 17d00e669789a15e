"""The web page of `demo --web`: in Chromium, and what its server answers to others."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import socket
import time
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from clipdistill.show.web.answer import Opinion, judged, render, short_name
from clipdistill.show.web.classes import ClassLists, Models, parse_classes
from PIL import Image

from browser import PHONE, launched, opened
from clipdistill.core.errors import InputError
from clipdistill.formats.text import TextEmbeddings
from clipdistill.models.embedder import Embedder
from clipdistill.models.open import open_embedder
from clipdistill.models.recognizer import Recognizer
from clipdistill.pipeline.toy.world import draw

KINDS = ("boat", "car", "cat", "house", "star")
HOSTILE = (
    "</script><script>window.hacked = 1</script>",
    "<img src=x onerror='window.hacked = 2'>",
    '"><b onmouseover="window.hacked = 3">${window.hacked = 4}{{value}}',
)
TOY = f"local-dir:{files('clipdistill.pipeline.toy') / 'toy_teacher'}"
ANSWERS = 10_000
"""Milliseconds in which an answer should be there."""


@pytest.fixture(scope="module")
def toy():
    """The toy teacher, loaded."""
    pytest.importorskip("gradio")
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
def model(encode) -> Embedder:
    """The toy teacher as a model: it serves as student and as teacher."""
    return open_embedder(TOY, device="cpu")


@pytest.fixture(scope="module")
def recognizer(model, encode) -> Recognizer:
    """It knows a few kinds."""
    return Recognizer(model, encode(KINDS), own=False)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> dict[str, Path]:
    """Kind -> a picture of it."""
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
    from clipdistill.show.web.server import running_page

    examples = [drawn["car"], drawn["star"], Path(__file__)]
    with running_page(recognizer, teacher=recognizer, encode=encode, examples=examples) as url:
        yield url


@pytest.fixture(scope="module")
def alone(recognizer, drawn):
    """The address of a page with a student alone."""
    from clipdistill.show.web.server import running_page

    with running_page(recognizer, threshold=0.3) as url:
        yield url


@contextlib.contextmanager
def visiting(chromium, url, **options):
    """A watched visit of the page, once it is ready; nothing may be wrong with it at the end."""
    with opened(chromium, url, **options) as seen:
        seen.page.set_default_timeout(ANSWERS)
        seen.page.wait_for_selector("#answer .answer")
        yield seen
        assert seen.elsewhere == []
        assert seen.complaints == []
        assert seen.page.evaluate("window.hacked") is None


def upload(page, path: Path) -> None:
    page.locator("#picture input[type=file]").set_input_files(path)


def verdicts(page) -> list[str]:
    page.wait_for_selector("#answer .card")
    return page.locator("#answer .verdict strong").all_inner_texts()


def use_classes(page, names) -> None:
    page.get_by_label("Classes").fill("\n".join(names))
    page.get_by_role("button", name="Use these classes").click()


class TestInChromium:
    """What a visitor does."""

    @pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
    def test_upload_is_answered_by_both(self, chromium, both, drawn, dark):
        with visiting(chromium, both, dark=dark, size=PHONE if dark else (1280, 900)) as seen:
            assert seen.faults() == []
            upload(seen.page, drawn["boat"])
            assert verdicts(seen.page) == ["boat", "boat"]
            assert seen.page.locator(".card h2").all_inner_texts() == ["Student", "Teacher"]
            assert all(" ms" in one for one in seen.page.locator(".took").all_inner_texts())
            assert "They agree: boat." in seen.page.locator("#answer").inner_text()
            seen.page.wait_for_function("heard.textContent.startsWith('Student: boat.')")
            assert seen.faults() == []
            assert seen.page.evaluate("document.body.classList.contains('dark')") == dark
            width = seen.page.evaluate("document.documentElement.scrollWidth")
            assert width <= seen.page.viewport_size["width"]

    def test_an_example_by_keyboard(self, chromium, both):
        with visiting(chromium, both) as seen:
            examples = seen.page.get_by_role("button", name="Example")
            examples.nth(1).wait_for()
            assert examples.count() == 2  # the third is no picture
            examples.nth(1).focus()
            seen.page.keyboard.press("Enter")
            assert verdicts(seen.page) == ["star", "star"]
            seen.page.get_by_label("Ask the teacher too").uncheck()
            seen.page.wait_for_function("document.querySelectorAll('.card').length === 1")

    def test_new_classes_work_at_once(self, chromium, both, drawn):
        with visiting(chromium, both) as seen:
            upload(seen.page, drawn["boat"])
            assert verdicts(seen.page) == ["boat", "boat"]
            use_classes(seen.page, ["flower", "ship", "cup"])
            seen.page.wait_for_selector("#class-note :text('3 classes in use')")
            seen.page.wait_for_function(
                "![...document.querySelectorAll('.bars .name')].some(e => e.innerText === 'boat')"
            )
            names = seen.page.locator(".card >> nth=1").locator(".name").all_inner_texts()
            assert sorted(names) == ["cup", "flower", "ship"]
            use_classes(seen.page, ["x" * 101])
            seen.page.wait_for_selector("#class-note .problem:text('at most 100')")
            seen.page.get_by_role("button", name="Back to the model").click()
            seen.page.wait_for_selector(".verdict:has-text('boat')")
            assert seen.page.get_by_label("Classes").input_value().split() == list(KINDS)

    def test_a_problem_stays_until_there_is_another_picture(self, chromium, both, tmp_path):
        broken = tmp_path / "broken.png"
        broken.write_bytes(b"no picture")
        with visiting(chromium, both) as seen:
            upload(seen.page, broken)
            seen.page.wait_for_selector("#answer .problem:has-text('not a ')")
            use_classes(seen.page, ["flower", "ship"])
            seen.page.wait_for_selector("#class-note :text('2 classes in use')")
            assert seen.page.locator("#answer .problem").count() == 1
            seen.page.get_by_role("button", name="Example 1").click()
            seen.page.wait_for_selector("#answer .card")
            seen.page.get_by_role("button", name="Clear").or_(
                seen.page.get_by_role("button", name="Remove")
            ).first.click()
            seen.page.wait_for_selector("#answer .hint")

    def test_hostile_names_are_text(self, chromium, both, drawn):
        with visiting(chromium, both) as seen:
            upload(seen.page, drawn["cat"])
            assert verdicts(seen.page) == ["cat", "cat"]
            use_classes(seen.page, HOSTILE)
            seen.page.wait_for_selector("#class-note :text('3 classes in use')")
            seen.page.wait_for_selector(".name:has-text('hacked')")
            names = seen.page.locator(".card >> nth=0").locator(".name").all_inner_texts()
            assert sorted(names) == sorted(HOSTILE)
            seen.page.locator(".name").first.hover()

    def test_hostile_names_of_the_model_are_text(self, chromium, model, encode, drawn):
        from clipdistill.show.web.server import running_page

        hostile = Recognizer(model, encode(HOSTILE), own=False)
        with running_page(hostile) as url, visiting(chromium, url) as seen:
            upload(seen.page, drawn["cat"])
            seen.page.wait_for_selector(".name:has-text('hacked')")

    def test_threshold_one_is_unknown(self, chromium, alone, drawn):
        with visiting(chromium, alone) as seen:
            box = seen.page.get_by_role("spinbutton", name="Threshold")
            assert box.input_value() == "0.3"
            upload(seen.page, drawn["house"])
            assert verdicts(seen.page) == ["house"]
            box.fill("1")
            box.press("Tab")
            seen.page.wait_for_selector(".card.unsure")
            assert verdicts(seen.page) == ["unknown"]

    def test_without_an_encoder_the_list_is_fixed(self, chromium, alone):
        with visiting(chromium, alone) as seen:
            assert not seen.page.get_by_label("Classes").is_editable()
            assert "need a text encoder" in seen.page.locator("#class-note").inner_text()
            assert seen.page.get_by_role("button", name="Use these classes").count() == 0
            assert seen.faults() == []

    def test_an_unreadable_upload_is_a_sentence(self, chromium, alone, tmp_path, drawn):
        broken = tmp_path / "broken.png"
        broken.write_bytes(drawn["car"].read_bytes()[:400])
        bomb = tmp_path / "bomb.png"
        Image.new("1", (9000, 9000)).save(bomb)
        with visiting(chromium, alone) as seen:
            upload(seen.page, broken)
            seen.page.wait_for_selector(".problem:has-text('cannot be used: cannot be decoded')")
            assert seen.page.locator(".card").count() == 0
            seen.page.reload()
            seen.page.wait_for_selector("#answer .answer")
            upload(seen.page, bomb)
            seen.page.wait_for_selector(".problem:has-text('over the limit of 50,000,000')")


class Slow:
    """An embedder that takes its time."""

    def __init__(self, inner, seconds: float) -> None:
        self.spec, self.inner, self.seconds = inner.spec, inner, seconds

    def embed_pixels(self, pixels):
        time.sleep(self.seconds)
        return self.inner.embed_pixels(pixels)


WATCH = """
window.answers = 0; window.words = 0;
new MutationObserver(() => answers++).observe(
  document.querySelector("#answer"), {childList: true, subtree: true});
new MutationObserver(() => words++).observe(heard, {childList: true});
"""


def test_camera_is_answered_live_and_the_newest_frame_counts(chromium, recognizer):
    from clipdistill.show.web.server import running_page

    slow = replace(recognizer, embedder=Slow(recognizer.embedder, 0.5))
    with (
        running_page(slow) as url,
        visiting(chromium, url, permissions=("camera",)) as seen,
    ):
        seen.page.get_by_role("tab", name="Camera").click()
        seen.page.get_by_role("button", name="Access Webcam").click()
        seen.page.evaluate(WATCH)
        seen.page.get_by_role("button", name="Record").click()
        assert verdicts(seen.page) == ["boat"]
        seen.page.wait_for_function("answers >= 5")
        assert seen.faults() == []
        seen.page.wait_for_function("heard.textContent === 'Model: boat.'")
        assert seen.page.evaluate("words") == 1
        seen.page.get_by_role("button", name="Stop").click()
        before = seen.page.evaluate("answers")
        seen.page.wait_for_timeout(2000)  # a queue would go on answering
        assert seen.page.evaluate("answers") - before <= 4  # an answer is up to three changes


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


class TestServer:
    """What others get from it."""

    def test_the_page_is_told_to_ask_nobody_else(self, alone):
        status, headers, body = ask(alone, "/")
        assert status == 200
        assert "default-src 'self'" in headers["content-security-policy"]
        assert headers["x-frame-options"] == "DENY"
        config = json.loads(body.decode().partition("window.gradio_config = ")[2].split(";</s")[0])
        assert config["analytics_enabled"] is False

    @pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example:80", "", "[::1"])
    def test_other_hosts_get_nothing(self, alone, host):
        status, _, body = ask(alone, "/config", host=host)
        assert status == 400
        assert b"does not answer for the host" in body

    @pytest.mark.parametrize(
        "headers",
        [
            {"origin": "http://evil.example"},
            {"origin": "http://127.0.0.1:1"},
            {"origin": "null"},
            {"sec_fetch_site": "cross-site"},
        ],
    )
    def test_other_pages_get_nothing(self, alone, headers):
        join = b'{"data": [], "fn_index": 0, "session_hash": "a"}'
        assert ask(alone, "/gradio_api/queue/join", "POST", join, **headers)[0] == 403
        assert ask(alone, "/config", **headers)[0] == 403

    @pytest.mark.parametrize(
        "path",
        [
            "/gradio_api/file=/etc/passwd",
            f"/gradio_api/file={__file__}",
            "/gradio_api/file=../../etc/passwd",
            "/gradio_api/file=/tmp/%2e%2e/etc/passwd",
            "/gradio_api/file=http://example.invalid/",
            "/gradio_api/file/etc/passwd",
            "/gradio_api/proxy=http://example.invalid/",
            "/assets/../../../../../../etc/passwd",
            "/static/%2e%2e/%2e%2e/%2e%2e/gradio.py",
            "/static//etc/passwd",
            "/gradio_api/vibe-code/",
            "/monitoring",
            "/docs",
        ],
    )
    def test_no_file_of_the_machine_and_no_other_route(self, alone, path):
        status, _, body = ask(alone, path)
        assert status in (403, 404)
        assert b"root:" not in body

    def test_bodies_are_bounded(self, alone):
        assert ask(alone, "/gradio_api/upload", "POST", said=str(1 << 40))[0] in (400, 413)

    def test_a_request_by_hand_reads_no_file_and_fetches_nothing(self, alone, drawn, monkeypatch):
        """gradio mounted in another application would do both."""
        asked = []
        look_up = socket.getaddrinfo

        def watched_look_up(host, *rest, **options):
            asked.append(host)
            return look_up(host, *rest, **options)

        monkeypatch.setattr(socket, "getaddrinfo", watched_look_up)
        json_body = {"content_type": "application/json"}
        events = json.loads(ask(alone, "/config")[2])["dependencies"]
        for path in (str(drawn["boat"]), "http://example.invalid/a.png", "HTTPS:example.invalid"):
            file = {"path": path, "meta": {"_type": "gradio.FileData"}}
            for event in events:
                data = [file, *[0] * (len(event["inputs"]) - 1)]
                body = json.dumps({"data": data, "fn_index": event["id"], "session_hash": "a"})
                said = ask(alone, "/gradio_api/run/predict", "POST", body.encode(), **json_body)[2]
                assert b"boat" not in said
        assert set(asked) <= {"127.0.0.1"}
        assert ask(alone, f"/gradio_api/file={drawn['boat']}")[0] == 403

    def test_it_asks_nobody(self, recognizer, monkeypatch):
        from clipdistill.show.web.server import running_page

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
            assert ask(url, "/config")[0] == 200
        assert set(asked) == {"127.0.0.1"}

    def test_its_files_go_with_it(self, recognizer, drawn, tmp_path, monkeypatch):
        from clipdistill.show.web.server import running_page

        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        with running_page(recognizer, examples=[drawn["cat"]]):
            assert list(tmp_path.rglob("*.png"))
        assert list(tmp_path.iterdir()) == []


def opinion(title: str, *shares: float) -> Opinion:
    labels = ("dog", "cat", "cow")[: len(shares)]
    return Opinion(title, "model", labels, np.array(shares, np.float32), 1.0)


class TestAnswer:
    """What is said."""

    @pytest.mark.parametrize(
        ("student", "teacher", "least", "sentence"),
        [
            ((0.9, 0.1), (0.8, 0.2), 0.0, "They agree: dog."),
            ((0.9, 0.1), (0.2, 0.8), 0.0, "the student says dog, the teacher cat."),
            ((0.6, 0.4), (0.8, 0.2), 0.7, "not sure; its best guess is what the teacher says."),
            ((0.6, 0.4), (0.2, 0.8), 0.7, "its best guess is not what the teacher says."),
        ],
    )
    def test_agreement(self, student, teacher, least, sentence):
        two = [opinion("Student", *student), opinion("Teacher", *teacher)]
        assert sentence in render(judged(two, least))

    def test_the_threshold_is_not_the_teachers(self):
        two = judged([opinion("Student", 0.9, 0.1), opinion("Teacher", 0.9, 0.1)], 1.0)
        assert [one.answer for one in two] == ["unknown", "dog"]

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
    def test_names_without_folders(self, name, short):
        assert short_name(name) == short


class TestClasses:
    """The class list."""

    def test_lines_become_classes(self):
        assert parse_classes(" red  car\n\n# 1\nred car\r\ncat ") == ("red car", "# 1", "cat")

    @pytest.mark.parametrize(
        ("text", "sentence"),
        [
            (" \n", "is empty"),
            ("\n".join(map(str, range(301))), "301 classes are too many"),
            ("a" * 101, "at most 100"),
            ("a\x00b", "cannot be shown"),
        ],
    )
    def test_what_cannot_be_used_is_a_sentence(self, text, sentence):
        with pytest.raises(InputError, match=sentence):
            parse_classes(text)

    def test_only_new_names_are_encoded(self, recognizer, encode):
        asked = []

        def watch(names):
            asked.append(tuple(names))
            return encode(names)

        lists = ClassLists(Models(recognizer, None), watch)
        assert lists.models(KINDS).student is recognizer
        models = lists.models(("boat", "ship"))
        assert models.labels == ("boat", "ship")
        np.testing.assert_array_equal(models.student.text.vectors[0], recognizer.text.vectors[0])
        lists.models(("ship", "boat", "cup"))
        lists.models(("boat", "ship"))
        assert asked == [("ship",), ("cup",)]
