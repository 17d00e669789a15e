"""Search a kNN service for images of prompts, and write a list of URLs.

    python3 search_clip_images.py data/text_prompts.txt data/image_urls.txt -n 5000 -m 10000 \
        --max_workers 2 --append --url http://127.0.0.1:1234

The older command over `clipdistill.search`; `clipdistill search --help` offers more sources.
"""

import argparse
import sys
from pathlib import Path

from clipdistill.cli import run_script
from clipdistill.collect.search import search
from clipdistill.collect.sources.options import SearchOptions


def main() -> int:
    """Run the command; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("text_prompts_file", type=Path)
    parser.add_argument("output_file", type=Path)
    parser.add_argument("-n", "--num_images", type=int, default=50)
    parser.add_argument("-m", "--num_result_ids", type=int, default=3000)
    parser.add_argument("--max_workers", type=int, default=16)
    parser.add_argument("-a", "--append", action="store_true", help="add URLs to the file")
    parser.add_argument("--url", help="address of the service; LAION's public one is gone")
    parser.add_argument("--indice_name", help="default: the service's first")
    args = parser.parse_args()
    options = SearchOptions(
        source="knn",
        url=args.url,
        indice_name=args.indice_name,
        num_images=args.num_images,
        # The older script asked for fewer candidates than images when -n was large.
        num_result_ids=max(args.num_images, args.num_result_ids),
        max_workers=args.max_workers,
        append=args.append,
    )
    return run_script(lambda: search(args.text_prompts_file, args.output_file, options))


if __name__ == "__main__":
    sys.exit(main())
