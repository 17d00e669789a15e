"""Download images from a list of URLs.

    python3 download_images.py data/image_urls.txt data/images --max_workers 32 --timeout 2

`clipdistill download --help` offers more.
"""

import argparse
import sys
from pathlib import Path

from _older import CONNECTIONS, argument, flag, run


def _yes_or_no(text: str) -> bool:
    # The older script took any text for "yes", also "False".
    return text.strip().lower() not in ("0", "false", "no", "off")


ARGUMENTS = (
    argument("input_urls_file", type=Path, help="file of URLs, one per line"),
    argument("output_folder", type=Path, help="folder for the images"),
    CONNECTIONS,
    argument("--timeout", type=float, default=2.0, help="seconds without a byte"),
    argument(
        "--verify",
        type=_yes_or_no,
        default=True,
        help="check certificates; 0, false, no and off turn it off",
    ),
    flag("--allow_private", "also fetch from private addresses"),
)


def download(args: argparse.Namespace) -> object:
    """Download, and keep the bytes as they come."""
    from clipdistill.collect.download import download
    from clipdistill.collect.web.options import DownloadOptions

    options = DownloadOptions(
        max_workers=args.max_workers,
        timeout=args.timeout,
        verify_tls=args.verify,
        allow_private=args.allow_private,
        resize=0,
    )
    return download(args.input_urls_file, args.output_folder, options)


def main() -> int:
    """Run the command; returns the exit code."""
    return run(__doc__, ARGUMENTS, download)


if __name__ == "__main__":
    sys.exit(main())
