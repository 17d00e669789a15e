"""Known facts about teachers: accuracy, cost, input size and licence (no heavy imports).

Accuracies (zero-shot top-1 on ImageNet, percent) and costs (multiply-adds of the image tower,
10^9) are open_clip's own measurements: docs/openclip_results.csv and docs/model_profile.csv of
open_clip, read 2026-11-28.  Licences are those of the weights: open_clip's docs/PRETRAINED.md, and
the model cards of LAION, Apple and Google, read on the same day.  The licences are stated as facts,
not as legal advice.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from ..formats.cards import MODEL_CARD, TEACHER_CONFIG

DEFAULT_MODEL_NAME = "ViT-B-32-256"
DEFAULT_PRETRAINED = "datacomp_s34b_b86k"
"""6.2 points more on ImageNet than ViT-B-32/laion2b_s34b_b79k for 1.3 times the image tower's
multiply-adds; MIT."""
DEFAULT_TEACHER = f"{DEFAULT_MODEL_NAME}/{DEFAULT_PRETRAINED}"

RESTRICTED = {
    "apple-amlr": "research only; the licence also binds models that are distilled from it",
    "cc-by-nc-4.0": "no commercial use",
}
"""Licence -> its restriction on the use of a student."""


@dataclass(frozen=True)
class KnownTeacher:
    """Facts about one teacher.

    Attributes:
        model_name: open_clip's name of the model.
        pretrained: open_clip's tag of the weights.
        imagenet: zero-shot top-1 accuracy on ImageNet, percent; None: not in open_clip's table.
        image_gflops: multiply-adds of the image tower per image, 10^9.
        size: side of the input in pixels.
        license: licence of the weights.
    """

    model_name: str
    pretrained: str
    imagenet: float | None
    image_gflops: float
    size: int
    license: str


KNOWN = (
    KnownTeacher("ViT-B-32", "laion2b_s34b_b79k", 66.6, 8.8, 224, "mit"),
    KnownTeacher("ViT-B-32", "datacomp_xl_s13b_b90k", 69.2, 8.8, 224, "mit"),
    KnownTeacher("ViT-B-32-256", "datacomp_s34b_b86k", 72.8, 11.5, 256, "mit"),
    KnownTeacher("ViT-B-16", "datacomp_xl_s13b_b90k", 73.5, 35.1, 224, "mit"),
    KnownTeacher("ViT-B-16", "dfn2b", 76.2, 35.1, 224, "apple-amlr"),
    KnownTeacher("ViT-B-16-SigLIP", "webli", 76.0, 35.4, 224, "apache-2.0"),
    KnownTeacher("ViT-L-14", "datacomp_xl_s13b_b90k", 79.2, 162.0, 224, "mit"),
    KnownTeacher("ViT-L-14-quickgelu", "dfn2b", 81.4, 162.0, 224, "apple-amlr"),
    KnownTeacher("ViT-B-16-quickgelu", "metaclip_fullcc", 72.1, 35.1, 224, "cc-by-nc-4.0"),
)
"""A selection in order of cost; open_clip has some 200 more."""

_BY_NAME = (
    (r"^(apple/|timm/)?(MobileCLIP|DFN)", "apple-amlr"),
    (r"dfn(dr)?\d|datacompdr", "apple-amlr"),
    (r"metaclip|nllb", "cc-by-nc-4.0"),
    (r"siglip|clipa", "apache-2.0"),
    (r"^(laion/)|laion|datacomp|commonpool|merged2b|eva0", "mit"),
    (r"/openai$|^openai/", "mit"),
)
"""(pattern of "MODEL/TAG" or "ORG/REPO", licence); the first match counts."""


def license_of(model_name: str, pretrained: str) -> str:
    """Find the licence of a teacher's weights as an SPDX-like identifier; empty when unknown.

    For a local folder it is read from README.md (`license:` in the front matter), else from
    open_clip_config.json (`"license"`).

    Args:
        model_name: open_clip's name, "hf-hub:ORG/REPO" or "local-dir:FOLDER".
        pretrained: open_clip's tag; empty for the other two.
    """
    scheme, _, rest = model_name.partition(":")
    if scheme == "local-dir":
        return _license_of_folder(Path(rest))
    name = rest if scheme == "hf-hub" else f"{model_name}/{pretrained}"
    for pattern, found in _BY_NAME:
        if re.search(pattern, name, re.IGNORECASE):
            return found
    return ""


def restriction(license: str) -> str:
    """Describe a licence's restriction on the use of a student; empty when there is none known."""
    return RESTRICTED.get(license.lower(), "")


def license_note(teacher: str, license: str) -> str:
    """Compose a sentence about a restricted licence; empty when no restriction is known."""
    bound = restriction(license)
    return f"The weights of teacher {teacher} are licensed {license}: {bound}." if bound else ""


MOST_README = 1 << 20
"""Most characters of a README that are read."""


def _license_of_folder(folder: Path) -> str:
    try:
        with open(folder / MODEL_CARD, encoding="utf-8", errors="replace") as file:
            text = file.read(MOST_README)
    except OSError:
        text = ""
    front = re.match(r"---\n(.*?)\n---", text, re.DOTALL)
    found = re.search(r"^license:\s*([\w.+-]+)\s*$", front[1] if front else "", re.MULTILINE)
    if found:
        return found[1].lower()
    try:
        config = json.loads((folder / TEACHER_CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ""
    value = config.get("license", "") if isinstance(config, dict) else ""
    return value.lower() if isinstance(value, str) and re.fullmatch(r"[\w.+-]{1,64}", value) else ""
