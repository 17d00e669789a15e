"""export --target web: what is written and refused, and the page in Chromium."""

from __future__ import annotations

import base64
import contextlib
import functools
import http.server
import io
import re
import shutil
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from browser import launched, opened, web_runtime
from clipdistill.core.errors import InputError
from clipdistill.core.zeroshot import Calibration, LogitScale
from clipdistill.deploy.browser.folder import RUNTIME_FILES, find_runtime, write_page
from clipdistill.deploy.export import export
from clipdistill.deploy.relabel import relabel
from clipdistill.formats.text import load_text, save_text
from clipdistill.images.decode import decode
from clipdistill.images.preprocess import Preprocess
from clipdistill.models.open import OnnxEmbedder
from clipdistill.models.recognizer import Recognizer, open_recognizer
from clipdistill.show.predict import predict
from conftest import draw_picture

HOSTILE = "<img src=x onerror='window.hacked = 1'>"
READY = 60_000
"""Milliseconds in which the classifier should be loaded, on a busy machine."""


@pytest.fixture
def fake_runtime(tmp_path: Path) -> Path:
    """A folder with files of onnxruntime-web's names."""
    folder = tmp_path / "npm" / "node_modules" / "onnxruntime-web" / "dist"
    folder.mkdir(parents=True)
    for name in RUNTIME_FILES:
        (folder / name).write_text(f"// {name}")
    return tmp_path / "npm"


class TestTheFolder:
    """What is written, and refused."""

    def test_a_page_without_a_server(self, tiny_student, tiny_text, fake_runtime, tmp_path):
        out = tmp_path / "page"
        result = export(
            str(tiny_student), out, text=tiny_text, target="web", runtime_dir=fake_runtime
        )
        assert (result.out, result.target) == (out, "web")
        size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
        assert result.size_mb == pytest.approx(size / 1e6)
        assert (out / "runtime" / RUNTIME_FILES[0]).read_text() == f"// {RUNTIME_FILES[0]}"
        page = (out / "index.html").read_text(encoding="utf-8")
        policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]+)"', page)
        assert policy is not None
        assert "unsafe" not in policy[1]
        assert "script-src 'self';" in policy[1]
        assert not re.findall(r"<script(?! src=)|<style|\son\w+=|\sstyle=", page)
        for name in re.findall(r'(?:src|href)="([^":]+)"', page):
            assert (out / name).is_file()
        assert OnnxEmbedder(out / "classifier.onnx").text is not None

    def test_a_runtime_elsewhere(self, tiny_student, tiny_text, tmp_path):
        url = "https://cdn.example/onnxruntime-web@1.30.0/dist"
        out = tmp_path / "page"
        export(str(tiny_student), out, text=tiny_text, target="web", runtime_url=url)
        assert (out / "runtime.js").read_text() == f'export const RUNTIME = "{url}/";\n'
        assert not (out / "runtime").exists()

    @pytest.mark.parametrize(
        "url",
        [
            "http://cdn.example/dist/",
            "ftp://cdn.example/",
            "cdn.example",
            "https://cdn.example/dist/?v=1",
            'https://cdn.example/"; script-src *',
        ],
    )
    def test_addresses_that_are_refused(self, url):
        with pytest.raises(InputError, match="--runtime-url"):
            find_runtime(None, url)

    def test_what_is_missing_is_named(self, tiny_student, tiny_text, fake_runtime, tmp_path):
        make = functools.partial(export, str(tiny_student), tmp_path / "page")
        with pytest.raises(InputError, match="npm install onnxruntime-web"):
            make(text=tiny_text, target="web")
        with pytest.raises(InputError, match="exclude each other"):
            make(text=tiny_text, target="web", runtime_dir=fake_runtime, runtime_url="https://a/")
        with pytest.raises(InputError, match="npm install"):
            make(text=tiny_text, target="web", runtime_dir=tmp_path)
        next(fake_runtime.rglob(RUNTIME_FILES[1])).unlink()
        with pytest.raises(InputError, match=re.escape(f"has no {RUNTIME_FILES[1]}")):
            make(text=tiny_text, target="web", runtime_dir=fake_runtime)
        with pytest.raises(InputError, match="Add --text"):
            make(target="web", runtime_url="https://cdn.example/")
        with pytest.raises(InputError, match="Add --target web"):
            make(text=tiny_text, runtime_dir=fake_runtime)
        assert not (tmp_path / "page").exists()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    held = threading.Event()
    """The classifier is sent once this is set."""
    held.set()

    def do_GET(self) -> None:
        if self.path.startswith("/classifier.onnx"):
            self.held.wait(READY / 1000)
        super().do_GET()

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""


