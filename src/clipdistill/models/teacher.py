"""Loading a teacher: an OpenCLIP model by open_clip name, "hf-hub:..." or "local-dir:..."."""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import pickle
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError

from ..core.errors import (
    FormatError,
    InputError,
    MissingExtraError,
    ModelNotFoundError,
    did_you_mean,
    first_line,
)
from ..core.progress import message, track
from ..core.results import list_some
from ..core.wording import short
from ..core.zeroshot import LogitScale, normalized
from ..formats.cards import TEACHER_CONFIG, TEACHER_WEIGHTS, TeacherCard
from ..formats.prompts import Prompts
from ..formats.text import TextEmbeddings
from ..images.preprocess import Preprocess
from .embedder import EmbedderSpec
from .hub import cache_first, fetch, hub_reason, with_hub
from .teachers import license_of
from .torch_embedder import Precision, TorchEmbedder, autocast, resolve_device

try:
    import open_clip
except ImportError as _error:
    raise MissingExtraError("open_clip_torch", "train", "A teacher") from _error

log = logging.getLogger(__name__)

PICKLED_WEIGHTS = "open_clip_pytorch_model.bin"
"""open_clip's name of the weights in repositories that have no safetensors."""
TEXT_BATCH = 256
"""Texts per forward pass."""


