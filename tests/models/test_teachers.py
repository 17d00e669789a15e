"""Known facts about teachers: names exist, licences are found."""

from __future__ import annotations

import pytest

from clipdistill.models.teachers import (
    DEFAULT_TEACHER,
    KNOWN,
    license_note,
    license_of,
    restriction,
)


def test_every_known_teacher_exists_and_has_the_licence_that_its_name_gives():
    open_clip = pytest.importorskip("open_clip")
    for one in KNOWN:
        assert one.pretrained in open_clip.list_pretrained_tags_by_model(one.model_name), one
        assert license_of(one.model_name, one.pretrained) == one.license, one
        config = open_clip.get_model_config(one.model_name)
        assert config["vision_cfg"]["image_size"] == one.size
    assert DEFAULT_TEACHER in {f"{one.model_name}/{one.pretrained}" for one in KNOWN}


@pytest.mark.parametrize(
    ("name", "tag", "expected"),
    [
        ("MobileCLIP-S1", "datacompdr", "apple-amlr"),
        ("MobileCLIP2-S0", "dfndr2b", "apple-amlr"),
        ("ViT-H-14", "dfn5b", "apple-amlr"),
        ("ViT-L-14", "metaclip_fullcc", "cc-by-nc-4.0"),
        ("ViT-B-16-SigLIP2", "webli", "apache-2.0"),
        ("EVA02-B-16", "merged2b_s8b_b131k", "mit"),
        ("ViT-L-14", "openai", "mit"),
        ("hf-hub:apple/DFN5B-CLIP-ViT-H-14", "", "apple-amlr"),
        ("hf-hub:laion/CLIP-ViT-B-32-laion2B-s34B-b79K", "", "mit"),
        ("hf-hub:somebody/model", "", ""),
    ],
)
def test_licences_by_name(name, tag, expected):
    assert license_of(name, tag) == expected


def test_a_local_folder_says_its_licence(tmp_path):
    name = f"local-dir:{tmp_path}"
    assert license_of(name, "") == ""
    (tmp_path / "open_clip_config.json").write_text('{"license": "MIT"}')
    assert license_of(name, "") == "mit"
    (tmp_path / "README.md").write_text("---\nlicense: apple-amlr\n---\nlicense: other\n")
    assert license_of(name, "") == "apple-amlr"
    (tmp_path / "README.md").write_text("no front matter\nlicense: other\n")
    (tmp_path / "open_clip_config.json").write_text('{"license": "<b>\\u001b["}')
    assert license_of(name, "") == ""


def test_a_restricted_licence_is_one_sentence():
    assert "research only" in license_note("X", "apple-amlr")
    assert license_note("X", "mit") == "" == restriction("MIT")
