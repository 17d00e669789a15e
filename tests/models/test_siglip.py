"""A SigLIP teacher, small and made here: sigmoid and bias, its own tokenizer, cleaned prompts."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import save_file

import clipdistill
from clipdistill.core.zeroshot import probabilities
from clipdistill.formats.text import load_text
from clipdistill.models import teacher as module
from clipdistill.models.teacher import load_teacher

WORDS = ["<pad>", "</s>", "<unk>", "a", "photo", "of", "cat", "dog", "red", "fish", "hot"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A SigLIP 2 model of 32 pixels in open_clip's format, with a Hugging Face tokenizer."""
    pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    out = tmp_path_factory.mktemp("siglip")
    config = {
        "embed_dim": 16,
        "init_logit_bias": -10,
        "custom_text": True,
        "vision_cfg": {
            "image_size": 32,
            "layers": 1,
            "width": 32,
            "head_width": 16,
            "patch_size": 16,
        },
        "text_cfg": {
            "context_length": 8,
            "vocab_size": len(WORDS),
            "hf_tokenizer_name": "timm/made-here",
            "tokenizer_kwargs": {"clean": "canonicalize"},
            "width": 16,
            "heads": 2,
            "layers": 1,
            "no_causal_mask": True,
            "proj_bias": True,
            "pool_type": "last",
        },
    }
    preprocess = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic"}
    preprocess["resize_mode"] = "squash"
    text = json.dumps({"model_cfg": config, "preprocess_cfg": preprocess, "license": "Apache-2.0"})
    (out / "open_clip_config.json").write_text(text)
    torch.manual_seed(0)
    settings = {name: value for name, value in config.items() if name != "custom_text"}
    model = open_clip.CustomTextCLIP(**settings)
    state = {name: value.contiguous() for name, value in model.state_dict().items()}
    save_file(state, out / "open_clip_model.safetensors")
    made = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({word: n for n, word in enumerate(WORDS)}, "<unk>")
    )
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.save(str(out / "tokenizer.json"))
    (out / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "<pad>"})
    )
    return out


def test_prompts_are_cleaned_as_the_model_was_trained(folder):
    teacher = load_teacher(f"local-dir:{folder}", device="cpu")
    shouted, plain = teacher.embed_texts(["A PHOTO, of_a... Hot-Dog!", "a photo of a hotdog"])
    assert np.array_equal(*teacher.embed_texts(["A photo of a CAT.", "a photo of a cat"]))
    assert shouted.shape == plain.shape == (16,)
    assert teacher.card.license == "apache-2.0"


def test_probabilities_are_sigmoids_with_the_models_own_bias(folder, tmp_path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("cat\na photo of a cat\nred fish\n")
    name = f"local-dir:{folder}"
    clipdistill.embed_text(prompts, tmp_path / "text.npy", model_name=name, device="cpu")
    text = load_text(tmp_path / "text.npy")
    assert text.teacher.logits.bias == pytest.approx(-10.0)
    vectors = text.vectors[:1]
    given = probabilities(vectors, text.vectors, text.teacher.logits)
    scale, bias = text.teacher.logits.scale, text.teacher.logits.bias
    expected = 1 / (1 + np.exp(-(scale * vectors @ text.vectors.T + bias)))
    assert np.allclose(given, expected, atol=1e-6)


def test_without_transformers_the_extra_is_named(folder, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(clipdistill.MissingExtraError, match=r"clipdistill\[siglip\]"):
        load_teacher(f"local-dir:{folder}", device="cpu")
