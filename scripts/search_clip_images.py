r"""Search a kNN service for images of prompts, and write a list of URLs.

    python3 search_clip_images.py data/text_prompts.txt data/image_urls.txt -n 5000 -m 10000 \
        --max_workers 2 --append --url http://127.0.0.1:1234

`clipdistill search --help` offers more sources.
"""

import argparse
import sys
from pathlib import Path

from _older import CONNECTIONS, argument, run

ARGUMENTS = (
    argument("text_prompts_file", type=Path, help="file of prompts, one per line"),
    argument("output_file", type=Path, help="file for the URLs, one per line"),
    argument("-n", "--num_images", type=int, default=50, help="URLs per prompt"),
    argument(
        "-m",
        "--num_result_ids",
        type=int,
        default=3000,
        help="candidates per prompt that the service looks at; at least --num_images are requested",
    ),
    CONNECTIONS,
    argument(
        "-a", "--append", action="store_true", default=False, help="add to a file that exists"
    ),
    argument("--url", help="address of the service; needed, for LAION's public one is gone"),
    argument("--indice_name", help="name of its index (default: the service's first)"),
)
WORDS = {"--source knn needs": "The search needs"}


def search(args: argparse.Namespace) -> object:
    """Search the service."""
    from clipdistill.collect.search import search
    from clipdistill.collect.sources.options import SearchOptions

    options = SearchOptions(
        source="knn",
        url=args.url,
        indice_name=args.indice_name,
        num_images=args.num_images,
        # The older script requested fewer candidates than images when -n was large.
        num_result_ids=max(args.num_images, args.num_result_ids),
        max_workers=args.max_workers,
        append=args.append,
    )
    return search(args.text_prompts_file, args.output_file, options)


def main() -> int:
    """Run the command; returns the exit code."""
    return run(__doc__, ARGUMENTS, search, WORDS)


if __name__ == "__main__":
    sys.exit(main())
