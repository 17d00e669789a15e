"""Parquet and CSV tables of URLs and captions, streamed once for all prompts.

The columns of LAION (URL, TEXT), Re-LAION and DataComp (url, caption or text), PD12M (url, caption,
license) and Open Images (OriginalURL, Title, License, Author) are supported, in any case.

First a cheap filter on the captions chooses candidates.  Only the best candidates of each prompt
are kept, so memory is bounded however large the tables are.  Then the teacher ranks them by the
similarity of caption and prompt.  With the images' embeddings in clip-retrieval's layout, the
similarity of image and prompt ranks them instead.
"""

from __future__ import annotations

import heapq
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...core.errors import FormatError, MismatchError, OptionError
from ...core.files import read_array
from ...core.progress import track
from ...core.wording import many
from ...core.zeroshot import normalized
from ...formats.embeddings import ROWS, VECTORS
from ...formats.urls import UrlRow
from .hits import Embed, Source, usable_url
from .keywords import caption_words, content_words, is_cased
from .licenses import rights_of
from .table_files import list_tables, natural_key, open_table

Floats = NDArray[np.float32]

WORDS = "words"
"""The filter for captions with the prompt's own words."""
MOST_CANDIDATES = 500_000
"""Most candidates over all prompts; about half a kilobyte each."""
TEXTS_AT_ONCE = 2048


@dataclass(frozen=True)
class TableSettings:
    """Which tables, and how candidates are chosen.

    Attributes:
        tables: files, globs, or URLs that fsspec opens (hf://, s3://, https://).
        embeddings: a folder with the images' embeddings in clip-retrieval's layout.
        caption_filter: "words": a caption has to hold more than half of the prompt's words; or a
            regular expression that captions have to match.
        candidates: captions per prompt that the teacher ranks.
    """

    tables: tuple[str, ...]
    embeddings: Path | None = None
    caption_filter: str = WORDS
    candidates: int = 3000


@dataclass(frozen=True)
class _Batch:
    """Some rows of a table: our columns, by our names, and the vectors of their images."""

    columns: Mapping[str, list[str | None]]
    vectors: NDArray[np.floating] | None

    def __len__(self) -> int:
        return len(self.columns["url"])

    def row(self, index: int) -> dict[str, str] | None:
        """Return the fields of a row; None without a URL that can be downloaded."""
        url = usable_url(self.columns["url"][index])
        if not url:
            return None
        row = {name: values[index] or "" for name, values in self.columns.items()}
        return {**row, "url": url}


_Candidate = tuple[float, int, dict[str, str]]
"""(Key, minus the order of arrival, row)."""


def make_tables(settings: TableSettings, embed: Embed, prompts: Sequence[str]) -> Source:
    """Make a source that searches tables; the first query reads them for all prompts.

    Args:
        settings: which tables, and how candidates are chosen.
        embed: the teacher's text tower.
        prompts: all prompts.

    Raises:
        InputError: there is no such table, or the filter is not a regular expression.
        FormatError: the embeddings do not belong to the tables.
    """
    files = list_tables(settings.tables)
    vectors = _vector_files(settings.embeddings, files)
    _check_filter(settings.caption_filter)

    @cache
    def found() -> dict[str, list[tuple[float, dict[str, str]]]]:
        texts = embed(prompts)
        heaps = _stream(settings, list(zip(files, vectors, strict=True)), prompts, texts)
        if settings.embeddings is not None:
            return {
                prompt: [(key, row) for key, _, row in sorted(heap, reverse=True)]
                for prompt, heap in zip(prompts, heaps, strict=True)
            }
        return _ranked_by_caption(prompts, texts, heaps, embed)

    def search(prompt: str, n: int) -> Iterator[UrlRow]:
        for rank, (score, row) in enumerate(found()[prompt][:n], 1):
            yield UrlRow(
                url=row["url"],
                prompt=prompt,
                rank=rank,
                score=score,
                source="parquet",
                caption=row.get("caption", ""),
                **rights_of(row),
            )

    return search


