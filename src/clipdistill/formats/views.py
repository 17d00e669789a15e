"""Views of images: the parameters of each view, and the teacher's embedding of it.

    OUT/views/views_0.npy    float16 or float32 (n, K, D), rows as in img_emb_0.npy
    OUT/views/params_0.npy   float32 (n, K, 8), columns as in `images.views.PARAMETERS`

Both are written before the shard's rows (see `embeddings`), so a complete shard has its views.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..core.errors import FormatError, InputError
from ..core.files import atomic_path, read_array
from ..core.vectors import Mapped, Vectors
from ..images.views import PARAMETERS, ViewSpec, check_parameters

VIEWS = "views"


@dataclass(frozen=True)
class Views:
    """The stored views of N images, on the disk.

    Attributes:
        spec: number of views per image, and their seed.
        seen: float32 (N, K, D), the embeddings of the views.
        shown: float32 (N, K, 8), the parameters of the views.
    """

    spec: ViewSpec
    seen: Vectors
    shown: Vectors

    def of(self, rows: NDArray[np.integer]) -> Views:
        """Return the views of some images, given their rows in this object."""
        return Views(self.spec, self.seen.take(rows), self.shown.take(rows))

    def first(self, count: int) -> Views:
        """Return the first `count` views of each image."""
        spec = replace(self.spec, count=count)
        return Views(spec, self.seen.leading(count), self.shown.leading(count))

    def embeddings(self, rows: NDArray[np.intp]) -> NDArray[np.float32]:
        """Return float32 (B, K, D), the embeddings of the views of some images."""
        return self.seen[rows].astype(np.float32, copy=False)

    def parameters(self, rows: NDArray[np.intp]) -> NDArray[np.float32]:
        """Return float32 (B, K, 8), the parameters of the views of some images."""
        return self.shown[rows].astype(np.float32, copy=False)


def write_views(
    root: Path,
    number: int,
    embeddings: NDArray[np.floating],
    parameters: NDArray[np.float32],
) -> None:
    """Write the views of one shard: embeddings (n, K, D) and parameters (n, K, 8)."""
    for name, values in (("views", embeddings), ("params", parameters.astype(np.float32))):
        with atomic_path(root / VIEWS / f"{name}_{number}.npy") as temporary:
            np.save(temporary, values)


def read_views(shards: Sequence[tuple[Path, int, int]], spec: ViewSpec, dim: int) -> Views:
    """Open the views of a store, in the order of its shards.

    Args:
        shards: (folder of the store, number, rows) of each shard.
        spec: the views that its header names.
        dim: dimension D of an embedding.

    Raises:
        FormatError: a file is missing, damaged, or does not fit its shard.
    """
    for shard in shards:
        _open(shard, "views", (spec.count, dim))
        shown = _open(shard, "params", (spec.count, len(PARAMETERS)))
        check_parameters(shown, _path(shard, "params"))
    seen, parameters = (
        _mapped(shards, name, (spec.count, last))
        for name, last in (("views", dim), ("params", len(PARAMETERS)))
    )
    return Views(spec, seen, parameters)


def _mapped(shards: Sequence[tuple[Path, int, int]], name: str, shape: tuple[int, int]) -> Vectors:
    opened = Mapped(lambda place: _open(shards[place], name, shape))
    counts = [rows for _, _, rows in shards]
    return Vectors(opened, counts, shape, np.dtype(np.float32))


def _path(shard: tuple[Path, int, int], name: str) -> Path:
    root, number, _ = shard
    return root / VIEWS / f"{name}_{number}.npy"


def _open(shard: tuple[Path, int, int], name: str, shape: tuple[int, int]) -> NDArray[np.floating]:
    """Map the values (rows, *shape) of a shard."""
    path, (root, _, rows) = _path(shard, name), shard
    remedy = f"Delete {root} and run `clipdistill embed --views` again."
    try:
        values: NDArray[np.floating] = read_array(path, mapped=rows > 0)
    except InputError as error:
        raise FormatError(f"{error} {remedy}") from error
    if values.shape != (rows, *shape) or values.dtype.kind != "f":
        raise FormatError(
            f"{path}: expected floats {(rows, *shape)}, found {values.dtype} {values.shape}. "
            f"{remedy}"
        )
    return values