@contextlib.contextmanager
def hosted(folder: Path):
    """A static host of the folder; gives its address."""
    handler = functools.partial(_Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    """A Chromium with a camera."""
    film = tmp_path_factory.mktemp("film") / "camera.mjpeg"
    frame = io.BytesIO()
    draw_picture(77, (320, 240)).save(frame, "JPEG", quality=90)
    film.write_bytes(frame.getvalue() * 10)
    with launched(
        "--use-fake-ui-for-media-stream",
        "--use-fake-device-for-media-stream",
        f"--use-file-for-fake-video-capture={film}",
    ) as browser:
        yield browser


@pytest.fixture(scope="module")
def made(tiny_classifier, tmp_path_factory) -> Path:
    """A folder with the tiny classifier and the real runtime."""
    folder = tmp_path_factory.mktemp("page")
    write_page(folder, find_runtime(web_runtime(), None))
    shutil.copy(tiny_classifier, folder / "classifier.onnx")
    return folder


@contextlib.contextmanager
def visiting(chromium, url: str):
    """A watched visit of the page, once the classifier is loaded."""
    with opened(chromium, url, permissions=("camera",)) as seen:
        seen.page.set_default_timeout(READY)
        seen.page.wait_for_selector("#count:not(:empty)")
        yield seen
        assert seen.elsewhere == []
        assert seen.complaints == []
        assert seen.page.evaluate("window.hacked") is None


ASK = """async (text) => {
    const source = await import("./source.js");
    const bytes = Uint8Array.from(atob(text), (one) => one.charCodeAt(0));
    const [answer] = await source.classify(new Blob([bytes]), false, new AbortController().signal);
    return answer.ranked;
}"""


def encoded() -> list[bytes]:
    """Image files of several kinds, sizes and turns."""
    files = []
    for index in range(24):
        random = np.random.default_rng(index)
        image = draw_picture(300 + index, tuple(int(side) for side in random.integers(24, 120, 2)))
        kind, options = ("PNG", {}) if index % 2 else ("JPEG", {"quality": 90})
        if index % 6 == 0:
            image.getexif()[0x0112] = 6
            options["exif"] = image.getexif()
        if index % 6 == 1:
            image.putalpha(Image.linear_gradient("L").resize(image.size))
        file = io.BytesIO()
        image.save(file, kind, **options)
        files.append(file.getvalue())
    return files


def expected(recognizer: Recognizer, data: bytes) -> dict[str, float]:
    """Label -> probability, as `predict` gives it."""
    side = recognizer.preprocess.size
    pixels = recognizer.preprocess.to_pixels(decode(data, at_least=side))
    return dict(zip(recognizer.labels, recognizer.probabilities(pixels[None])[0], strict=True))


def test_the_browser_answers_as_onnx_runtime(chromium, made: Path) -> None:
    recognizer = open_recognizer(str(made / "classifier.onnx"))
    chosen = set()
    with hosted(made) as url, visiting(chromium, url) as seen:
        for data in encoded():
            ranked = seen.page.evaluate(ASK, base64.b64encode(data).decode())
            shares = expected(recognizer, data)
            assert ranked[0][0] == max(shares, key=shares.__getitem__)
            for label, share in ranked:
                assert share == pytest.approx(shares[label], abs=1e-3)
            chosen.add(ranked[0][0])
    assert len(chosen) > 1, "every image has the same label: nothing is compared"


def large_jpegs() -> list[bytes]:
    """JPEGs at least four times as large as the model's input, as cameras write them."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    swapped = profile.replace(b"rXYZ", b"    ", 1).replace(b"bXYZ", b"rXYZ", 1)
    swapped = swapped.replace(b"    ", b"bXYZ", 1)  # red and blue, to whom obeys it
    files = []
    for index in range(18):
        times = (4, 9, 17)[index % 3]  # 1/2, 1/4 and 1/8 of the size
        small = draw_picture(500 + index, (36, 41))
        image = small.resize((36 * times, 41 * times + index % 2), Image.Resampling.BICUBIC)
        image = image.convert("L" if index == 4 else "RGB")
        exif = image.getexif()
        exif[0x0112] = 1 + index % 8
        file = io.BytesIO()
        image.save(
            file,
            "JPEG",
            quality=80,
            exif=exif,
            progressive=index % 2 == 1,
            icc_profile=swapped if index % 5 == 0 else None,
            **({} if index == 4 else {"subsampling": (index // 3) % 3}),
        )
        files.append(file.getvalue())
    return files


def test_large_jpegs_are_decoded_at_a_fraction_of_their_size(chromium, made: Path) -> None:
    """As Pillow decodes them; where a browser cannot, their pixels are averaged."""
    recognizer = open_recognizer(str(made / "classifier.onnx"))
    average = """async ([rgba, width, height]) => {
        const { averaged } = await import("./preprocess.js");
        return [...averaged({ data: Uint8ClampedArray.from(rgba), width, height }, 2).data];
    }"""
    with hosted(made) as url, visiting(chromium, url) as seen:
        for data in large_jpegs():
            ranked = seen.page.evaluate(ASK, base64.b64encode(data).decode())
            shares = expected(recognizer, data)
            for label, share in ranked:
                assert share == pytest.approx(shares[label], abs=1e-3)
        pixels = np.random.default_rng(0).integers(0, 256, (5, 4, 4), np.uint8)
        pixels[..., 3] = 0
        found = seen.page.evaluate(average, [pixels.ravel().tolist(), 4, 5])
        parts = [pixels[y : y + 2, x : x + 2].mean(axis=(0, 1)) for y in (0, 2, 4) for x in (0, 2)]
        assert found == np.floor(np.array(parts) + 0.5).ravel().tolist()


def test_preprocessing_is_python_s_bit_for_bit(chromium, made: Path) -> None:
    """The same pixels from the same image, whatever the preprocessing."""
    run = """async ([rgba, width, height, preprocess]) => {
        const { toPixels, normalize } = await import("./preprocess.js");
        const pixels = toPixels({ data: Uint8ClampedArray.from(rgba), width, height }, preprocess);
        return [[...pixels], [...normalize(pixels, preprocess)]];
    }"""
    cases = [
        Preprocess(size, interpolation=name, resize_mode=mode, fill_color=9)
        for mode in ("shortest", "longest", "squash")
        for size, name in ((15, "bicubic"), (32, "bilinear"), (40, "lanczos"), (24, "nearest"))
    ]
    sizes = [(48, 40), (31, 77), (32, 32), (3, 260)]
    with hosted(made) as url, visiting(chromium, url) as seen:
        for number, preprocess in enumerate(cases):
            width, height = sizes[number % len(sizes)]
            image = Image.fromarray(
                np.random.default_rng(number).integers(0, 256, (height, width, 3), np.uint8)
            )
            rgba = np.asarray(image.convert("RGBA")).ravel().tolist()
            found, inputs = seen.page.evaluate(run, [rgba, width, height, preprocess.to_json()])
            pixels = preprocess.to_pixels(image)
            np.testing.assert_array_equal(np.reshape(found, pixels.shape), pixels, str(preprocess))
            wanted = preprocess.normalize(pixels[None])[0]
            np.testing.assert_array_equal(np.float32(inputs).reshape(wanted.shape), wanted)


def test_upload_camera_threshold_and_offline(chromium, made: Path, tmp_path: Path) -> None:
    photo = tmp_path / "photo.png"
    draw_picture(5).save(photo)
    label = max(
        (shares := expected(open_recognizer(str(made / "classifier.onnx")), photo.read_bytes())),
        key=shares.__getitem__,
    )
    host = contextlib.ExitStack()
    url = host.enter_context(hosted(made))
    with visiting(chromium, url) as seen:
        page = seen.page
        page.set_input_files("#file", photo)
        page.wait_for_selector(f".best strong:text-is('{label}')")
        page.fill("#threshold", "1")
        page.wait_for_selector(".best strong:text-is('unknown')")
        page.fill("#threshold", "0")
        page.click("#camera")
        page.wait_for_selector("#live:visible")
        page.wait_for_function("document.querySelector('#timing').textContent.includes('ms')")
        page.click("#camera")
        assert seen.faults() == []
        page.wait_for_function("navigator.serviceWorker.controller !== null")
        host.close()  # the network is gone
        page.reload()
        page.wait_for_selector("#count:not(:empty)")
        page.set_input_files("#file", photo)
        page.wait_for_selector(f".best strong:text-is('{label}')")


def test_an_image_chosen_while_the_classifier_loads_is_classified(
    chromium, made: Path, tmp_path: Path
) -> None:
    photo = tmp_path / "photo.png"
    draw_picture(5).save(photo)
    _Quiet.held.clear()
    try:
        with hosted(made) as url, opened(chromium, url) as seen:
            seen.page.set_input_files("#file", photo)
            _Quiet.held.set()
            seen.page.wait_for_selector(".best strong", timeout=READY)
    finally:
        _Quiet.held.set()


def test_a_relabelled_file_is_used_at_once(chromium, made: Path, make_text, tmp_path: Path) -> None:
    folder = tmp_path / "page"
    shutil.copytree(made, folder)
    text = make_text(tmp_path / "other.npy", (HOSTILE, "door"))
    fitted = Calibration(LogitScale(10.0), 0.25, "labels", "student", 60, 0.2, 0.05, 0.9)
    save_text(text, replace(load_text(text), calibration=fitted))
    with hosted(folder) as url, visiting(chromium, url) as seen:
        assert seen.page.inner_text("#count") == "4 classes"
        relabel(folder / "classifier.onnx", text, folder / "classifier.onnx")
        seen.page.reload()
        seen.page.wait_for_selector("#count:text-is('2 classes')")
        assert seen.page.inner_text("#fixed li >> nth=0") == HOSTILE
        assert seen.page.inner_text("#least") == "25.0%"


def test_an_image_of_several_things_gets_every_label(
    chromium, made: Path, independent_classifier: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "page"
    shutil.copytree(made, folder)
    shutil.copy(independent_classifier, folder / "classifier.onnx")
    paths = []
    for index in range(8):
        paths.append(tmp_path / f"{index}.png")
        draw_picture(index).save(paths[-1])
    found = predict(str(independent_classifier), *map(str, paths)).predictions
    assert {len(one.labels) for one in found} >= {2, 3}
    with hosted(folder) as url, visiting(chromium, url) as seen:
        assert seen.page.inner_text("#least") == "each label’s own"
        for path, one in zip(paths, found, strict=True):
            seen.page.set_input_files("#file", path)
            text = ", ".join(one.labels) or "unknown"
            seen.page.wait_for_selector(f".best strong:text-is('{text}')")
        seen.page.fill("#threshold", "1")
        seen.page.wait_for_selector(".best strong:text-is('unknown')")


def test_what_cannot_run_gets_one_sentence(chromium, made: Path, tiny_bare_onnx, tmp_path) -> None:
    folder = tmp_path / "page"
    shutil.copytree(made, folder)
    with hosted(folder) as url:
        for content, words in (
            (tiny_bare_onnx.read_bytes(), "has no labels"),
            (b"not a file of ours", "is damaged"),
        ):
            (folder / "classifier.onnx").write_bytes(content)
            with opened(chromium, url) as seen:
                seen.page.wait_for_selector("#problem:visible", timeout=READY)
                assert words in seen.page.inner_text("#problem")
        with opened(chromium, "about:blank") as seen:
            seen.page.context.unroute("**/*")
            seen.page.add_init_script("WebAssembly.validate = () => false")
            seen.page.goto(url)
            seen.page.wait_for_selector("#problem:visible")
            assert "no WebAssembly with SIMD" in seen.page.inner_text("#problem")