def _vector_files(folder: Path | None, files: Sequence[str]) -> list[Path | None]:
    """The file of vectors of each table, by their order."""
    if folder is None:
        return [None] * len(files)
    inner = folder / VECTORS if (folder / VECTORS).is_dir() else folder
    found = sorted(inner.glob("*.npy"), key=lambda path: natural_key(path.name))
    if len(found) != len(files):
        raise FormatError(
            f"{inner}: expected an .npy for each of {many(len(files), 'table')}, in the same "
            f"order (as clip-retrieval writes {VECTORS}/ and {ROWS}/), found "
            f"{len(found)}. Check --tables and --table-embeddings."
        )
    return list(found)


def _check_filter(text: str) -> None:
    import pyarrow
    import pyarrow.compute

    if text == WORDS:
        return
    try:
        pyarrow.compute.match_substring_regex(pyarrow.array([""]), text, ignore_case=True)
    except pyarrow.ArrowException as error:
        raise OptionError(
            f"--caption-filter {text!r}: not a regular expression ({error})."
        ) from error


class _Candidates:
    """The best rows of each prompt among those that were added so far.

    Each prompt has a heap of (key, minus the order of arrival, row): its first is the worst, of
    equals the latest.
    """

    def __init__(self, prompts: int, most: int) -> None:
        self.most = max(1, min(most, MOST_CANDIDATES // max(1, prompts)))
        self.heaps: list[list[_Candidate]] = [[] for _ in range(prompts)]
        self.open = set(range(prompts))
        self._order = 0

    def next_row(self) -> None:
        """Begin a further row, which may be pushed for any number of prompts."""
        self._order += 1

    def push(self, prompt: int, key: float, row: dict[str, str]) -> None:
        """Add a row if it is good enough."""
        heap = self.heaps[prompt]
        if prompt in self.open:
            heapq.heappush(heap, (key, -self._order, row))
            if len(heap) == self.most:
                self.open.discard(prompt)
        elif key > heap[0][0]:
            heapq.heapreplace(heap, (key, -self._order, row))


def _stream(
    settings: TableSettings,
    files: Sequence[tuple[str, Path | None]],
    prompts: Sequence[str],
    texts: Floats,
) -> list[list[_Candidate]]:
    """Read all tables once and return the best candidates of each prompt, as heaps."""
    best = _Candidates(len(prompts), settings.candidates)
    chooser = _Chooser(prompts, settings.caption_filter)
    with track("read tables", len(files), "files") as step:
        for name, vectors in files:
            for batch in _batches(name, vectors, texts.shape[1], chooser.pattern):
                if batch.vectors is None:
                    _add_by_words(best, chooser, batch)
                else:
                    _add_by_image(best, chooser, batch, texts)
            step(1, name)
    return best.heaps


def _add_by_words(best: _Candidates, chooser: _Chooser, batch: _Batch) -> None:
    """Add candidates by the share of a prompt's words that a caption holds."""
    for index in range(len(batch)):
        if (row := batch.row(index)) is None:
            continue
        best.next_row()
        shares = chooser.shares(row.get("caption", ""))
        for number, share in shares.items():
            best.push(number, share, row)
        if not chooser.own:
            for number in sorted(best.open - shares.keys()):
                best.push(number, 0.0, row)


def _add_by_image(best: _Candidates, chooser: _Chooser, batch: _Batch, texts: Floats) -> None:
    """Add candidates by the similarity of image and prompt."""
    assert batch.vectors is not None
    scores = normalized(batch.vectors) @ texts.T
    scores = np.where(np.isfinite(scores), scores, -1.0)  # damaged vectors rank last
    for index in range(len(batch)):
        if (row := batch.row(index)) is None:
            continue
        best.next_row()
        numbers = chooser.shares(row.get("caption", "")) if chooser.own else range(len(texts))
        for number in numbers:
            best.push(number, float(scores[index, number]), row)


class _Chooser:
    """Chooses the prompts of which a caption is a candidate.

    Attributes:
        own: whether captions are chosen by the prompts' own words.
        pattern: regular expression that captions have to match.
    """

    def __init__(self, prompts: Sequence[str], caption_filter: str) -> None:
        self.own = caption_filter == WORDS
        self._words = [content_words(prompt) for prompt in prompts]
        self._owners: dict[str, list[int]] = {}
        for number, words in enumerate(self._words):
            for word in words:
                self._owners.setdefault(word, []).append(number)
        self._inside = [word for word in self._owners if not is_cased(word)]
        # One match with RE2 excludes most captions before they are split to words.
        any_word = "|".join(sorted(map(re.escape, self._owners)))
        self.pattern = any_word if self.own else caption_filter

    def shares(self, caption: str) -> dict[int, float]:
        """Prompts and the share of their words that a caption holds; only above 0.5 if `own`."""
        words = set(caption_words(caption)) | {word for word in self._inside if word in caption}
        counts = Counter(owner for word in words for owner in self._owners.get(word, ()))
        least = 0.5 if self.own else 0.0
        shares = {number: count / len(self._words[number]) for number, count in counts.items()}
        return {number: share for number, share in shares.items() if share > least}


def _batches(name: str, vectors: Path | None, dim: int, pattern: str) -> Iterator[_Batch]:
    """Yield the rows of a table whose caption matches, in batches."""
    import pyarrow
    import pyarrow.compute

    mapped = None if vectors is None else _open_vectors(vectors, dim)
    start = 0
    for table in open_table(name):
        captions = table.column("caption")
        matching = pyarrow.compute.match_substring_regex(captions, pattern, ignore_case=True)
        places = np.flatnonzero(matching.fill_null(False).to_numpy(zero_copy_only=False))
        if mapped is not None and start + table.num_rows > len(mapped):
            raise _wrong_count(name, vectors, mapped)
        if len(places):
            kept = table.take(pyarrow.array(places))
            columns = {field: kept.column(field).to_pylist() for field in kept.schema.names}
            yield _Batch(columns, None if mapped is None else np.array(mapped[start + places]))
        start += table.num_rows
    if mapped is not None and start != len(mapped):
        raise _wrong_count(name, vectors, mapped)


def _wrong_count(name: str, vectors: Path | None, mapped: NDArray[np.floating]) -> FormatError:
    return FormatError(
        f"{vectors} has {len(mapped)} vectors, but {name} another number of rows: they do not "
        "belong together. Check --tables and --table-embeddings."
    )


def _open_vectors(path: Path, dim: int) -> NDArray[np.floating]:
    array: NDArray[np.floating] = read_array(path, mapped=True)
    if array.ndim != 2 or array.dtype.kind != "f":
        raise FormatError(
            f"{path}: expected floats (rows, {dim}), found {array.dtype} {array.shape}."
        )
    if array.shape[1] != dim:
        raise MismatchError(
            f"{path} holds {array.shape[1]}-d vectors, but the teacher's have {dim} dimensions. "
            "Give the teacher that made them: --model-name and --pretrained."
        )
    return array


def _ranked_by_caption(
    prompts: Sequence[str], texts: Floats, heaps: Sequence[list[_Candidate]], embed: Embed
) -> dict[str, list[tuple[float, dict[str, str]]]]:
    """Rank each prompt's candidates, the most similar caption first; of equals the earlier row."""
    rows = [[row for _, _, row in sorted(heap, key=lambda one: -one[1])] for heap in heaps]
    captions = [row["caption"] for some in rows for row in some]
    owners = np.repeat(np.arange(len(prompts)), [len(some) for some in rows])
    scores = iter(_similarities(captions, texts, owners, embed).tolist())
    result = {}
    for prompt, some in zip(prompts, rows, strict=True):
        rated = [(next(scores), row) for row in some]
        result[prompt] = sorted(rated, key=lambda one: -one[0])
    return result


def _similarities(
    captions: Sequence[str], texts: Floats, owners: NDArray[np.intp], embed: Embed
) -> Floats:
    """The cosine of each caption with its prompt; each different caption is embedded once.

    Args:
        captions: N texts.
        texts: float32 (prompts, D) of unit length.
        owners: (N,), the number of each caption's prompt.
        embed: the teacher's text tower.
    """
    numbers = {caption: index for index, caption in enumerate(dict.fromkeys(captions))}
    different = list(numbers)
    place = np.array([numbers[caption] for caption in captions], dtype=np.intp)
    result = np.empty(len(captions), np.float32)
    with track("rank captions", len(different), "captions") as step:
        for start in range(0, len(different), TEXTS_AT_ONCE):
            vectors = embed(different[start : start + TEXTS_AT_ONCE])
            mine = np.flatnonzero((place >= start) & (place < start + len(vectors)))
            pairs = vectors[place[mine] - start], texts[owners[mine]]
            result[mine] = np.einsum("nd,nd->n", *pairs)
            step(len(vectors))
    return result
