"""Names of students: with and without the tag of pretrained weights."""

from __future__ import annotations

import pytest

from clipdistill.core.errors import ModelNotFoundError
from clipdistill.models.architecture import build_student, check_arch, default_preprocess


@pytest.mark.parametrize("arch", ["resnet18", "resnet18.a1_in1k", "test_resnet", "hf-hub:a/b"])
def test_names_that_timm_knows(arch: str) -> None:
    check_arch(arch)


@pytest.mark.parametrize("arch", ["resnet18.nope", "resnet18.", "resnet18.a1_in1k.x"])
def test_an_unknown_tag_names_those_that_exist(arch: str) -> None:
    with pytest.raises(ModelNotFoundError, match=r"of the student resnet18\.") as found:
        build_student(arch, 16, image_size=32)
    assert "a1_in1k" in str(found.value)
    assert "without a tag (resnet18)" in str(found.value)


def test_a_near_tag_is_proposed() -> None:
    with pytest.raises(ModelNotFoundError, match=r"Did you mean .*a1_in1k"):
        check_arch("resnet18.a1_in1")


def test_a_model_without_tags() -> None:
    with pytest.raises(ModelNotFoundError, match=r"without a tag \(resnet10t\)"):
        check_arch("resnet10t.nope")


def test_an_unknown_model_with_a_tag() -> None:
    with pytest.raises(ModelNotFoundError, match=r"Unknown student 'resnet81\.a1_in1k'.*resnet18"):
        check_arch("resnet81.a1_in1k")


def test_a_tag_decides_the_preprocessing() -> None:
    assert default_preprocess("resnet18.a1_in1k", None, None).size == 224
