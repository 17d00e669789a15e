"""search: prompts -> a list of image URLs, and a table with the origin of each."""

from __future__ import annotations

import itertools
import os
import threading
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..core.errors import InputError, OutputError
from ..core.locks import locked_files
from ..core.progress import message, track
from ..core.results import Result, Table, list_some
from ..core.wording import many
from ..formats.prompts import load_prompts
from ..formats.urls import UrlRow, read_urls, save_urls
from ..models.teachers import DEFAULT_MODEL_NAME, DEFAULT_PRETRAINED
from .sources.asking import ask_all
from .sources.hits import Embed, Hits, Source, balance, in_turn, ranked
from .sources.journal import Journal, journal_path
from .sources.options import SearchOptions

if TYPE_CHECKING:
    from ..formats.cards import TeacherCard
    from ..models.teacher import Teacher
    from .sources.http import Service

TABLE_TEACHER = (DEFAULT_MODEL_NAME, DEFAULT_PRETRAINED)
"""The teacher that ranks the captions of tables when none is named; the default of `embed`."""


@dataclass(frozen=True)
class PromptHits:
    """The numbers of hits of one prompt.

    Attributes:
        prompt: the text of the query.
        found: number of hits that the source returned.
        without_url: number of these hits without a URL that can be downloaded.
        chosen: number of URLs of this prompt that were added to the list.
    """

    prompt: str
    found: int
    without_url: int
    chosen: int


@dataclass(frozen=True, repr=False)
class SearchResult(Result):
    """What `search` did.

    Attributes:
        urls: the list; a `.parquet` of the same name beside it has the origin of each URL.
        source: name of the source that was searched.
        prompts: one entry per prompt, in the order of the file.
        asked: number of URLs requested per prompt.
        added: number of URLs added to the list.
        kept: number of URLs that were in the list before.
        resumed: number of prompts that an interrupted run had finished.
        seconds: duration of this run.
    """

    urls: Path
    source: str
    prompts: tuple[PromptHits, ...]
    asked: int
    added: int
    kept: int
    resumed: int
    seconds: float

    def summary(self) -> list[str | Table]:
        """See `Result.summary`."""
        before = f", {self.kept} were in the list before" if self.kept else ""
        resumed = f" ({self.resumed} of them by an interrupted run)" if self.resumed else ""
        nothing = [one.prompt for one in self.prompts if not one.found]
        fewer = [
            f"{one.prompt}: {one.chosen} ({one.found} found, {one.without_url} without a URL)"
            for one in self.prompts
            if one.found and one.chosen < self.asked
        ]
        lost = sum(one.without_url for one in self.prompts)
        lines: list[str | Table] = [
            f"{many(self.added, 'URL')} for {many(len(self.prompts), 'prompt')}{resumed}, "
            f"source {self.source}"
            f"{before}.",
        ]
        if lost:
            lines.append(f"Left out, because no URL can be downloaded: {many(lost, 'hit')}.")
        lines += list_some("Found nothing for:", nothing)
        lines += list_some(f"Fewer than {self.asked} different URLs for:", fewer)
        return [*lines, f"URLs: {self.urls} (the origin of each: {_parquet(self.urls).name})"]


def search(prompts: Path, urls: Path, options: SearchOptions = SearchOptions()) -> SearchResult:
    """Search images for prompts, and write a list of their URLs.

    The list is balanced over the prompts, the best first.  No URL occurs twice: a URL that several
    prompts found belongs to the prompt for which it ranks best.  The search can be stopped and run
    again at any time: finished prompts are not searched again.

    Args:
        prompts: prompts file; each prompt is one query.
        urls: list to write, one URL per line; a .parquet with prompt, rank, score, caption, licence
            and author of each is written beside it.
        options: what to search, and how.

    Raises:
        InputError: there are no prompts, or an option is missing or out of range.
        OutputError: the list exists (without `append`), cannot be written, or another process is
            writing it.
        ServiceError: a service fails, refuses, or sends an unexpected answer.
        MismatchError: the teacher is not that of the pool or the embeddings.
    """
    prompts, urls = Path(prompts), Path(urls)
    options.check()
    texts = _queries(prompts)
    start = time.monotonic()
    with locked_files("search", urls):
        kept = _existing(urls, options.append)
        journal = Journal(urls, options.identity())
        try:
            todo = [text for text in texts if text not in journal.found]
            if journal.resumed:
                of = many(len(texts), "prompt")
                message(f"Resuming: {len(texts) - len(todo)} of {of} are finished.")
            if todo:
                _ask_all(todo, options, journal, done=len(texts) - len(todo))
            found = [journal.found[text] for text in texts]
            shares = balance(found, options.num_images, kept.keys)
            chosen = (journal.row(texts[place], number) for place, number in in_turn(shares))
            save_urls(urls, itertools.chain(kept.rows(), chosen))
            journal.close(done=True)
        finally:
            journal.close()
    return SearchResult(
        urls=urls,
        source=str(options.source),
        prompts=_per_prompt(texts, found, shares),
        asked=options.num_images,
        added=sum(map(len, shares)),
        kept=int(kept.first.sum()),
        resumed=len(texts) - len(todo),
        seconds=time.monotonic() - start,
    )