class _ImageTower(torch.nn.Module):
    """open_clip's image encoder as a separate module: (N, 3, H, W) -> (N, D), not normalised."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        encode: Any = self.model.encode_image
        output: torch.Tensor = encode(pixels)
        return output


@dataclass
class Teacher:
    """A loaded OpenCLIP model, in eval mode.

    Attributes:
        card: identity of the teacher; the same in every file made with it.
        images: image tower as an Embedder.
    """

    card: TeacherCard
    images: TorchEmbedder
    _model: Any = field(repr=False)
    _tokenizer: Any = field(repr=False)

    def embed_texts(
        self, texts: Sequence[str], *, batch_size: int = TEXT_BATCH
    ) -> NDArray[np.float32]:
        """Embed texts: float32 (N, D) of unit length."""
        device = self.images.device
        parts = []
        for start in range(0, len(texts), batch_size):
            tokens = self._tokenizer(list(texts[start : start + batch_size])).to(device)
            with torch.inference_mode(), autocast(device, self.images.precision):
                output = self._model.encode_text(tokens).float()
            parts.append(torch.nn.functional.normalize(output, dim=-1).cpu().numpy())
        return np.concatenate(parts)

    def mention_cut(self, texts: Sequence[str]) -> None:
        """Say which texts have more tokens than the teacher reads: it ignores the rest of them."""
        most: int = getattr(self._tokenizer, "context_length", None) or 0
        # A token has at least one byte; two tokens mark the start and the end.
        long = [text for text in texts if len(text.encode()) + 2 > most]
        if not most or not long:
            return
        padding = self._tokenizer([""], context_length=most + 1)[0, -1]
        beyond = self._tokenizer(long, context_length=most + 1)[:, -1] != padding
        cut = [text for text, more in zip(long, beyond.tolist(), strict=True) if more]
        if cut:
            lines = [short(text, 60) for text in cut]
            title = (
                f"{len(cut)} of {len(texts)} texts have more than the {most} tokens that the "
                "teacher reads; it ignores the rest of them:"
            )
            message("\n".join(list_some(title, lines, 3)))


def load_teacher(
    model_name: str,
    pretrained: str = "",
    *,
    device: str = "auto",
    precision: Precision = "auto",
) -> Teacher:
    """Load a teacher.

    Args:
        model_name: open_clip's name, "hf-hub:ORG/REPO" or "local-dir:FOLDER".
        pretrained: open_clip's weights tag or a weights file; not used with hf-hub and local-dir.
        device: "auto", "cpu", "cuda", ...
        precision: precision of the forward pass.

    Raises:
        ModelNotFoundError: unknown name or tag (with near matches), or the weights cannot be
            fetched.
        FormatError: the files exist but cannot be loaded.
        InputError: the device or the local folder does not exist.
    """
    target = resolve_device(device)
    _check_name(model_name, pretrained)
    has_schema = ":" in model_name
    model = _create(model_name, None if has_schema else pretrained)
    # Its configuration is in the cache by now; without it open_clip would guess a tokenizer.
    tokenizer = _load(model_name, lambda: open_clip.get_tokenizer(model_name), cache_first)
    pretrained = "" if has_schema else pretrained
    preprocess = _preprocess_of(model)
    dim = _dimension(model, preprocess)
    bias = getattr(model, "logit_bias", None)
    logits = LogitScale(
        float(model.logit_scale.detach().exp()),
        None if bias is None else float(bias.detach()),
    )
    license = license_of(model_name, pretrained)
    card = TeacherCard(
        model_name=model_name,
        pretrained=pretrained,
        fingerprint=fingerprint(model),
        dim=dim,
        logits=logits,
        preprocess=preprocess,
        license=license,
    )
    size = sum(value.numel() * value.element_size() for value in model.visual.state_dict().values())
    spec = EmbedderSpec(
        name=str(card),
        runtime="torch",
        role="teacher",
        teacher=card,
        dim=dim,
        preprocess=preprocess,
        size_bytes=size,
    )
    images = TorchEmbedder(spec, _ImageTower(model.eval()), target, precision)
    return Teacher(card, images, model, tokenizer)


def embed_classes(
    teacher: Teacher, classes: Prompts, templates: Sequence[str] = ("{}",)
) -> TextEmbeddings:
    """Embed each label's prompts in each template and average them.

    Returns:
        Text embeddings of shape (labels, D), unit length, with labels, prompts and teacher.
    """
    texts, owners = [], []
    for label, prompts in enumerate(classes.prompts):
        for prompt in prompts:
            texts += [template.replace("{}", prompt) for template in templates]
            owners += [label] * len(templates)
    teacher.mention_cut(texts)
    sums = np.zeros((len(classes.labels), teacher.card.dim), dtype=np.float32)
    with track("embed text", len(texts), "texts") as step:
        for start in range(0, len(texts), TEXT_BATCH):
            batch = slice(start, start + TEXT_BATCH)
            np.add.at(sums, owners[batch], normalized(teacher.embed_texts(texts[batch])))
            step(len(texts[batch]))
    return TextEmbeddings(
        normalized(sums),
        classes.labels,
        classes.prompts,
        tuple(templates),
        teacher.card,
    )


def fingerprint(model: torch.nn.Module) -> str:
    """Identify the weights: 32 hex digits of BLAKE2b over all names, shapes and values.

    The loaded fp32 values are hashed, so the file format of the weights makes no difference.
    """
    digest = hashlib.blake2b(digest_size=16)
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}\n".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _check_name(model_name: str, pretrained: str) -> None:
    """Refuse wrong names before open_clip builds anything."""
    if model_name.startswith("local-dir:"):
        folder = Path(model_name.removeprefix("local-dir:"))
        if not (folder / TEACHER_CONFIG).is_file():
            raise InputError(
                f"{folder}: expected a folder with {TEACHER_CONFIG} and "
                f"{TEACHER_WEIGHTS} (open_clip's own format)."
            )
        return
    if ":" in model_name:
        if not model_name.startswith("hf-hub:"):
            raise ModelNotFoundError(
                f"Unknown teacher {model_name!r}: expected an open_clip name, hf-hub:ORG/REPO or "
                "local-dir:FOLDER."
            )
        return
    known = open_clip.list_models()
    name = model_name.replace("/", "-")
    if name not in known:
        raise ModelNotFoundError(
            f"Unknown teacher {model_name!r}.{did_you_mean(name, known)} "
            f"open_clip has {len(known)} models; open_clip.list_models() lists them."
        )
    tags = open_clip.list_pretrained_tags_by_model(name)
    if not pretrained:
        raise ModelNotFoundError(
            f"Teacher {model_name!r} needs the name of its weights (--pretrained). Known: "
            f"{', '.join(tags)}. Without weights the model would be random."
        )
    if pretrained not in tags and not Path(pretrained).is_file():
        raise ModelNotFoundError(
            f"Unknown weights {pretrained!r} of {model_name}.{did_you_mean(pretrained, tags)} "
            f"Known: {', '.join(tags)}; or the path of a weights file."
        )


def _create(model_name: str, pretrained: str | None) -> Any:
    # require_pretrained: otherwise open_clip only warns and continues with random weights.
    def create() -> Any:
        _fetch(model_name, pretrained or "")
        return open_clip.create_model(
            model_name, pretrained=pretrained, require_pretrained=True, weights_only=True
        )

    return _load(model_name, create, with_hub)


def _fetch(model_name: str, pretrained: str) -> None:
    """Download a teacher's files; open_clip itself hides why a download failed."""
    if model_name.startswith("hf-hub:"):
        repository = model_name.removeprefix("hf-hub:")
        fetch(repository, TEACHER_CONFIG)
    else:
        known = open_clip.get_pretrained_cfg(model_name.replace("/", "-"), pretrained)
        repository, _, file = known.get("hf_hub", "").rpartition("/")
        if file:  # another one than the two below
            return
    if repository:
        fetch(repository, TEACHER_WEIGHTS, PICKLED_WEIGHTS)


