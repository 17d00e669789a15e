"""adapt: class vectors that fit a pool, wherever a pool can support them; text where it cannot."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipdistill.core.errors import InputError, MismatchError
from clipdistill.core.zeroshot import LogitScale, normalized, probabilities
from clipdistill.distillation import class_vectors
from clipdistill.distillation.adapt import adapt
from clipdistill.distillation.class_vectors import learn
from clipdistill.formats.cards import TeacherCard
from clipdistill.formats.embeddings import EmbeddingStore, Header, Row, load_embeddings
from clipdistill.formats.text import TextEmbeddings, load_text, save_text
from clipdistill.images.preprocess import Preprocess
from clipdistill.models.open import open_embedder

DIM = 48


class World:
    """Classes on a sphere: texts around one direction, images around another (the modality gap).

    Text says where a class lies, but not exactly, so that there is something to learn.
    """

    def __init__(self, classes: int = 12, seed: int = 0, noise: float = 0.55) -> None:
        self.random = np.random.default_rng(seed)
        self.centres = normalized(self.random.standard_normal((classes, DIM)))
        self.gap = 1.2 * normalized(self.random.standard_normal((1, DIM)))
        self.noise = noise
        self.text = self._around(self.centres, 0.5) - 0.6 * self.gap
        self.text = normalized(self.text)

    def _around(self, points: np.ndarray, noise: float) -> np.ndarray:
        scaled = self.random.standard_normal(points.shape) / np.sqrt(DIM)
        return points + 2.2 * noise * scaled

    def images(self, counts: np.ndarray | int) -> tuple[np.ndarray, np.ndarray]:
        """Embeddings (N, D) and classes (N,) of so many images of each class."""
        counts = np.broadcast_to(counts, len(self.centres))
        truth = np.repeat(np.arange(len(counts)), counts)
        return normalized(self._around(self.centres[truth], self.noise) + self.gap), truth

    def junk(self, count: int) -> np.ndarray:
        """Images of classes that are not on the list."""
        other = normalized(self.random.standard_normal((20, DIM)))
        which = self.random.integers(0, len(other), count)
        return normalized(self._around(other[which], self.noise) + self.gap)

    def gain(self, vectors: np.ndarray, among: np.ndarray | None = None) -> float:
        """Accuracy of class vectors minus that of text, on new images of the classes `among`."""
        counts = np.zeros(len(self.centres), int)
        counts[slice(None) if among is None else among] = 60
        images, truth = self.images(counts)
        accuracy = [
            float(((images @ one.T).argmax(axis=1) == truth).mean()) for one in (vectors, self.text)
        ]
        return accuracy[0] - accuracy[1]


def blocks(pool: np.ndarray, size: int = 256) -> class_vectors.Blocks:
    return lambda: (pool[start : start + size] for start in range(0, len(pool), size))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_clean_pool_makes_the_classes_better(seed):
    world = World(seed=seed)
    pool, truth = world.images(150)
    found = learn(world.text, blocks(pool))
    assert not found.kept_text
    assert world.gain(found.vectors) > 0.03
    assert (found.assigned.labels == truth).mean() > (pool @ world.text.T).argmax(1).__eq__(
        truth
    ).mean()
    assert np.allclose(np.linalg.norm(found.vectors, axis=1), 1, atol=1e-5)
    assert found.vectors.dtype == np.float32


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(
    "counts",
    [
        pytest.param(np.full(12, 5), id="few images"),
        pytest.param(np.geomspace(200, 10, 12).astype(int), id="20 to 1"),
        pytest.param(np.array([200] * 6 + [10] * 6), id="half the classes thin"),
        pytest.param(np.array([0] + [100] * 11), id="a class without an image"),
        pytest.param(np.array([0] * 3 + [100] * 9), id="three classes without an image"),
    ],
)
def test_an_uneven_pool_does_no_harm(counts, seed):
    world = World(seed=seed)
    found = learn(world.text, blocks(world.images(counts)[0]))
    assert world.gain(found.vectors) >= -0.01


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_half_junk_does_no_harm(seed):
    world = World(seed=seed)
    pool, _ = world.images(100)
    found = learn(world.text, blocks(np.concatenate([pool, world.junk(len(pool))])))
    assert world.gain(found.vectors) >= -0.01


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_near_synonyms_share_their_images_without_harm_to_the_others(seed):
    world = World(seed=seed)
    twin = normalized(world.text[:1] + 0.05 * world.random.standard_normal((1, DIM)))
    found = learn(np.concatenate([world.text, twin]), blocks(world.images(100)[0]))
    merged = found.vectors[:-1]
    assert not found.kept_text
    assert world.gain(merged, among=np.arange(1, 12)) >= -0.01
    assert found.vectors[0] @ found.vectors[-1] > 0.8


def test_a_long_class_list_with_images_of_every_class():
    world = World(classes=300, noise=0.3)
    found = learn(world.text, blocks(world.images(12)[0]))
    assert not found.kept_text
    assert world.gain(found.vectors) > 0


def test_a_class_without_images_moves_with_the_others():
    world = World()
    world.text[0] = normalized(-world.gap[0] * 5 + world.centres[0])  # far from every image
    pool, _ = world.images(np.array([0] + [100] * 11))
    found = learn(world.text, blocks(pool))
    assert found.refused.tolist() == [True] + [False] * 11
    there = normalized(world.text[0] + normalized(world.text[:1] + found.shift)[0])
    assert np.allclose(found.vectors[0], there, atol=1e-5)
    assert found.vectors[0] @ world.gap[0] > world.text[0] @ world.gap[0]


@pytest.mark.parametrize(
    ("text", "pool", "reason"),
    [
        pytest.param(slice(0, 1), "classes", "only one class", id="one class"),
        pytest.param(slice(None), "one image of each", "of the 12 classes", id="too few images"),
        pytest.param(slice(None), "two classes", "of the 12 classes", id="few of the classes"),
        pytest.param(slice(None), "junk", "drift away", id="nothing but junk"),
    ],
)
def test_text_is_kept_where_the_pool_cannot_support_more(text, pool, reason):
    world = World(noise=0.3)
    classes = world.text[text]
    images = {
        "classes": lambda: world.images(50)[0],
        "one image of each": lambda: world.images(1)[0],
        "two classes": lambda: world.images(np.array([40] * 2 + [0] * 10))[0],
        "junk": lambda: world.junk(3000),
    }[pool]()
    found = learn(classes, blocks(images))
    assert reason in found.kept_text
    assert np.array_equal(found.vectors, classes)
    assert not found.shift.any()
    assert found.refused.all()


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000))
def test_the_order_of_images_and_classes_changes_nothing(seed):
    world = World(classes=6, seed=seed)
    pool, _ = world.images(world.random.integers(3, 60, 6))
    images, classes = (np.random.default_rng(seed).permutation(n) for n in (len(pool), 6))
    one = learn(world.text, blocks(pool))
    other = learn(world.text[classes], blocks(pool[images]))
    assert one.kept_text == other.kept_text
    assert np.allclose(one.vectors[classes], other.vectors, atol=1e-4)
    labels = classes[other.assigned.labels]
    assert (one.assigned.labels[images] == labels).mean() > 0.99


def test_the_size_of_a_block_changes_nothing():
    world = World()
    pool = np.concatenate([world.images(400)[0], world.junk(1000)])
    whole = learn(world.text, blocks(pool, len(pool)))
    for size in (1, 97, 1024):
        parts = learn(world.text, blocks(pool, size))
        assert np.allclose(whole.vectors, parts.vectors, atol=1e-5)
        assert (whole.chosen == parts.chosen).mean() > 0.999


def test_golden_numbers():
    """One round by hand: two classes, two dimensions; 5 images and a prior of 5 each."""
    text = normalized(np.array([[1.0, 0.1], [0.1, 1.0]]))
    turns = np.deg2rad([0, 1, 2, 3, 4, 40, 90, 89, 88, 87, 86, 50])
    pool = np.stack([np.cos(turns), np.sin(turns)], axis=1).astype(np.float32)
    first = class_vectors.assign(text, blocks(pool, 5))
    assert first.counts(2).tolist() == [6, 6]
    chosen = class_vectors.nearest_share(first, 2)
    assert np.flatnonzero(~chosen).tolist() == [5, 11]
    sums, counts = class_vectors.sums_of(first.labels, chosen, blocks(pool, 5), 2)
    assert counts.tolist() == [5, 5]
    assert np.allclose(sums[0], [np.cos(turns[:5]).sum(), np.sin(turns[:5]).sum()], atol=1e-5)
    vectors, shift = class_vectors.moved(text, sums, counts)
    means = normalized(sums)
    assert np.allclose(shift, (means - text).mean(axis=0), atol=1e-6)
    expected = normalized(text + normalized(sums + 5 * normalized(text + shift)))
    assert np.allclose(vectors, expected, atol=1e-6)
    angles = np.rad2deg(np.arctan2(vectors[:, 1], vectors[:, 0]))
    assert np.allclose(angles, [4.3835, 85.6165], atol=1e-3)


# The verb.

CARD = TeacherCard("world", "", "ab" * 16, DIM, LogitScale(), Preprocess(32))


def save_pool(root, vectors, names=None, card=CARD):
    store = EmbeddingStore(root, Header(card, "clip-retrieval", "float32", True))
    names = names or [f"{number}.png" for number in range(len(vectors))]
    store.append([Row(name, name, 1, 1) for name in names], vectors)
    store.finish([])
    return root


def save_classes(path, vectors, card=CARD, labels=None):
    labels = tuple(labels or (f"class {number}" for number in range(len(vectors))))
    prompts = tuple((label,) for label in labels)
    return save_text(path, TextEmbeddings(vectors, labels, prompts, ("{}",), card))


@pytest.fixture
def world():
    return World()


@pytest.fixture
def text(tmp_path, world):
    return save_classes(tmp_path / "text.npy", world.text)


@pytest.fixture
def pool(tmp_path, world):
    return save_pool(tmp_path / "pool", world.images(60)[0])


def test_writes_text_embeddings_that_say_where_they_come_from(tmp_path, world, text, pool):
    result = adapt(text, pool, tmp_path / "out.npy")
    found = load_text(result.out)
    assert world.gain(found.vectors) > 0.03
    assert found.labels == load_text(text).labels
    told = found.adaptation
    assert np.allclose(told.text, world.text, atol=1e-6)
    assert (told.pool, told.teacher) == (pool.name, str(CARD))
    assert (told.method, told.rounds, told.kept_text, told.student) == ("best share", 3, "", "")
    assert told.images == result.images
    assert sum(told.images) == 720
    assert told.refused == result.refused == ()
    assert 0 < result.changed == pytest.approx(told.changed)
    shown = "\n".join(map(str, result.summary()))
    assert "12 class vectors learnt from 720 images" in shown
    assert load_text(save_text(tmp_path / "again.npy", found)).adaptation.images == told.images


def test_a_reader_that_does_not_know_the_new_field_reads_the_rest(tmp_path, text, pool):
    out = adapt(text, pool, tmp_path / "out.npy").out
    card = json.loads(out.with_suffix(".json").read_text())
    assert card["version"] == 1
    del card["adaptation"]
    out.with_suffix(".json").write_text(json.dumps(card))
    assert load_text(out).adaptation is None


def test_adapting_again_starts_from_the_text(tmp_path, text, pool):
    once = load_text(adapt(text, pool, tmp_path / "once.npy").out)
    twice = load_text(adapt(tmp_path / "once.npy", pool, tmp_path / "once.npy").out)
    assert np.allclose(once.vectors, twice.vectors, atol=1e-5)


def test_labels_that_are_added_later_move_as_the_others_did(tmp_path, world, pool):
    known = save_classes(tmp_path / "known.npy", world.text[:10])
    found = load_text(adapt(known, pool, tmp_path / "out.npy").out)
    beside = np.concatenate([found.vectors, found.beside(world.text[10:])])
    plain = np.concatenate([found.vectors, world.text[10:]])
    assert world.gain(beside, among=np.arange(10, 12)) > world.gain(plain, among=np.arange(10, 12))
    assert np.array_equal(load_text(known).beside(world.text), world.text)


def test_rows_that_are_broken_or_zero_are_left_out_and_counted(tmp_path, world, text, pool):
    vectors = np.array(load_embeddings(pool).vectors)
    broken = np.concatenate([np.full((2, DIM), np.nan, np.float32), vectors, np.zeros((3, DIM))])
    found = adapt(text, save_pool(tmp_path / "broken", broken), tmp_path / "out.npy")
    fine = adapt(text, pool, tmp_path / "fine.npy")
    assert found.left_out == 5
    assert load_text(found.out).adaptation.left_out == 5
    assert "Left out: 5 rows" in "\n".join(map(str, found.summary()))
    assert np.allclose(load_text(found.out).vectors, load_text(fine.out).vectors, atol=1e-5)


def test_a_refused_pool_keeps_the_text_and_says_why(tmp_path, world, text):
    tiny = save_pool(tmp_path / "tiny", world.images(1)[0])
    result = adapt(text, tiny, tmp_path / "out.npy")
    found = load_text(result.out)
    assert np.allclose(found.vectors, world.text, atol=1e-6)
    assert "3 images or more" in result.kept_text == found.adaptation.kept_text
    assert found.adaptation.rounds == 0
    assert str(result.summary()[0]).startswith("Text embeddings kept as they are: only")
    assert np.allclose(found.beside(world.text), world.text, atol=1e-6)


@pytest.mark.parametrize("keep_text", [False, True])
def test_independent_probabilities_are_fitted_to_the_pool(tmp_path, world, text, pool, keep_text):
    result = adapt(text, pool, tmp_path / "out.npy", independent=True, keep_text=keep_text)
    found = load_text(result.out)
    fitted = found.independent
    assert (fitted.method, fitted.source, fitted.images) == ("pool", pool.name, 720)
    assert np.allclose(found.vectors, world.text, atol=1e-6) is keep_text
    images, truth = world.images(40)
    given_labels = probabilities(images, found.vectors, found.teacher_logits) >= 0.5
    right = given_labels[np.arange(len(truth)), truth]
    assert right.mean() > (0.4 if keep_text else 0.8)
    assert given_labels.sum() - right.sum() < 0.5 * len(truth)
    shown = "\n".join(map(str, result.summary()))
    assert "several labels or none; fitted to 720 images" in shown


def test_independent_text_stays_so_and_labels_without_images_are_named(tmp_path, world, text):
    pool = save_pool(tmp_path / "part", world.images(np.array([60] * 10 + [0] * 2))[0])
    once = adapt(text, pool, tmp_path / "once.npy", independent=True)
    assert {"class 10", "class 11"} <= set(load_text(once.out).independent.unmatched)
    assert "they are given from 90% on" in "\n".join(map(str, once.summary()))
    whole = save_pool(tmp_path / "whole", world.images(60)[0])
    twice = load_text(adapt(once.out, whole, tmp_path / "twice.npy").out)
    assert twice.independent.source == "whole"
    assert twice.independent.unmatched == ()


def test_a_pool_of_few_images_has_no_background(tmp_path, world, text):
    few = save_pool(tmp_path / "few", world.images(1)[0])
    with pytest.raises(InputError, match="few: --independent needs 20 images or more"):
        adapt(text, few, tmp_path / "out.npy", independent=True)
    assert not (tmp_path / "out.npy").exists()


def test_the_students_own_embeddings_take_part(
    tmp_path, pictures, tiny_student, tiny_text, tiny_teacher
):
    paths = pictures(tmp_path / "photos", 12)
    (tmp_path / "photos" / "picture_3.png").write_bytes(b"no picture")
    names = [path.name for path in paths]
    classes = load_text(tiny_text)
    near = np.repeat(classes.vectors, 3, axis=0)
    random = np.random.default_rng(0)
    near = normalized(near + 0.05 * random.standard_normal(near.shape))
    pool = save_pool(tmp_path / "pool", near, names, tiny_teacher.card)
    result = adapt(
        tiny_text,
        pool,
        tmp_path / "out.npy",
        student=tiny_student,
        images=tmp_path / "photos",
        device="cpu",
    )
    assert result.student_images == 11
    assert [failure.image_path for failure in result.failures] == ["picture_3.png"]
    found = load_text(result.out)
    assert found.adaptation.student == tiny_student.name
    student = open_embedder(str(tiny_student), device="cpu")
    pixels = [student.spec.preprocess.to_pixels(open_picture(path)) for path in paths[:3]]
    sums = student.embed_pixels(np.stack(pixels)).sum(axis=0)
    prior = normalized(classes.vectors[0] + found.adaptation.shift)
    expected = normalized(classes.vectors[0] + normalized(sums + class_vectors.PRIOR * prior))
    assert np.allclose(found.vectors[0], expected, atol=1e-4)


def open_picture(path):
    from PIL import Image

    return Image.open(path).convert("RGB")


def test_bad_input_is_said_in_a_sentence(tmp_path, world, text, pool, tiny_student):
    out = tmp_path / "out.npy"
    other = replace(CARD, fingerprint="cd" * 16)
    strange = save_pool(tmp_path / "strange", world.images(5)[0], card=other)
    with pytest.raises(MismatchError, match="are not in the same embedding space"):
        adapt(text, strange, out)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(InputError, match="no embeddings"):
        adapt(text, empty, out)
    broken = save_pool(tmp_path / "zero", np.zeros((4, DIM), np.float32))
    with pytest.raises(InputError, match="none of its 4 rows can be used"):
        adapt(text, broken, out)
    labels = ["cat", "dog", "cat", *map(str, range(9))]
    twice = save_classes(tmp_path / "twice.npy", world.text, labels=labels)
    with pytest.raises(InputError, match="the label 'cat' is there 2 times"):
        adapt(twice, pool, out)
    with pytest.raises(InputError, match="belong together"):
        adapt(text, pool, out, student=tiny_student)
    with pytest.raises(MismatchError):
        adapt(text, pool, out, student=tiny_student, images=tmp_path)
    assert not out.exists()


def test_a_folder_of_other_images_is_refused(tmp_path, pictures, tiny_student, tiny_text):
    pictures(tmp_path / "photos", 2)
    teacher = load_text(tiny_text)
    near = normalized(np.repeat(teacher.vectors, 3, axis=0))
    pool = save_pool(tmp_path / "pool", near, card=teacher.teacher)
    with pytest.raises(InputError, match="has none of the images that were chosen"):
        adapt(
            tiny_text,
            pool,
            tmp_path / "out.npy",
            student=tiny_student,
            images=tmp_path / "photos",
            device="cpu",
        )
