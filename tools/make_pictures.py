"""Draw the pictures of the README: docs/images/toy_world.png.

python tools/make_pictures.py
"""

from pathlib import Path

from clipdistill.files import atomic_path
from clipdistill.toy.world import FIRST_USER_SEED, contact_sheet

OUT = Path(__file__).parents[1] / "docs/images/toy_world.png"


def main() -> None:
    """Draw the toy world's contact sheet (5 x 12 pictures), as a small palette PNG."""
    sheet = contact_sheet(5, 12, seed=FIRST_USER_SEED).convert("P", palette=1, colors=256)
    with atomic_path(OUT) as temporary:
        sheet.save(temporary, optimize=True)
    print(f"{OUT}: {OUT.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
