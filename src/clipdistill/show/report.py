"""report: a run as one HTML file that anybody can open, or as a model card."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..core.files import write_bytes
from ..core.results import Result, Table, list_some
from ..core.wording import size
from ..formats.run import RunFolder
from .pages.gather import gather
from .pages.missing import missing_of


@dataclass(frozen=True, repr=False)
class ReportResult(Result):
    """What `report` wrote.

    Attributes:
        out: the file.
        format: "html" or "markdown".
        size_bytes: of the file.
        missing: what it does not show, and the command that would add it.
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
            *list_some("Not in it, and what would add it (RUN is the run's folder):", lines),
        ]


def report(
    run: Path,
    /,
    *,
    out: Path | None = None,
    format: Literal["html", "markdown"] = "html",
) -> ReportResult:
    """Show what a run made, so that it can be judged in a minute and sent to a colleague.

    The HTML page is one file without scripts that asks for nothing else: it opens from disk, on a
    phone and in print, in light and dark.  It has the results, every class, pictures with the
    predictions of teacher and student, the curves of training, where the data came from, and the
    commands.  What a run does not have is named, with the command that adds it.

    The markdown page is a model card as Hugging Face has it.  What is not known, such as a licence,
    is called unknown.

    The same run gives the same bytes.

    Args:
        run: folder of a `clipdistill run` (or `quickstart`), finished or not.
        out: the file to write; default: report.html, or README.md, in the run's folder.
        format: html or markdown.

    Raises:
        InputError: there is no run in the folder.
        FormatError: something in it is damaged.
        MissingExtraError: html, and jinja2 or matplotlib is not installed.
    """
    run = Path(run)
    found = gather(run)
    if format == "html":
        from .pages.html import render

        text, name = render(found), RunFolder(run).report
    else:
        from .pages.model_card import render

        text, name = render(found), RunFolder(run).model_card
    out = name if out is None else Path(out)
    data = text.encode(errors="backslashreplace")
    write_bytes(out, data)
    gaps = tuple((gap.text, gap.command) for gap in missing_of(found).values())
    return ReportResult(out, format, len(data), gaps)