def _load(model_name: str, load: Any, attempt: Any) -> Any:
    """Call an open_clip loader by `with_hub` or `cache_first`, and turn its errors into ours."""
    root_level = logging.getLogger().level
    try:
        # open_clip logs its progress, and errors it also raises, on the root logger.
        logging.getLogger().setLevel(logging.CRITICAL)
        return attempt(load)
    except (
        OSError,
        RuntimeError,
        ValueError,
        LookupError,
        TypeError,
        ImportError,
        AssertionError,
        AttributeError,
        SafetensorError,
        pickle.UnpicklingError,
        zipfile.BadZipFile,
    ) as error:
        if _needs_transformers(error):
            purpose = f"Teacher {model_name} (its tokenizer)"
            raise MissingExtraError("transformers", "siglip", purpose) from error
        first = first_line(error)
        if model_name.startswith("local-dir:"):
            raise FormatError(
                f"{model_name}: the folder's model cannot be loaded ({first}). Expected "
                f"{TEACHER_CONFIG} and weights that fit it; copy the folder again."
            ) from error
        raise ModelNotFoundError(
            f"Teacher {model_name}: its weights could not be fetched or loaded "
            f"({hub_reason(error)}). Tried the model hub and the local hub cache. Without a "
            f"network: copy a folder with {TEACHER_CONFIG} and {TEACHER_WEIGHTS} here and use "
            "--model-name local-dir:FOLDER, or give --pretrained FILE."
        ) from error
    finally:
        logging.getLogger().setLevel(root_level)


def _needs_transformers(error: BaseException) -> bool:
    """Whether a model failed to load because transformers is missing.

    open_clip imports it optionally: what fails is an import inside, an assertion that names it, or
    a call of the None that stands for it.
    """
    if importlib.util.find_spec("transformers") is not None:
        return False
    return "transformers" in str(error) or "NoneType" in str(error)


def _preprocess_of(model: Any) -> Preprocess:
    config = open_clip.get_model_preprocess_cfg(model)
    size = config["size"]
    if isinstance(size, (tuple, list)):
        if size[0] != size[1]:
            raise FormatError(f"Teachers with non-square input ({size}) are not supported.")
        size = size[0]
    mean, std = tuple(config["mean"]), tuple(config["std"])
    return Preprocess.from_json({**config, "size": size, "mean": mean, "std": std})


def _dimension(model: Any, preprocess: Preprocess) -> int:
    with torch.inference_mode():
        size = preprocess.size
        output = model.eval().encode_image(torch.zeros(1, 3, size, size))
    return int(output.shape[-1])
