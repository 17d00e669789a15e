"""embed-text: the averages that the paper means, and everything a classifier needs beside them."""

from __future__ import annotations

import math
import tracemalloc
from dataclasses import replace

import numpy as np
import open_clip
import pytest
import torch

from clipdistill import progress
from clipdistill.core.errors import FormatError, InputError, OptionError, OutputError
from clipdistill.distillation.embed_text import embed_text, resolve_templates
from clipdistill.formats.text import load_text


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("# pets\npet\ta cat\nbird\tan owl\npet\ta small dog\nfish\n")
    return path


@pytest.fixture
def run(tmp_path, tiny_teacher_name):
    def call(prompts, **options):
        options = {"model_name": tiny_teacher_name, "device": "cpu", **options}
        return embed_text(prompts, tmp_path / "text.npy", **options)

    return call


def directly(name: str, texts: list[str]) -> np.ndarray:
    """The mean of unit embeddings, at unit length, by open_clip alone."""
    model = open_clip.create_model(name, require_pretrained=True).eval()
    tokens = open_clip.get_tokenizer(name)(texts)
    with torch.no_grad():
        vectors = model.encode_text(tokens, normalize=True)
    mean = vectors.mean(dim=0)
    return (mean / mean.norm()).numpy()


def test_averages_prompts_and_templates_as_open_clip_would(run, prompts, tiny_teacher_name):
    result = run(prompts, template=["a photo of {}.", "{} on a table"])
    found = load_text(result.out)
    assert found.labels == result.labels == ("pet", "bird", "fish")
    assert found.prompts == (("a cat", "a small dog"), ("an owl",), ("fish",))
    assert found.templates == ("a photo of {}.", "{} on a table")
    assert (result.prompts, result.templates) == (4, 2)
    pets = [
        "a photo of a cat.",
        "a cat on a table",
        "a photo of a small dog.",
        "a small dog on a table",
    ]
    assert np.allclose(found.vectors[0], directly(tiny_teacher_name, pets), atol=1e-5)
    fish = ["a photo of fish.", "fish on a table"]
    assert np.allclose(found.vectors[2], directly(tiny_teacher_name, fish), atol=1e-5)
    assert np.allclose(np.linalg.norm(found.vectors, axis=1), 1, atol=1e-6)


def test_without_templates_the_prompt_is_taken_as_it_is(run, prompts, tiny_teacher_name):
    found = load_text(run(prompts).out)
    assert found.templates == ("{}",)
    assert np.allclose(found.vectors[1], directly(tiny_teacher_name, ["an owl"]), atol=1e-5)


def test_prompts_with_braces_are_only_text(run, tmp_path, tiny_teacher_name):
    (tmp_path / "p.txt").write_text("a {} in {0} and {x}\n")
    found = load_text(run(tmp_path / "p.txt", template=["see {}"]).out)
    expected = directly(tiny_teacher_name, ["see a {} in {0} and {x}"])
    assert np.allclose(found.vectors[0], expected, atol=1e-5)


def test_openais_sets_by_name():
    assert len(resolve_templates(["openai"])) == 80
    assert len(resolve_templates(["simple"])) == 7
    assert "itap of a {}." in resolve_templates(["simple"])
    both = resolve_templates(["simple", "itap of a {}.", "mine: {}"])
    assert len(both) == 8
    assert all("{}" in template for template in resolve_templates(["openai"]))


@pytest.mark.parametrize("template", ["a photo", "", "imagenet", "{name}"])
def test_a_template_without_a_place_for_the_prompt(run, prompts, tmp_path, template):
    with pytest.raises(InputError, match=r"expected a text with \{\}.*openai, simple"):
        run(prompts, template=[template])
    assert not (tmp_path / "text.npy").exists()


def test_the_teachers_own_logit_scale_is_stored(run, prompts, tiny_teacher):
    found = load_text(run(prompts).out)
    assert found.teacher == tiny_teacher.card.shipped()
    assert math.isclose(found.teacher.logits.scale, 10.0, rel_tol=1e-5)
    assert found.teacher.logits.bias is None


def test_the_bias_of_a_sigmoid_teacher_is_stored(run, prompts, sigmoid_teacher):
    found = load_text(run(prompts, model_name=sigmoid_teacher.card.model_name).out)
    assert math.isclose(found.teacher.logits.bias, -2.0, rel_tol=1e-6)


