"""Views of images: the parameters of each view, and the teacher's embedding of it.

    OUT/views/views_0.npy    float16 or float32 (n, K, D), rows as in img_emb_0.npy
    OUT/views/params_0.npy   float32 (n, K, 8), columns as in `images.views.PARAMETERS`

Both are written before the shard's rows (see `embeddings`), so a complete shard has its views.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..core.errors import FormatError, InputError
from ..core.files import atomic_path, read_array
from ..images.views import PARAMETERS, ViewSpec, check_parameters

VIEWS = "views"


@dataclass(frozen=True)
class Views:
    """The stored views of some images, memory-mapped.

    Attributes:
        spec: number of views per image, and their seed.
        shards: (embeddings (n, K, D), parameters (n, K, 8)) of each shard.
        starts: int (shards + 1,), the first row of each shard, and the number of rows.
        order: int (N,), row of each image in the concatenated shards.
    """

    spec: ViewSpec
    shards: list[tuple[NDArray[np.floating], NDArray[np.float32]]]
    starts: NDArray[np.intp]
    order: NDArray[np.intp]

    def of(self, rows: NDArray[np.intp]) -> Views:
        """Return the views of some images, given their rows in this object."""
        return Views(self.spec, self.shards, self.starts, self.order[rows])

    def first(self, count: int) -> Views:
        """Return the first `count` views of each image."""
        shards = [(seen[:, :count], shown[:, :count]) for seen, shown in self.shards]
        return replace(self, spec=replace(self.spec, count=count), shards=shards)

    def embeddings(self, rows: NDArray[np.intp]) -> NDArray[np.float32]:
        """Return float32 (B, K, D), the embeddings of the views of some images."""
        return self._gather(rows, 0)

    def parameters(self, rows: NDArray[np.intp]) -> NDArray[np.float32]:
        """Return float32 (B, K, 8), the parameters of the views of some images."""
        return self._gather(rows, 1)

    def _gather(self, rows: NDArray[np.intp], which: int) -> NDArray[np.float32]:
        places = self.order[rows]
        numbers = np.searchsorted(self.starts, places, side="right") - 1
        shape = self.shards[0][which].shape[1:]
        found = np.empty((len(rows), *shape), dtype=np.float32)
        for number in np.unique(numbers):
            here = numbers == number
            found[here] = self.shards[number][which][places[here] - self.starts[number]]
        return found


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


def read_views(
    root: Path,
    spec: ViewSpec,
    shards: list[tuple[int, int]],
    dim: int,
    order: NDArray[np.intp],
) -> Views:
    """Open the views of a store.

    Args:
        root: folder of the embeddings.
        spec: the views that its header names.
        shards: (number, rows) of each shard.
        dim: dimension D of an embedding.
        order: see `Views`.

    Raises:
        FormatError: a file is missing, damaged, or does not fit its shard.
    """
    found = []
    remedy = f"Delete {root} and run `clipdistill embed --views` again."
    for number, rows in shards:
        arrays = []
        for name, last in (("views", dim), ("params", len(PARAMETERS))):
            path = root / VIEWS / f"{name}_{number}.npy"
            try:
                values = read_array(path, mapped=rows > 0)
            except InputError as error:
                raise FormatError(f"{error} {remedy}") from error
            if values.shape != (rows, spec.count, last) or values.dtype.kind != "f":
                raise FormatError(
                    f"{path}: expected floats ({rows}, {spec.count}, {last}), found "
                    f"{values.dtype} {values.shape}. {remedy}"
                )
            arrays.append(values)
        check_parameters(arrays[1], root / VIEWS / f"params_{number}.npy")
        found.append((arrays[0], arrays[1]))
    starts = np.concatenate([[0], np.cumsum([rows for _, rows in shards])]).astype(np.intp)
    return Views(spec, found, starts, order)
