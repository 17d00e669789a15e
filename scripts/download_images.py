"""Download pictures from a list of URLs.

    python3 download_images.py data/image_urls.txt data/images --max_workers 32 --timeout 2

The older command over `clipdistill.download`; `clipdistill download --help` offers more.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import clipdistill
from clipdistill.cli import run_script


def main() -> int:
    """Run the command; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("input_urls_file", type=Path)
    parser.add_argument("output_folder", type=Path)
    parser.add_argument("--max_workers", type=int, default=16)
    parser.add_argument("--timeout", type=float, default=2.0, help="seconds without a byte")
    parser.add_argument("--verify", type=_yes_or_no, default=True, help="check certificates")
    parser.add_argument("--allow_private", action="store_true", help="also from private addresses")
    args = parser.parse_args()
    # resize 0: the older script kept the bytes as they came.
    options: dict[str, Any] = dict(
        max_workers=args.max_workers,
        timeout=args.timeout,
        verify_tls=args.verify,
        allow_private=args.allow_private,
        resize=0,
    )
    urls, images = args.input_urls_file, args.output_folder
    return run_script(lambda: clipdistill.download(urls, images, **options))


def _yes_or_no(text: str) -> bool:
    # The older script took any text for "yes", also "False".
    return text.strip().lower() not in ("0", "false", "no", "off")


if __name__ == "__main__":
    sys.exit(main())
