"""report: shows a run as one HTML file or as a model card."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..core.files import write_bytes
from ..core.locks import locked_files
from ..core.results import Result, Table, list_some
from ..core.wording import size
from ..formats.run import RunFolder
from .pages.gather import gather
from .pages.missing import missing_of


@dataclass(frozen=True, repr=False)
class ReportResult(Result):
    """Result of `report`.

    Attributes:
        out: file that was written.
        format: "html" or "markdown".
        size_bytes: size of the file in bytes.
        missing: (what the page does not have, the command that adds it).
    """

    out: Path
    format: str
    size_bytes: int
    missing: tuple[tuple[str, str], ...]

    def summary(self) -> list[str | Table]:
        """See `Result.summary`."""
        lines = [f"{text}  {command}" for text, command in self.missing]
        return [
            f"Written: {self.out} ({size(self.size_bytes)})",
            *list_some("Missing, and the commands that add it (RUN is the run's folder):", lines),
        ]


def report(
    run: Path,
    /,
    *,
    out: Path | None = None,
    format: Literal["html", "markdown"] = "html",
) -> ReportResult:
    """Show a run on one page: an HTML report or a model card.

    The HTML report is one file without scripts that loads nothing else.  It shows the results of
    all models, the classes, images with the predictions of teacher and student, the training, the
    sources of the images, and the commands.  It also lists what the run does not have, with the
    command that adds it.

    The markdown page is a model card in the format of Hugging Face.  Unknown facts, such as a
    licence, are marked as unknown.

    The same run gives the same bytes.

    Args:
        run: folder of a `clipdistill run` or `clipdistill quickstart`, finished or not.
        out: file to write; report.html or README.md in the run's folder unless given.
        format: html or markdown.

    Raises:
        InputError: there is no run in the folder.
        FormatError: a file in it is damaged.
        OutputError: `out` cannot be written, or another process is writing it.
        MissingExtraError: jinja2 or matplotlib, which html needs, is not installed.
    """
    run = Path(run)
    found = gather(run)
    if format == "html":
        from .pages.html import render

        name = RunFolder(run).report
    else:
        from .pages.model_card import render

        name = RunFolder(run).model_card
    out = Path(out or name)
    with locked_files("report", out):
        data = render(found).encode(errors="backslashreplace")
        write_bytes(out, data)
    gaps = tuple((gap.text, gap.command) for gap in missing_of(found).values())
    return ReportResult(out, format, len(data), gaps)
