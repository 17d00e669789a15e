"""report: a page and a card of whatever a run has, that nothing in the run can break out of."""

from __future__ import annotations

import itertools
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from clipdistill import cli
from clipdistill.core.errors import FormatError, InputError
from clipdistill.core.files import read_json, write_json
from clipdistill.core.zeroshot import Independent
from clipdistill.formats.measurements import Evaluation, load_measurement, save_measurement
from clipdistill.formats.predictions import load_predictions, save_predictions
from clipdistill.formats.run import RunFolder
from clipdistill.formats.text import load_text, save_text
from clipdistill.measure.several import several_labels
from clipdistill.show.pages.gallery import gallery_of
from clipdistill.show.pages.gather import gather
from clipdistill.show.pages.reliability import reliability_of
from clipdistill.show.report import report
from run_folders import assemble, make_record, make_student, make_text

pytest.importorskip("jinja2")
pytest.importorskip("matplotlib")

KINDS_OF_FOUR = ("dog", "cat", "fish", "bird")
VOID = {"meta", "link", "img", "br", "use"}
HOSTILE = (
    '<script>alert("1")</script>',
    '"><img src=x onerror=alert(1)>',
    "{{ 7 * 7 }}",
    "a | b `c`",
    "$x_1^2$",
    "\u202egnp.exe",
    "new\nline",
    "x" * 300,
    "]]><!-- -->",
    '&amp; id="figure_1"',
)


