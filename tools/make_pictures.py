"""Draw the pictures of the README: docs/images/toy_world.png and docs/images/architecture.svg.

python tools/make_pictures.py
"""

from pathlib import Path

from clipdistill.core.files import atomic_path, write_bytes
from clipdistill.pipeline.toy.world import FIRST_USER_SEED, contact_sheet

IMAGES = Path(__file__).parents[1] / "docs/images"

WIDE, HIGH = 1190, 380
BOX = (172, 64)
INK, LINE, TEACHER, STUDENT, FILE = "#1c1c24", "#5b6470", "#e6eef9", "#dff1ee", "#ffffff"
BOXES = {
    "prompts": (20, 270, "prompts.txt", "a prompt a class", FILE),
    "photos": (20, 80, "photos", "no labels", FILE),
    "image": (265, 80, "teacher", "OpenCLIP's image tower", TEACHER),
    "text": (265, 270, "teacher", "OpenCLIP's text tower", TEACHER),
    "vectors": (515, 80, "embeddings", "one a photo", FILE),
    "classes": (515, 270, "text embeddings", "one a class", FILE),
    "student": (765, 80, "student", "timm; dense, 2:4, INT8", STUDENT),
    "classifier": (765, 270, "classifier.onnx", "labels, preprocessing", STUDENT),
    "cpu": (1000, 190, "any processor", "ONNX Runtime, OpenVINO", FILE),
    "gpu": (1000, 300, "GPU, Jetson", "TensorRT", FILE),
}
"""Name -> left, top, title, what it is, colour."""
ARROWS = (
    ("prompts", "photos", "search, download"),
    ("photos", "image", ""),
    ("image", "vectors", "embed"),
    ("prompts", "text", ""),
    ("text", "classes", "embed-text"),
    ("vectors", "student", "distill"),
    ("student", "classifier", "export"),
    ("classes", "classifier", "relabel"),
    ("classifier", "cpu", ""),
    ("classifier", "gpu", "engine"),
)
"""From, to, the commands that go this way."""
ABOUT = (
    "Photos go through the teacher's image tower; a student learns to give the same embeddings. "
    "Prompts go through its text tower and become the classes of one ONNX file, for processors, "
    "GPUs and Jetsons."
)


def main() -> None:
    """Draw both."""
    # The toy world's contact sheet (5 x 12 pictures), as a small palette PNG.
    sheet = contact_sheet(5, 12, seed=FIRST_USER_SEED).convert("P", palette=1, colors=256)
    with atomic_path(IMAGES / "toy_world.png") as temporary:
        sheet.save(temporary, optimize=True)
    write_bytes(IMAGES / "architecture.svg", architecture().encode())
    for name in ("toy_world.png", "architecture.svg"):
        print(f"{IMAGES / name}: {(IMAGES / name).stat().st_size / 1e3:.0f} kB")


def architecture() -> str:
    """The road from prompts and photos to a device, as SVG text."""
    arrows = "".join(arrow(*one) for one in ARROWS)
    boxes = "".join(box(*one) for one in BOXES.values())
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDE} {HIGH}" role="img" '
        f'font-family="system-ui, sans-serif" text-anchor="middle" fill="{INK}">'
        f"<title>Architecture of clipdistill</title><desc>{ABOUT}</desc>"
        '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" '
        f'markerHeight="8" orient="auto"><path d="M0 0L8 4L0 8z" fill="{LINE}"/></marker></defs>'
        f'<rect width="{WIDE}" height="{HIGH}" rx="10" fill="#fbfbf8"/>'
        f'<text x="20" y="42" font-size="17" font-weight="600" text-anchor="start">'
        "From prompts and photos to a device</text>"
        f"{arrows}{boxes}</svg>\n"
    )


def box(left: int, top: int, title: str, what: str, colour: str) -> str:
    """A rounded box with two lines."""
    wide, high = BOX
    middle = left + wide / 2
    return (
        f'<rect x="{left}" y="{top}" width="{wide}" height="{high}" rx="8" fill="{colour}" '
        f'stroke="{LINE}"/><text x="{middle}" y="{top + 28}" font-size="15" font-weight="600">'
        f'{title}</text><text x="{middle}" y="{top + 48}" font-size="12" fill="{LINE}">'
        f"{what}</text>"
    )


def arrow(source: str, target: str, label: str) -> str:
    """A straight arrow between two boxes, with its command beside it."""
    (left, top), (right, below) = BOXES[source][:2], BOXES[target][:2]
    wide, high = BOX
    if left == right:  # up or down
        x, ends = left + wide / 2, (top, below + high) if top > below else (top + high, below)
        line, place = (x, ends[0], x, ends[1]), (x + 8, sum(ends) / 2 + 4, "start")
    else:
        line = (left + wide, top + high / 2, right, below + high / 2)
        down = 18 if line[3] > line[1] else -8  # beside the line, whichever way it goes
        place = ((line[0] + line[2]) / 2, (line[1] + line[3]) / 2 + down, "middle")
    x1, y1, x2, y2 = line
    x, y, anchor = place
    return (
        f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" stroke="{LINE}" stroke-width="1.5" '
        f'marker-end="url(#head)"/><text x="{x}" y="{y}" font-size="12" fill="{LINE}" '
        f'text-anchor="{anchor}">{label}</text>'
    )


if __name__ == "__main__":
    main()
