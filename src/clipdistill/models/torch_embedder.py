"""An Embedder that runs a torch module: device, precision, memory layout."""

from __future__ import annotations

import contextlib
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from ..core.errors import InputError, first_line
from ..images.preprocess import Preprocess
from .embedder import EmbedderSpec

Precision = Literal["auto", "fp32", "bf16", "fp16"]


def resolve_device(name: str) -> torch.device:
    """Turn "auto", "cpu", "cuda", "cuda:1", "mps" into an available device.

    Raises:
        InputError: unknown or absent device.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        why = first_line(error)
        if why.startswith("Expected one of"):  # torch lists every back end that it has heard of
            why = "expected auto, cpu, cuda, cuda:1 or mps"
        raise InputError(
            f"Device {name!r} cannot be used here ({why}). Try --device cpu or --device auto."
        ) from error
    return device


def resolve_precision(name: Precision, device: torch.device, *, training: bool) -> str:
    """Choose "fp32", "bf16" or "fp16".

    "auto" is fp32 on CPUs (bf16 autocast made CPU training slower: measured 2026-11, 2-core
    AVX512 machine) and on Apple's GPUs.  On CUDA it is fp16 for embedding (three more bits of
    mantissa than bf16, and embeddings are stored in fp16), and bf16 for training where the GPU
    has it (no loss scaling needed).
    """
    if name != "auto":
        return name
    if device.type != "cuda":
        return "fp32"
    return "bf16" if training and torch.cuda.is_bf16_supported() else "fp16"


def memory_layout(module: torch.nn.Module) -> torch.memory_format:
    """channels_last for convolutional networks, contiguous for transformers.

    Measured 2026-11 on 2 AVX512 cores: 1.6x for an EfficientNet-Lite2's forward pass at 224 px,
    1.2x for training a resnet18 at 224 px.  A ViT has one convolution, the patch embedding, and
    gains nothing.  A fixed rule instead of a timing makes every run choose the same layout.  torch
    has no such layout for the weights of Conv3d, and with one of them changes none.
    """
    if any(value.ndim == 5 for value in (*module.parameters(), *module.buffers())):
        return torch.contiguous_format
    spatial = [m for m in module.modules() if isinstance(m, torch.nn.Conv2d)]
    return torch.channels_last if len(spatial) > 1 else torch.contiguous_format


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[object]:
    """Return the autocast context of a precision (a null context for fp32)."""
    if precision == "fp32":
        return contextlib.nullcontext()
    dtype = torch.bfloat16 if precision == "bf16" else torch.float16
    return torch.autocast(device.type, dtype=dtype)


def to_input(pixels: torch.Tensor, preprocess: Preprocess) -> torch.Tensor:
    """uint8 (N, H, W, 3) on any device -> normalised float32 (N, 3, H, W), channels_last strides.

    Equals `Preprocess.normalize` to 1e-6, computed on the tensor's own device.
    """
    mean = torch.tensor(preprocess.mean, device=pixels.device)
    std = torch.tensor(preprocess.std, device=pixels.device)
    return ((pixels.float() * (1 / (255 * std))).sub_(mean / std)).permute(0, 3, 1, 2)


class TorchEmbedder:
    """An Embedder around `module`, which maps float32 (N, 3, H, W) to (N, D) of any length.

    The module is moved to `device` in eval mode, in the layout that `memory_layout` chooses.
    """

    def __init__(
        self,
        spec: EmbedderSpec,
        module: torch.nn.Module,
        device: torch.device,
        precision: Precision = "auto",
    ) -> None:
        self.spec = spec
        self.device = device
        self.precision = resolve_precision(precision, device, training=False)
        self.layout = memory_layout(module)
        # open_clip returns models with transforms in training mode.
        self.module = module.eval().to(device).to(memory_format=self.layout)

    def raw(self, pixels: torch.Tensor) -> torch.Tensor:
        """Run the module: normalised float (N, 3, H, W) -> float32 (N, D) on the device."""
        with torch.inference_mode(), autocast(self.device, self.precision):
            pixels = pixels.to(self.device).contiguous(memory_format=self.layout)
            output: torch.Tensor = self.module(pixels)
            return output.float()

    def raw_pixels(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Run the module on uint8 (N, H, W, 3); returns float32 (N, D), not of unit length."""
        uploaded = torch.from_numpy(pixels).to(self.device)
        return self.raw(to_input(uploaded, self.spec.preprocess)).cpu().numpy()

    def embed_images(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        """See `Embedder.embed_images`."""
        return _unit(self.raw(torch.from_numpy(pixels)))

    def embed_pixels(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See `Embedder.embed_pixels`."""
        uploaded = torch.from_numpy(pixels).to(self.device)
        return _unit(self.raw(to_input(uploaded, self.spec.preprocess)))


def _unit(output: torch.Tensor) -> NDArray[np.float32]:
    return torch.nn.functional.normalize(output, dim=-1).cpu().numpy()