def _per_prompt(
    texts: Sequence[str], found: Sequence[Hits], shares: Sequence[Sequence[int]]
) -> tuple[PromptHits, ...]:
    return tuple(
        PromptHits(text, len(hits), int((hits.keys == 0).sum()), len(share))
        for text, hits, share in zip(texts, found, shares, strict=True)
    )


def _queries(path: Path) -> list[str]:
    """List every prompt of every label, once."""
    prompts = load_prompts(path).prompts
    return list(dict.fromkeys(prompt for some in prompts for prompt in some))


def _parquet(urls: Path) -> Path:
    return urls.with_suffix(".parquet")


@dataclass(frozen=True)
class _Kept:
    """An existing list, without repeated URLs; its rows stay on the disk.

    Attributes:
        path: of the list or of its .parquet; None where there is none.
        keys: hashes of the URLs of its rows, int64 (N,).
        first: whether each row is the first of its URL, bool (N,).
    """

    path: Path | None
    keys: NDArray[np.int64]
    first: NDArray[np.bool_]

    @classmethod
    def of(cls, path: Path | None) -> _Kept:
        """Read a list."""
        urls = (row.url for row in read_urls(path)) if path else ()
        keys = np.frombuffer(array("q", map(hash, urls)), np.int64)
        order = np.argsort(keys, kind="stable")
        first = np.ones(len(keys), bool)
        first[order[1:]] = keys[order[1:]] != keys[order[:-1]]
        return cls(path, keys, first)

    def rows(self) -> Iterator[UrlRow]:
        """Read the list again, the first row of each URL."""
        return itertools.compress(read_urls(self.path), self.first) if self.path else iter(())


def _existing(urls: Path, append: bool) -> _Kept:
    """The existing list, which is kept.

    Raises:
        OutputError: the list exists, and `append` was not given.
        InputError: `urls` names the .parquet instead of the list.
    """
    if urls.suffix.lower() == ".parquet":
        raise InputError(
            f"{urls}: name the list of URLs, such as {urls.with_suffix('.txt')}; the .parquet is "
            "written beside it."
        )
    there = [path for path in (urls, _parquet(urls)) if path.exists()]
    if there and append:
        return _Kept.of(there[0])
    if not there or (there == [_parquet(urls)] and journal_path(urls).exists()):
        return _Kept.of(None)  # or killed between the two files; this run writes both
    raise OutputError(
        f"{there[0]} exists. Add to it with --append, choose another file, or delete it."
    )


def _ask_all(texts: Sequence[str], options: SearchOptions, journal: Journal, done: int) -> None:
    """Search for every prompt and write its hits to the journal as soon as they are there."""
    stop = threading.Event()
    source, workers = _open_source(texts, options, stop)

    def ask(text: str) -> Iterator[UrlRow]:
        return ranked(source(text, options.hits))

    with track("search", done + len(texts), "prompts", done) as step:
        for text, rows in ask_all(texts, ask, workers, stop):
            step(1, f"{len(journal.add(text, rows))} for {text!r}")


def _open_source(
    texts: Sequence[str], options: SearchOptions, stop: threading.Event
) -> tuple[Source, int]:
    """The source, and the number of threads that may query it."""
    if options.source == "parquet":
        return _tables(texts, options), 1
    if options.source == "pool":
        return _pool(texts, options), 1
    if options.source == "commons":
        return _commons(options, stop), options.max_workers
    if options.source == "openverse":
        return _openverse(options, stop), options.max_workers
    return _knn(texts, options, stop), options.max_workers


