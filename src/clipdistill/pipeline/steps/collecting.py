"""Steps that find images on the web: search and download."""

from __future__ import annotations

from ...formats.ledger import INDEX
from ..context import RunContext
from .command import changed, command
from .step import Estimate, Step

WITHOUT_EFFECT = ("max_workers", "per_host", "timeout", "total_timeout", "retries", "user_agent")
"""Options of a download that do not decide what is kept of an image."""


def search(context: RunContext) -> list[Step]:
    """Search for images that fit the prompts, if there is a search."""
    if context.options.search is None:
        return []
    options, folder = context.options.search_options(), context.folder

    def run() -> None:
        from ...collect.search import search

        if not folder.urls.exists():  # it is written last: an interrupted step may have made it
            search(context.prompts, folder.urls, options)

    urls, table = folder.urls, folder.urls.with_suffix(".parquet")
    return [
        Step(
            name="search",
            about=f"search for images that fit the prompts ({options.source})",
            run=run,
            estimate=lambda probe: Estimate(None),
            settings={**options.identity(), "num_images": options.num_images},
            inputs={"prompts": context.inputs.digests["prompts"]},
            outputs=(context.below(urls), context.below(table)),
            command=command("search", context.prompts, urls, **changed(options)),
            leftovers="move",
        )
    ]


def download(context: RunContext) -> list[Step]:
    """Download the images that the search found."""
    if context.options.search is None:
        return []
    options, folder = context.options.download_options(), context.folder

    def run() -> None:
        from ...collect.download import download

        download(folder.urls, folder.images, options)

    given = {name: one for name, one in changed(options).items() if name not in WITHOUT_EFFECT}
    images = context.below(folder.images)
    return [
        Step(
            name="download",
            about="download the images",
            run=run,
            estimate=lambda probe: Estimate(None),
            # Options that were added later count only where they are given: older runs stay valid.
            settings={"resize": options.resize, "allow_private": options.allow_private, **given},
            after=("search",),
            outputs=(images,),
            markers=(f"{images}/{INDEX}",),
            command=command("download", folder.urls, folder.images, **changed(options)),
            finds_images=True,
        )
    ]