class Page(HTMLParser):
    """What an HTML file has, and whether its elements are closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.words = ""
        self.heads: list[int] = []
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if re.fullmatch(r"h[1-6]", tag):
            self.heads.append(int(tag[1]))

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.words += data

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]


def page_of(folder: RunFolder) -> Page:
    return Page(report(folder.out).out.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return assemble(tmp_path_factory.mktemp("runs") / "whole")


def test_what_a_reader_looks_for_is_there(whole: RunFolder) -> None:
    page = page_of(whole)
    for words in (
        "A classifier for 20 classes",
        "INT8 resnet18 at 64 px",
        "Dense student",
        "INT8 student",
        "3.0 times faster in ONNX Runtime",
        "Accuracy against latency",
        "All classes",
        "Confusion matrix",
        "Wrong:",
        "Lowest probability of the student",
        "Error before calibration",
        "Cosine with the teacher",
        "Training loss",
        "Images per prompt",
        "Author 3",
        "CC BY 4.0",
        "failed, http",
        "refused, robots",
        "broken.jpg",
        "cannot be decoded",
        "clipdistill embed photos runs/a/embeddings",
        "0f" * 16,
        "2026-11-24 13:02 UTC",
        "a processor, 2 cores",
        "evaluation.json",
        "no image the label heart",
        "it went away",
    ):
        assert words in page.words, words
    images = page.all("img")
    assert len(images) > 10
    assert all(image["alt"] and image["src"].startswith("data:image/jpeg") for image in images)
    charts = [svg for svg in page.all("svg") if svg.get("role") == "img"]
    assert len(charts) == 6 == len(page.all("svg"))
    assert page.heads[0] == 1
    assert all(later <= earlier + 1 for earlier, later in itertools.pairwise(page.heads))
    assert page.words.count("To add this:") == 0


@pytest.mark.parametrize("labelled", [True, False])
def test_labels_are_shown_without_their_template(tmp_path: Path, labelled: bool) -> None:
    prompts = ("a photo of a dog", "a picture of the cat.", "an image of a cat", "a photo of a cat")
    folder = assemble(tmp_path / "run", prompts, labelled=labelled, downloaded=False)
    before = [path.read_bytes() for path in (folder.evaluation, folder.predictions)]
    page = page_of(folder)
    card = report(folder.out, format="markdown").out.read_text(encoding="utf-8")
    for text in (page.words, card):
        assert "photo of a dog" not in text
        assert "an image of a cat" in text  # three would be called cat
    assert "dog" in page.words
    assert "“dog”" in card
    assert [path.read_bytes() for path in (folder.evaluation, folder.predictions)] == before


def test_the_page_asks_for_nothing_and_its_ids_are_its_own(whole: RunFolder) -> None:
    page = page_of(whole)
    for tag, attributes in page.elements:
        assert tag not in ("script", "iframe", "object", "embed", "form", "base")
        for name in ("src", "href", "action", "data", "xlink:href"):
            if name in attributes and tag != "a":
                assert attributes[name].startswith(("data:", "#")), (tag, attributes[name][:80])
        assert not any(name.startswith("on") for name in attributes)
    text = whole.report.read_text(encoding="utf-8")
    assert not re.search(r"url\((?!#)|@import", text)
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    wanted = {
        reference
        for _, attributes in page.elements
        for name in ("href", "aria-labelledby")
        for reference in attributes.get(name, "").split()
        if name != "href" or reference.startswith("#")
    }
    assert {one.removeprefix("#") for one in wanted} <= set(ids)
    policy = next(one["content"] for one in page.all("meta") if "http-equiv" in one)
    assert policy.startswith("default-src 'none';")


def test_the_same_run_gives_the_same_bytes(whole: RunFolder, tmp_path: Path) -> None:
    first = report(whole.out, out=tmp_path / "1.html").out.read_bytes()
    report(whole.out)
    report(whole.out, format="markdown")
    assert report(whole.out, out=tmp_path / "2.html").out.read_bytes() == first
    assert b"report.html" not in first


def test_a_run_of_many_classes_stays_small_and_readable(tmp_path: Path) -> None:
    labels = [f"class number {index}" for index in range(200)]
    folder = assemble(tmp_path / "run", labels, a_class=2)
    result = report(folder.out)
    assert result.size_bytes < 3_000_000
    page = Page(result.out.read_text(encoding="utf-8"))
    assert "weakest of 200 classes" in page.words
    assert "Confusion matrix" not in page.words  # nobody reads 40,000 cells
    assert "Most often confused" in page.words
    assert "class number 199" in page.words


def test_strangers_strings_stay_text(tmp_path: Path) -> None:
    names = ['<img src=x>".jpg', "javascript:alert(1).jpg", "café ünï.jpg", "a'b\"c.jpg"]
    folder = assemble(tmp_path / "run", HOSTILE, names=names)
    text = report(folder.out).out.read_text(encoding="utf-8")
    page = Page(text)
    assert not page.all("script")
    assert {one.get("src", "")[:5] for one in page.all("img")} == {"data:"}
    assert '<script>alert("1")</script>' in page.words
    assert "{{ 7 * 7 }}" in page.words
    assert "\u202e" not in text
    card = report(folder.out, format="markdown").out.read_text(encoding="utf-8")
    assert "<script>" not in re.sub(r"\\.", "", card)
    assert all(line.count(" | ") == 6 for line in card.splitlines() if line.startswith("| "))


def test_only_web_addresses_become_links(tmp_path: Path) -> None:
    from clipdistill.formats.ledger import OK, Ledger, LedgerRow

    folder = assemble(tmp_path / "run", downloaded=False)
    ledger = Ledger(folder.images)
    addresses = ("javascript:alert(1)", "data:text/html,x", "https://example.org/by?a=1&b=2", "//x")
    for index, address in enumerate(addresses):
        ledger.add(
            [
                LedgerRow(
                    f"https://e.org/{index}",
                    f"{index:05d}.jpg",
                    OK,
                    license=f"L{index}",
                    license_url=address,
                    attribution="<b>me</b>",
                )
            ]
        )
    ledger.finish()
    page = page_of(folder)
    links = {one["href"] for one in page.all("a") if not one["href"].startswith("#")}
    assert links == {"https://example.org/by?a=1&b=2"}
    assert "<b>me</b>" in page.words


def test_without_labels_the_teacher_is_the_measure(tmp_path: Path) -> None:
    folder = assemble(tmp_path / "run", labelled=False)
    page = page_of(folder)
    assert "Accuracy is unknown" in page.words
    assert "--labelled FOLDER" in page.words
    assert "Agreement with the teacher against latency" in page.words
    assert "compared with the teacher's labels" in page.words
    assert "Teacher and student differ" in page.words
    assert "Its accuracy is unknown" in report(folder.out, format="markdown").out.read_text()


@pytest.mark.parametrize(
    ("gone", "words"),
    [
        (("benchmark",), "clipdistill run RUN --benchmark"),
        (("predictions",), "There are no predictions for single images"),
        (("baseline",), "The teacher's baseline has not been measured"),
        (("evaluation", "predictions", "benchmark"), "The models have not been evaluated"),
        (("text",), "There are no text embeddings yet"),
    ],
)
def test_a_missing_part_is_named_with_the_command_that_adds_it(
    tmp_path: Path, gone: tuple[str, ...], words: str
) -> None:
    folder = assemble(tmp_path / "run", KINDS_OF_FOUR, downloaded=False)
    for name in gone:
        getattr(folder, name).unlink()
    result = report(folder.out)
    assert words in Page(result.out.read_text(encoding="utf-8")).words
    assert any(words in f"{text} {command}" for text, command in result.missing)
    assert report(folder.out, format="markdown").size_bytes > 1000


def test_a_run_that_has_only_begun(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    make_record(folder)
    page = page_of(folder)
    assert "No student has been trained" in page.words
    make_text(folder, KINDS_OF_FOUR, calibrated=False)
    make_student(folder, "dense")
    page = page_of(folder)
    assert "A resnet18 at 64 px for dog, cat, fish and bird" in page.words
    assert "--sparse --qat" in page.words
    assert "not calibrated" in page.words
    card = report(tmp_path, format="markdown").out.read_text()
    assert "The models have not been measured." in card


def test_labels_of_which_an_image_may_have_several(tmp_path: Path) -> None:
    hostile = ("<b>dog</b>", "cat", "fish", "bird")
    folder = assemble(tmp_path / "run", hostile)
    own = Independent(
        scales=(9.0,) * 4,
        biases=(-2.0,) * 4,
        thresholds=(0.5, 0.35, 0.5, 0.9),
        method="pool",
        source="embeddings",
        images=1234,
        matched=(40, 30, 20, 1),
        unmatched=("bird",),
    )
    text = load_text(folder.text)
    fitted = replace(text.calibration, independent=own)
    save_text(folder.text, replace(text, independent=own, calibration=fitted))
    page = page_of(folder)
    assert "An image has several labels or none" in page.words
    assert "fitted to 1,234 images without labels" in page.words
    assert "given with caution: bird" in page.words
    assert "Threshold for" not in page.words
    found = load_measurement(folder.evaluation, Evaluation)
    truth = np.eye(4, dtype=bool)
    scores = several_labels(truth * 0.6, truth * 0.6 >= 0.5, truth, hostile, np.full(4, 0.35))
    rows = tuple(replace(row, several=scores) for row in found.rows)
    save_measurement(folder.evaluation, replace(found, rows=rows))
    page = page_of(folder)
    assert "the mean F1 of the labels is 100.0%" in page.words
    assert "Average precision" in page.words
    card = report(folder.out, format="markdown").out.read_text()
    assert "gives an image several of these labels or none" in card


def test_images_labelled_by_a_table_are_shown_with_all_their_labels(tmp_path: Path) -> None:
    """Right is a model that gives some of an image's labels and no other, or none to none."""
    folder = assemble(tmp_path / "run", KINDS_OF_FOUR, a_class=1)
    text = load_text(folder.text)
    own = Independent((9.0,) * 4, (-2.0,) * 4, (0.5,) * 4, "pool", "pool", 9, (9,) * 4, ())
    fitted = replace(text.calibration, independent=own, threshold=0.0)
    save_text(folder.text, replace(text, independent=own, calibration=fitted))
    before = load_predictions(folder.predictions)
    truths = ((0, 1), (), (2,), (3, 0))
    shown = tuple(
        replace(picture, truth=None, truths=some)
        for picture, some in zip(before.pictures, truths, strict=True)
    )
    ranked = (
        ((0, 0.9), (1, 0.8), (2, 0.1)),  # both of its labels
        ((1, 0.4), (0, 0.3), (2, 0.1)),  # none, as it has none
        ((2, 0.7), (1, 0.6), (0, 0.1)),  # one too many
        ((3, 0.4), (0, 0.2), (2, 0.1)),  # none of its two
    )
    models = tuple(replace(model, ranked=ranked) for model in before.models)
    save_predictions(folder.predictions, replace(before, pictures=shown, models=models))
    found = load_measurement(folder.evaluation, Evaluation)
    rows = tuple(replace(row, confusion=[], per_class={}) for row in found.rows)
    save_measurement(folder.evaluation, replace(found, rows=rows))
    run = gather(folder.out)
    gallery = gallery_of(run, "dense")
    assert gallery.labelled
    assert {wall.name: wall.total for wall in gallery.walls}["wrong"] == 2
    cards = {card.key: card for wall in gallery.walls for card in wall.cards}
    told = [cards[picture.key] for picture in shown]
    assert [card.truth for card in told] == ["dog, cat", "no label", "fish", "dog, bird"]
    assert [card.said[1].label for card in told] == ["dog, cat", "unknown", "fish, cat", "unknown"]
    assert [card.said[1].right for card in told] == [True, True, False, False]
    assert told[0].said[1].others == (("fish", 0.1),)
    believed = reliability_of(run, "dense")
    assert (believed.truth, believed.total) == ("label", 4)
    page = page_of(folder)
    assert "There are no true labels" not in page.words
    assert "since an image may have several true ones" in page.words


