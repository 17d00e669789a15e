"""torch's ONNX exporter on a network, as a device runs it: for `export`, and before a training."""

from __future__ import annotations

import contextlib
import copy
import logging
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch

from ..core.errors import ClipDistillError, InputError, first_line
from ..formats.classifier import EMBEDDINGS, INPUT, OPSET
from .compression.merging import can_merge, merge
from .compression.padding import fix_padding

CHECK_IMAGES = 3
"""Images of noise in the check of a traced network: another number than it is traced with."""
LEAST_COSINE = 0.999
"""Least cosine in that check; a network that can be exported reaches 0.99999."""


def trace(
    network: torch.nn.Module, image_size: int, arch: str, path: Path, *, merging: bool = True
) -> None:
    """Write a network, followed by L2 normalisation, as an ONNX file for any number of images.

    torch has two exporters.  This is the TorchScript one: measured with torch 2.14, the newer one
    (dynamo=True) gives opset 18 and its converter to 17 fails (Resize, ReduceMean with axes as
    input), leaving the file at 18.

    Args:
        network: float32 (N, 3, S, S) -> (N, D), in eval mode; computed paddings become constant.
        image_size: side of its input in pixels.
        arch: name of the network, for the message.
        path: file to write.
        merging: merge its branches in the file. False for a compressed student: whether it is
            merged was decided before, and merging it now would fill the zeros of a 2:4 layer.

    Raises:
        ClipDistillError: torch cannot export it.
    """
    if merging and can_merge(network):
        network = copy.deepcopy(network)
        merge(network, image_size)
    fix_padding(network, image_size)
    device = next(network.parameters()).device
    # Two images: with one, networks that look at the batch size would have it baked in.
    example = torch.zeros(2, 3, image_size, image_size, device=device)
    batch = {0: "batch"}
    try:
        with _quiet(), torch.inference_mode():
            torch.onnx.export(
                UnitLength(network).eval(),
                (example,),
                str(path),
                dynamo=False,
                opset_version=OPSET,
                input_names=[INPUT],
                output_names=[EMBEDDINGS],
                dynamic_axes={INPUT: batch, EMBEDDINGS: batch},
            )
    except (
        RuntimeError,
        TypeError,
        ValueError,
        AttributeError,
        AssertionError,
        LookupError,
        NotImplementedError,
    ) as error:
        raise ClipDistillError(
            f"torch cannot export {arch} to ONNX opset {OPSET} ({first_line(error)}). "
            "Choose another architecture; ResNets, EfficientNets, MobileNets and ViTs work."
        ) from error


def check_exportable(network: torch.nn.Module, image_size: int, arch: str) -> None:
    """Export a copy of an untrained network and run the file, before time is spent on a training.

    Args:
        network: stays unchanged.
        image_size: side of its input in pixels.
        arch: timm's model name.

    Raises:
        InputError: torch cannot export it, or ONNX Runtime computes something else.
    """
    from .runtimes.ort import run_file

    generator = torch.Generator().manual_seed(0)
    trial = copy.deepcopy(network).cpu().eval()
    _fill_zeros(trial, generator)
    reference = copy.deepcopy(trial)
    noise = torch.randn(CHECK_IMAGES, 3, image_size, image_size, generator=generator)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "check.onnx"
        try:
            trace(trial, image_size, arch, path)
            found = torch.from_numpy(run_file(path, noise.numpy()))
        except ClipDistillError as error:
            raise InputError(_not_exportable(arch, image_size, str(error))) from error
    with torch.inference_mode():
        expected = reference(noise).float()
    cosine = float(torch.nn.functional.cosine_similarity(found, expected, dim=-1).min())
    if not cosine >= LEAST_COSINE:  # also when NaN
        why = f"ONNX Runtime's embeddings have a cosine of {cosine:.4f} with torch's"
        raise InputError(_not_exportable(arch, image_size, why))


def _fill_zeros(network: torch.nn.Module, generator: torch.Generator) -> None:
    """Give small random values to weights that start at zero: some networks' projections do."""
    for parameter in network.parameters():
        if parameter.ndim > 1 and not parameter.any():
            torch.nn.init.normal_(parameter, std=0.02, generator=generator)


def _not_exportable(arch: str, image_size: int, why: str) -> str:
    return (
        f"Student {arch} at {image_size} px cannot be exported, so training it would be in vain: "
        f"{why.rstrip('.')}. Choose another student or --image-size, or add --no-check to train it "
        "for PyTorch alone."
    )


class UnitLength(torch.nn.Module):
    """A network followed by L2 normalisation: float32 (N, 3, S, S) -> (N, D)."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return embeddings of unit length."""
        return torch.nn.functional.normalize(self.network(pixels), dim=-1)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's warnings, and keep attention in operators that ONNX has."""
    fast = torch.backends.mha.get_fastpath_enabled()
    level = logging.getLogger("torch.onnx").level
    torch.backends.mha.set_fastpath_enabled(False)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        logging.getLogger("torch.onnx").setLevel(level)