def test_labels_that_the_teacher_hardly_tells_apart_are_named(run, tmp_path):
    (tmp_path / "p.txt").write_text("one\tthe very same words\ntwo\tthe very same words\n")
    result = run(tmp_path / "p.txt")
    [(one, two, cosine)] = result.overlapping
    assert {one, two} == {"one", "two"}
    assert cosine > 0.999
    assert "one ~ two" in "\n".join(map(str, result.summary()))


def test_many_alike_labels_cost_little(run, tmp_path):
    text = load_text(run(tmp_path_with(tmp_path, "a cat\n")).out)
    count = 3000
    vectors = np.repeat(text.vectors, count, axis=0)
    vectors[7] = -vectors[7]
    many = replace(text, vectors=vectors, labels=tuple(map(str, range(count))))
    tracemalloc.start()
    pairs = many.overlapping()
    assert tracemalloc.get_traced_memory()[1] < 250e6
    tracemalloc.stop()
    assert len(pairs) == 1000
    assert pairs[0][:2] == ("0", "1")
    assert not any("7" in pair[:2] for pair in pairs)


def test_a_prompt_longer_than_the_teacher_reads_is_mentioned(run, tmp_path, capsys):
    long = "a photo of a " + "very " * 100 + "big cat"
    with progress("plain"):
        run(tmp_path_with(tmp_path, f"{long}\na dog\n{'cat' * 5}\n"))
    said = capsys.readouterr().err
    assert "1 of 3 texts have more than the 12 tokens that the teacher reads" in said
    assert "a photo of a very very" in said


def tmp_path_with(tmp_path, text):
    (tmp_path / "many.txt").write_text(text)
    return tmp_path / "many.txt"


def test_bad_prompt_files_leave_earlier_results_alone(run, prompts, tmp_path):
    run(prompts)
    before = (tmp_path / "text.npy").read_bytes(), (tmp_path / "text.json").read_bytes()
    (tmp_path / "latin.txt").write_bytes("café\n".encode("latin-1"))
    (tmp_path / "empty.txt").write_text("# nothing\n")
    with pytest.raises(FormatError, match=r"latin\.txt.*iconv"):
        run(tmp_path / "latin.txt")
    with pytest.raises(InputError, match=r"empty\.txt: there are no prompts"):
        run(tmp_path / "empty.txt")
    with pytest.raises(InputError, match=r"missing\.txt: the prompts file cannot be read"):
        run(tmp_path / "missing.txt")
    assert before == ((tmp_path / "text.npy").read_bytes(), (tmp_path / "text.json").read_bytes())


def test_a_file_in_the_way_of_the_output(prompts, tmp_path, tiny_teacher_name):
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="file"):
        embed_text(prompts, tmp_path / "file/text.npy", model_name=tiny_teacher_name, device="cpu")


def test_any_number_of_texts_is_embedded_as_one_by_one(tiny_teacher):
    texts = [f"thing number {index}" for index in range(7)]
    together = tiny_teacher.embed_texts(texts, batch_size=3)
    alone = np.concatenate([tiny_teacher.embed_texts([text]) for text in texts])
    assert np.allclose(together, alone, atol=1e-6)


def test_a_sigmoid_teacher_has_probabilities_of_its_own(tmp_path, sigmoid_teacher):
    (tmp_path / "prompts.txt").write_text("cat\ndog\n")
    name = sigmoid_teacher.card.model_name
    out = embed_text(
        tmp_path / "prompts.txt", tmp_path / "t", model_name=name, independent=True
    ).out
    found = load_text(out).independent
    assert (found.method, found.scales[0], found.biases) == ("scale", pytest.approx(10), (-2, -2))
    assert found.thresholds == (0.5, 0.5)


def test_a_softmax_teacher_needs_a_pool(tmp_path, tiny_teacher_name):
    (tmp_path / "prompts.txt").write_text("cat\ndog\n")
    with pytest.raises(OptionError, match=r"adapt TEXT\.npy EMBEDDINGS TEXT\.npy --independent"):
        embed_text(
            tmp_path / "prompts.txt",
            tmp_path / "t.npy",
            model_name=tiny_teacher_name,
            independent=True,
        )
