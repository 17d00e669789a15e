"""select: thresholds, counts, balance, near-duplicates, sheets; and the choosing by itself."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from clipdistill.collect.choose import choose, without_repeats
from clipdistill.collect.clusters import repeats, repeats_in_clusters
from clipdistill.collect.contact_sheet import WIDTH
from clipdistill.collect.select import select
from clipdistill.core.errors import InputError, MismatchError, OptionError, OutputError
from clipdistill.core.zeroshot import normalized
from clipdistill.formats.embeddings import EmbeddingStore, Header, Row
from clipdistill.formats.selection import load_selection
from clipdistill.formats.text import TextEmbeddings, save_text
from clipdistill.images.sources import list_images

NAMES = ("cat", "猫 / «dog»\t?", "../up")


class Pile:
    """Images whose embeddings are made up: `near(label, cosine)` is so similar to a label."""

    def __init__(self, folder: Path, teacher, pictures):
        self.folder, self.teacher, self.pictures = folder, teacher, pictures
        self.vectors: list[np.ndarray] = []
        self.random = np.random.default_rng(0)
        labels = np.eye(teacher.dim, dtype=np.float32)[: len(NAMES)]
        text = TextEmbeddings(labels, NAMES, tuple((n,) for n in NAMES), ("{}",), teacher)
        self.text = save_text(folder / "text.npy", text)

    def near(self, label: int, cosine: float, count: int = 1) -> None:
        for _ in range(count):
            free = self.random.standard_normal(self.teacher.dim)
            free[: len(NAMES)] = 0
            free *= np.sqrt(1 - cosine**2) / np.linalg.norm(free)
            free[label] = cosine
            self.vectors.append(free.astype(np.float32))

    def again(self, index: int, shift: float = 0.01) -> None:
        noise = self.random.standard_normal(self.teacher.dim).astype(np.float32) * shift
        self.vectors.append(normalized(self.vectors[index] + noise))

    def run(self, out: str = "out", **options):
        images = self.folder / "images"
        self.pictures(images, len(self.vectors))
        keys = [item.key for item in list_images(images)]
        order = [f"picture_{n}.png" for n in range(len(self.vectors))]
        assert sorted(order) == keys
        store = EmbeddingStore(
            self.folder / "emb", Header(self.teacher, "clip-retrieval", "float32", True)
        )
        if not store.shards:
            store.append([Row(key, "", 1, 1) for key in order], np.stack(self.vectors))
            store.finish([])
        return select(images, self.folder / "emb", self.text, self.folder / out, **options)

    def numbers(self, out: str = "out") -> list[int]:
        keys = load_selection(self.folder / out)
        return [int(key.removeprefix("picture_").removesuffix(".png")) for key in keys]

    def table(self, out: str = "out") -> dict[int, dict]:
        rows = pyarrow.parquet.read_table(self.folder / out / "selection.parquet").to_pylist()
        return {int(r["image_path"].removeprefix("picture_").removesuffix(".png")): r for r in rows}


@pytest.fixture
def pile(tmp_path, tiny_teacher, pictures) -> Pile:
    return Pile(tmp_path, tiny_teacher.card, pictures)


def test_labels_take_turns_and_the_best_come_first(pile):
    for cosine in (0.3, 0.5, 0.4):
        pile.near(0, cosine)  # 0, 1, 2
    pile.near(1, 0.35)  # 3
    pile.near(2, 0.2)  # 4
    pile.near(2, 0.6)  # 5
    result = pile.run(num_images=2)
    assert pile.numbers() == [1, 3, 5, 2, 4]
    table = pile.table()
    assert list(table) == [1, 3, 5, 2, 4, 0]
    assert (table[0]["status"], table[0]["rank"], table[0]["label"]) == ("over-count", 3, "cat")
    assert np.isclose(table[1]["score"], 0.5, atol=1e-5)
    assert [one.taken for one in result.labels] == [2, 1, 2]
    assert [one.over for one in result.labels] == [1, 0, 0]
    assert np.isclose(result.labels[0].lowest, 0.4, atol=1e-5)
    assert result.labels[1].label == NAMES[1]
    card = json.loads((pile.folder / "out/selection.json").read_text())
    assert card["selected"] == result.taken == 5
    assert card["labels"] == dict(zip(NAMES, [2, 1, 2], strict=True))
    assert "5 of 6 images selected" in str(result.summary()[0])


def test_a_threshold(pile):
    for cosine in (0.31, 0.29, 0.5):
        pile.near(0, cosine)
    pile.near(1, 0.1, 3)
    result = pile.run(min_score=0.3)
    assert pile.numbers() == [2, 0]
    assert [one.below for one in result.labels] == [1, 3, 0]
    assert result.labels[1].lowest is None
    assert pile.table()[1]["status"] == "below-threshold"


def test_a_cap_keeps_the_balance(pile):
    pile.near(0, 0.9, 8)
    pile.near(1, 0.2, 8)
    pile.near(2, 0.3, 1)
    pile.run(max_images=7, duplicates=1)
    labels = [pile.table()[number]["label"] for number in pile.numbers()]
    assert sorted(map(NAMES.index, labels)) == [0, 0, 0, 1, 1, 1, 2]
    statuses = [row["status"] for row in pile.table().values()]
    assert statuses.count("over-max") == 10


def test_of_two_near_duplicates_the_higher_ranked_one_stays(pile):
    pile.near(0, 0.5)  # 0
    pile.near(0, 0.4)  # 1
    pile.again(0)  # 2
    pile.again(0)  # 3
    pile.near(1, 0.3)  # 4
    result = pile.run(num_images=2)
    table = pile.table()
    alike = sorted([0, 2, 3], key=lambda n: -table[n]["score"])
    assert table[alike[0]]["status"] == "taken"
    for number in alike[1:]:
        assert table[number]["status"] == "near-duplicate"
        assert table[number]["duplicate_of"] == f"picture_{alike[0]}.png"
    assert set(pile.numbers()) == {alike[0], 1, 4}
    assert result.labels[0].near_duplicates == 2
    pile.run("all", num_images=9, duplicates=1)
    assert set(pile.numbers("all")) == {0, 1, 2, 3, 4}


def test_near_duplicates_across_labels(pile):
    first = np.zeros(pile.teacher.dim, np.float32)
    first[[0, 1, 9]] = [0.5, 0.49, 0.7]
    second = first.copy()
    second[[0, 1]] = [0.49, 0.5]
    pile.vectors += [normalized(second), normalized(first)]
    pile.run(num_images=5)
    assert pile.numbers() == [1]
    assert pile.table()[0]["duplicate_of"] == "picture_1.png"


def test_the_same_bytes_every_time(pile):
    pile.near(0, 0.4, 5)
    pile.near(1, 0.3, 5)
    pile.again(0)
    pile.run("one", num_images=3)
    pile.run("two", num_images=3)
    files = sorted(p.relative_to(pile.folder / "one") for p in (pile.folder / "one").rglob("*.*"))
    assert len(files) == 3 + len(NAMES)
    for file in files:
        one, two = pile.folder / "one" / file, pile.folder / "two" / file
        assert one.read_bytes() == two.read_bytes()


def test_sheets_show_any_label_and_survive_missing_images(pile):
    pile.near(0, 0.4, 60)
    pile.near(1, 0.3, 30)
    for _ in range(10):
        pile.again(0)
    images = pile.folder / "images"
    pile.run("first", num_images=50)
    for number in (1, 2, 3):
        (images / f"picture_{number}.png").write_bytes(b"not a picture")
    result = pile.run(num_images=50)
    sheets = sorted((pile.folder / "out/sheets").iterdir())
    assert [path.name for path in sheets] == ["001-cat.png", "002-猫-dog.png", "003-up.png"]
    sizes = []
    for path in sheets:
        with Image.open(path) as sheet:
            sheet.load()
            assert sheet.format == "PNG"
            assert sheet.width == WIDTH
            sizes.append(sheet.height)
    assert sizes[0] > sizes[1] > sizes[2]
    assert sizes[0] < 1800
    assert result.taken == 80
    pile.run("none", num_images=1, sheets=False)
    assert list((pile.folder / "none/sheets").iterdir()) == []


def test_images_without_embeddings_and_embeddings_without_images(pile):
    pile.near(0, 0.4, 4)
    pile.run("first", num_images=9)
    (pile.folder / "images/picture_0.png").unlink()
    pile.pictures(pile.folder / "images/new", 2)
    (pile.folder / "images/bro\nken.png").write_bytes(b"x")
    result = select(
        pile.folder / "images", pile.folder / "emb", pile.text, pile.folder / "out", num_images=9
    )
    assert (result.images, result.taken, result.not_embedded) == (3, 3, 2)
    assert result.unlistable == ("bro\nken.png",)
    assert set(pile.numbers()) == {1, 2, 3}
    text = "\n".join(map(str, result.summary()))
    assert "because not embedded: 2 images" in text
    assert r"bro\nken.png" in text


def test_wrong_questions(pile, other_teacher, tmp_path, pictures, make_text):
    pile.near(0, 0.4, 2)
    with pytest.raises(InputError, match="How many"):
        pile.run()
    for wrong in (
        {"num_images": 0},
        {"max_images": 0},
        {"min_score": 2.0},
        {"num_images": 1, "duplicates": 0.0},
        {"num_images": 1, "duplicates": 1.5},
    ):
        with pytest.raises(InputError):
            pile.run(**wrong)
    other = make_text(tmp_path / "other.npy", teacher=other_teacher)
    with pytest.raises(MismatchError):
        select(tmp_path / "images", tmp_path / "emb", other, tmp_path / "o", num_images=1)
    pictures(tmp_path / "elsewhere/deep", 1)
    with pytest.raises(InputError, match="no embedding of any image"):
        select(tmp_path / "elsewhere", tmp_path / "emb", pile.text, tmp_path / "o", num_images=1)
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError):
        pile.run("file", num_images=1)


def plain_choice(labels, scores, vectors, num_labels, min_score, per_label, most, duplicates):
    """The rules of `choose`, one image at a time."""
    queues = [
        sorted(
            (
                i
                for i in range(len(labels))
                if labels[i] == label and (min_score is None or scores[i] >= min_score)
            ),
            key=lambda i: (-scores[i], i),
        )
        for label in range(num_labels)
    ]
    taken, counts = [], [0] * num_labels
    going = True
    while going:
        going = False
        for label, queue in enumerate(queues):
            if per_label is not None and counts[label] >= per_label:
                continue
            while queue and (most is None or len(taken) < most):
                item = queue.pop(0)
                alike = [t for t in taken if vectors[t] @ vectors[item] >= duplicates]
                if duplicates < 1 and alike:
                    continue
                taken.append(item)
                counts[label] += 1
                going = True
                break
    return taken


@settings(max_examples=150, deadline=None)
@given(
    st.integers(0, 60),
    st.integers(1, 4),
    st.none() | st.floats(-0.5, 0.9),
    st.none() | st.integers(1, 12),
    st.none() | st.integers(1, 30),
    st.sampled_from([0.5, 0.8, 0.95, 1.0]),
    st.integers(0, 10_000),
)
def test_choosing_follows_its_rules(n, num_labels, min_score, per_label, most, duplicates, seed):
    random = np.random.default_rng(seed)
    centres = random.standard_normal((6, 5))
    vectors = normalized(centres[random.integers(0, 6, n)] + 0.3 * random.standard_normal((n, 5)))
    labels = random.integers(0, num_labels, n)
    scores = random.choice([0.1, 0.2, 0.5, 0.7, 0.71], n).astype(np.float32)
    min_score = None if min_score is None else float(np.float32(min_score))
    choice = choose(
        labels,
        scores,
        lambda items: vectors[items],
        num_labels=num_labels,
        min_score=min_score,
        per_label=per_label,
        most=most,
        duplicates=duplicates,
    )
    assert choice.order.tolist() == plain_choice(
        labels, scores, vectors, num_labels, min_score, per_label, most, duplicates
    )
    for place, status in enumerate(choice.status):
        assert (status == "taken") == (place in choice.order)
        assert (status == "near-duplicate") == (choice.duplicate_of[place] >= 0)
        assert (status == "below-threshold") == (
            min_score is not None and scores[place] < min_score
        )


def test_long_piles_are_looked_at_piece_by_piece():
    random = np.random.default_rng(0)
    vectors = normalized(random.standard_normal((3000, 8)))
    vectors[1500:] = vectors[:1500]
    assert np.array_equal(without_repeats(vectors, 0.9999), np.arange(1500))
    assert len(without_repeats(vectors, 0.5)) < 1500


def crowd(seed: int, n: int, dim: int = 96) -> np.ndarray:
    """Unit vectors as photos have them: things in groups of different width, a third of them saved
    again with changes (cosines of 0.9 to 1 with the original), some of them many times."""
    random = np.random.default_rng(seed)
    centres = random.standard_normal((n // 60, dim))
    spread = random.uniform(0.2, 1.2, (n // 60, 1))
    group = random.integers(0, len(centres), n)
    vectors = normalized(centres[group] + spread[group] * random.standard_normal((n, dim)))
    copies = random.random(n) < 1 / 3
    copies[0] = False
    originals = np.flatnonzero(~copies)
    source = originals[(len(originals) * random.random(copies.sum()) ** 2).astype(int)]
    shift = random.uniform(0, 0.05, (copies.sum(), 1))
    vectors[copies] = normalized(
        vectors[source] + shift * random.standard_normal((copies.sum(), dim))
    )
    return vectors.astype(np.float32)


def test_clusters_find_what_all_pairs_find_but_for_a_few() -> None:
    vectors = crowd(0, 6000)
    exact = repeats(vectors, 0.95) >= 0
    found = repeats_in_clusters(len(vectors), lambda places: vectors[places], 0.95)
    assert 0.2 < exact.mean() < 0.5
    assert (found[exact] >= 0).mean() > 0.99
    assert (found >= 0)[~exact].mean() < 0.01
    kept = np.flatnonzero(found < 0)
    same = np.flatnonzero(found >= 0)
    assert (found[found[same]] < 0).all()
    assert (found[same] < same).all()  # the better one stays
    left = vectors[kept] @ vectors[kept].T >= 0.95
    assert np.triu(left, 1).sum() <= 0.01 * exact.sum()


def test_all_pairs_are_those_of_the_plain_rule() -> None:
    vectors = crowd(1, 1500)
    kept: list[int] = []
    expected: list[int] = []
    for place, vector in enumerate(vectors):
        near = [one for one in kept if vectors[one] @ vector >= 0.95]
        expected.append(near[0] if near else -1)
        kept += [] if near else [place]
    assert repeats(vectors, 0.95).tolist() == expected


def test_large_clusters_are_divided_without_separating_copies(monkeypatch) -> None:
    monkeypatch.setattr("clipdistill.collect.clusters.LARGEST", 100)
    vectors = np.repeat(crowd(2, 60), 50, axis=0)
    found = repeats_in_clusters(len(vectors), lambda places: vectors[places], 0.999)
    assert (found < 0).sum() <= 1.1 * (repeats(vectors, 0.999) < 0).sum()


def test_near_duplicates_in_clusters_leave_the_better_one(pile) -> None:
    for label in range(3):
        for cosine in (0.6, 0.5, 0.4):
            pile.near(label, cosine)
    for index in range(9):
        pile.again(index)
    exact = pile.run("exact", num_images=5)
    clustered = pile.run("clustered", num_images=5, exact_up_to=3)
    rows = pyarrow.parquet.read_table(pile.folder / "clustered/selection.parquet").to_pylist()
    assert (clustered.taken, exact.taken) == (9, 9)
    score = {row["image_path"]: row["score"] for row in rows}
    repeated = [row for row in rows if row["status"] == "near-duplicate"]
    assert len(repeated) == 9
    assert all(score[row["duplicate_of"]] >= row["score"] for row in repeated)
    assert json.loads((pile.folder / "clustered/selection.json").read_bytes())["clustered"]
    with pytest.raises(OptionError, match="--exact-up-to"):
        pile.run("wrong", num_images=5, exact_up_to=-1)