def test_every_command_that_is_proposed_exists(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    make_record(folder)
    make_text(folder, KINDS_OF_FOUR, calibrated=False)
    app = cli.build_app(cli.Output())
    known = {verb.name for verb in cli.VERBS}
    for _, line in report(folder.out).missing:
        tokens = line.partition(" > ")[0].replace(" --json", "").split()[1:]
        if tokens[0] in known:
            app.parse_args(tokens, exit_on_error=False, print_error=False)


def test_pictures_that_are_gone_leave_a_note(tmp_path: Path) -> None:
    folder = assemble(tmp_path / "run", KINDS_OF_FOUR, downloaded=False)
    for path in folder.images.glob("*.jpg"):
        path.unlink()
    page = page_of(folder)
    assert not page.all("img")
    assert "image not found" in page.words


def test_a_run_that_was_moved_shows_its_pictures(tmp_path: Path) -> None:
    assemble(tmp_path / "run", KINDS_OF_FOUR)
    (tmp_path / "run").rename(tmp_path / "elsewhere")
    page = page_of(RunFolder(tmp_path / "elsewhere"))
    assert page.all("img")
    assert "INT8 student" in page.words


@pytest.mark.parametrize(("calibrated", "nothing"), [(0.8995, True), (0.88, False), (None, False)])
def test_where_calibration_alone_lost_nothing_it_is_said(
    tmp_path: Path, calibrated: float | None, nothing: bool
) -> None:
    folder = assemble(tmp_path / "run", KINDS_OF_FOUR)
    path = folder.student("int8") / "student.json"
    card = read_json(path, "the card")
    card["training"]["before"] = [
        {"epoch": 0, "state": "dense", "val_cosine": 0.9},
        {"epoch": 0, "state": "calibrated", "val_cosine": calibrated},
    ]
    write_json(path, card)
    said = "INT8 by calibration alone (clipdistill quantize) lost nothing" in page_of(folder).words
    assert said == nothing


def test_pictures_in_a_tar(tmp_path: Path) -> None:
    import tarfile

    from clipdistill.formats.predictions import Picture
    from clipdistill.show.pages.thumbnails import thumbnail

    folder = assemble(tmp_path / "run", KINDS_OF_FOUR)
    tar = tmp_path / "00000.tar"
    with tarfile.open(tar, "w") as archive:
        archive.add(folder.images / "00001.jpg", "dog/1.jpg")
    found = thumbnail(Picture(str(tar), "sub/00000.tar/dog/1.jpg", None), folder)
    assert found == thumbnail(Picture(str(folder.images / "00001.jpg"), "1.jpg", None), folder)
    assert thumbnail(Picture(str(tar), "00000.tar/cat/1.jpg", None), folder) == ""


def test_the_classifier_says_which_student_it_is(
    tmp_path: Path, tiny_classifier: Path, whole: RunFolder
) -> None:
    folder = RunFolder(tmp_path / "run")
    shutil.copytree(whole.out, folder.out)
    shutil.copy(tiny_classifier, folder.classifier)  # a dense one, whatever the settings say
    assert "A resnet18 at 64 px" in page_of(folder).words
    card = report(folder.out, format="markdown").out.read_text()
    assert 'clipdistill.predict("classifier.onnx", "image.jpg")' in card


def test_speed_is_claimed_only_where_the_rounds_agree(whole: RunFolder, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    shutil.copytree(whole.out, folder.out)
    value = read_json(folder.benchmark, "it")
    value["rows"][2]["round_ms"] = [1.0, 3.3, 3.4]
    write_json(folder.benchmark, value)
    words = page_of(folder).words
    assert "no faster in ONNX Runtime" in words
    assert "3.0 times faster in ONNX Runtime" not in words


def test_one_calibration_error_and_one_time_with_its_spread(whole: RunFolder) -> None:
    words = page_of(whole).words
    assert "Error after calibration" in words
    assert "with stored predictions, the error is" not in words
    assert "1.00 (0.90 to 1.10)" in words
    assert "1.00 (0.90 to 1.10)" in report(whole.out, format="markdown").out.read_text()


def test_the_model_card(whole: RunFolder) -> None:
    result = report(whole.out, format="markdown")
    assert result.out == whole.out / "README.md"
    card = result.out.read_text(encoding="utf-8")
    head = card.split("---\n")[1]
    values = dict(line.split(": ", 1) for line in head.splitlines() if not line.startswith("#"))
    assert values["base_model"] == '"some/teacher"'
    assert values["license"] == "unknown"
    assert '"int8"' in values["tags"]
    heads = re.findall(r"^## (.+)$", card, re.M)
    assert heads == [
        "Intended use",
        "How to use it",
        "Results",
        "How it was made",
        "Limits",
        "Licences",
    ]
    assert "| **INT8 student** |" in card
    assert "[CC BY 4.0](<https://creativecommons.org/licenses/by/4.0/>) (20)" in card
    assert "pretrained weights of unknown licence" in card


@pytest.mark.parametrize("name", ["evaluation", "benchmark", "baseline", "predictions"])
@pytest.mark.parametrize("content", ["{", '{"rows": 3}', '{"rows": [{"model": 1}]}'])
def test_damaged_parts_are_named(tmp_path: Path, name: str, content: str) -> None:
    folder = RunFolder(tmp_path)
    make_record(folder)
    path = getattr(folder, name)
    path.write_text(content)
    with pytest.raises(FormatError, match=re.escape(path.name)):
        report(tmp_path)
    assert not folder.report.exists()


def test_a_measurement_that_lacks_a_field_or_is_newer_is_refused_in_a_sentence(
    tmp_path: Path,
) -> None:
    folder = assemble(tmp_path / "run", KINDS_OF_FOUR, downloaded=False)
    whole = read_json(folder.evaluation, "it")
    del whole["rows"][0]["agreement"]
    write_json(folder.evaluation, whole)
    with pytest.raises(FormatError, match=r"evaluation\.json: .*agreement is missing.*again"):
        report(folder.out)
    write_json(folder.evaluation, whole | {"version": 9})
    with pytest.raises(FormatError, match=r"evaluation\.json: .*newer.*Update clipdistill"):
        report(folder.out)


def test_a_run_of_an_older_version_is_shown(tmp_path: Path) -> None:
    folder = assemble(tmp_path / "run", KINDS_OF_FOUR, downloaded=False)
    now = page_of(folder).words
    for path in (folder.evaluation, folder.benchmark):
        value = read_json(path, "it")
        del value["format"], value["version"]
        if "conclusions" in value:
            value["verdicts"] = value.pop("conclusions")
        write_json(path, value)
    for path, former in ((folder.baseline, "ceiling"), (folder.predictions, "opinions")):
        value = read_json(path, "it") | {"format": f"clipdistill.{former}"}
        write_json(path.with_name(f"{former}.json"), value)
        path.unlink()
    then = page_of(folder).words
    assert "The teacher's baseline has not been measured" not in then
    assert then[: then.rindex("Files")] == now[: now.rindex("Files")]


def test_a_folder_without_a_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"run\.json: the record of the run is missing"):
        report(tmp_path)