def _service(
    name: str,
    options: SearchOptions,
    stop: threading.Event,
    *,
    contact: str = "",
    at_once: int = 64,
) -> Service:
    from .sources.http import Patience, Service, user_agent

    patience = Patience(
        connect=min(10.0, options.timeout),
        read=options.timeout,
        total=5 * options.timeout,
        retries=options.retries,
        backoff=options.backoff,
    )
    return Service(
        name, user_agent=user_agent(contact), patience=patience, at_once=at_once, stop=stop
    )


def _contact(options: SearchOptions) -> str:
    return options.contact or os.environ.get("CLIPDISTILL_CONTACT", "")


def _knn(texts: Sequence[str], options: SearchOptions, stop: threading.Event) -> Source:
    from .sources.http import check_url
    from .sources.knn import KnnSettings, make_knn

    settings = KnnSettings(
        indice_name=options.indice_name,
        num_result_ids=options.candidates,
        use_mclip=options.use_mclip,
        deduplicate=options.deduplicate,
        use_safety_model=options.use_safety_model,
        use_violence_detector=options.use_violence_detector,
        aesthetic_score=options.aesthetic_score,
        aesthetic_weight=options.aesthetic_weight,
    )
    url = check_url(options.url or "", "--url")
    named = options.model_name is not None
    return make_knn(
        _service("The kNN service", options, stop),
        url,
        settings,
        query=options.query,
        embed=_lazy_embed(texts, options) if named else None,
    )


def _commons(options: SearchOptions, stop: threading.Event) -> Source:
    from .sources.commons import API, AT_ONCE, contact_of, make_commons
    from .sources.http import check_url

    contact = contact_of(_contact(options))
    service = _service("Wikimedia Commons", options, stop, contact=contact, at_once=AT_ONCE)
    api = check_url(options.api_url or API, "--api-url")
    return make_commons(service, api, width=options.image_width)


def _openverse(options: SearchOptions, stop: threading.Event) -> Source:
    from .sources.http import check_url
    from .sources.openverse import API, AT_ONCE, DEPTH, make_openverse

    if options.num_images > DEPTH:
        message(f"Without a key Openverse returns at most {DEPTH} results per prompt.")
    service = _service("Openverse", options, stop, contact=_contact(options), at_once=AT_ONCE)
    api = check_url(options.api_url or API, "--api-url")
    return make_openverse(service, api, license=options.license, license_type=options.license_type)


def _tables(texts: Sequence[str], options: SearchOptions) -> Source:
    from .sources.tables import TableSettings, make_tables

    settings = TableSettings(
        tables=options.tables,
        embeddings=options.table_embeddings,
        caption_filter=options.caption_filter,
        candidates=options.candidates,
    )
    return make_tables(settings, _lazy_embed(texts, options), texts)


def _pool(texts: Sequence[str], options: SearchOptions) -> Source:
    from .pool import open_pool, teacher_names
    from .sources.pooled import make_pooled

    assert options.pool is not None
    pool = open_pool(options.pool)
    names = teacher_names(pool, options.model_name, options.pretrained)

    def fits(card: TeacherCard) -> None:
        card.check_same(pool.teacher, f"The teacher {card}", pool.root)

    return make_pooled(pool, _lazy_embed(texts, options, names, fits), texts, options.hits)


def _lazy_embed(
    prompts: Sequence[str],
    options: SearchOptions,
    names: tuple[str, str] | None = None,
    check: Callable[[TeacherCard], None] = lambda card: None,
) -> Embed:
    """A text tower that is loaded when it is first used; safe to share between threads."""
    lock = threading.Lock()
    loaded: list[Teacher] = []

    def embed(texts: Sequence[str]) -> NDArray[np.float32]:
        from ..models.teacher import load_teacher

        with lock:
            if not loaded:
                model_name, pretrained = names or _teacher_named(options)
                teacher = load_teacher(
                    model_name, pretrained, device=options.device, precision=options.precision
                )
                check(teacher.card)
                teacher.mention_cut(prompts)
                loaded.append(teacher)
            return loaded[0].embed_texts(list(texts))

    return embed


def _teacher_named(options: SearchOptions) -> tuple[str, str]:
    if options.model_name is None:
        return TABLE_TEACHER[0], options.pretrained or TABLE_TEACHER[1]
    return options.model_name, options.pretrained or ""
