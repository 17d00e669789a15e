"""The report as one HTML file that loads nothing else: no scripts, fonts or external images.

jinja2's autoescaping escapes untrusted strings (labels, file names, addresses, authors).  Only http
and https addresses become links.  The page's content security policy only allows inline styles and
embedded images.
"""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

from ...core import wording as words
from ...core.errors import MissingExtraError
from ...models.teachers import restriction
from . import figures, missing
from .class_vectors import class_vectors_of
from .classes import classes_of
from .gallery import gallery_of
from .gather import Gathered
from .naming import RUNTIMES, TITLES, model_name
from .reliability import reliability_of
from .several import several_of
from .standing import chosen_kind, shown_student, standings, teacher_of
from .summary import assessment_of, findings_of, sentence_of, teacher_name, tiles_of, title_of

MOST_CREDITS = 300
"""Most authors that are listed; the ledger has all."""
MOST_ROWS = 40
"""Most rows of a table of prompts or failures."""
MOST_CLASSES = 1000
"""Most rows of the table of classes."""


def render(run: Gathered) -> str:
    """Render the report; the same run gives the same text.

    Raises:
        MissingExtraError: jinja2 or matplotlib is not installed.
    """
    environment = _environment()
    from markupsafe import Markup

    def drawing(found: figures.Figure) -> Markup:
        return Markup(found.svg)

    environment.filters["drawing"] = drawing
    page = environment.get_template("report.html.jinja").render(_context(run))
    return "\n".join(line.rstrip() for line in page.splitlines() if line.strip()) + "\n"


def _environment() -> Any:
    try:
        import jinja2
    except ImportError as error:
        raise MissingExtraError("jinja2", "report", "A report in HTML") from error

    def load(name: str) -> str:
        return (files(__package__) / "templates" / name).read_text(encoding="utf-8")

    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(load),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: words.clean(value) if type(value) is str else value,
    )
    environment.filters |= {
        name: getattr(words, name)
        for name in (
            "percent",
            "megabytes",
            "size",
            "duration",
            "many",
            "short",
            "web_address",
            "moment",
        )
    }
    environment.filters["runtime"] = lambda name: RUNTIMES.get(name, name)
    return environment


def _context(run: Gathered) -> dict[str, Any]:
    models, shown, teacher = standings(run), shown_student(run), teacher_of(run)
    kind = chosen_kind(run) if shown is None else shown.name.kind
    classes, believed = classes_of(run, shown), reliability_of(run, kind)
    return {
        "run": run,
        "style": (files(__package__) / "templates" / "report.css").read_text(encoding="utf-8"),
        "title": title_of(run),
        "sentence": sentence_of(run),
        "assessment": assessment_of(run),
        "teacher_name": teacher_name(run),
        "license_restriction": "" if run.teacher is None else restriction(run.teacher.license),
        "tiles": tiles_of(run, shown, teacher),
        "findings": findings_of(run, shown, teacher, models, classes),
        "models": models,
        "shown": shown,
        "runtimes": [name for name in RUNTIMES if any(name in one.latency_ms for one in models)],
        "raced": _raced(run),
        "trade_off": figures.trade_off(models, run.labelled),
        "learning": figures.learning(run.students),
        "classes": classes,
        "per_class": figures.per_class(classes) if classes and classes.rows else None,
        "confused": figures.confused(classes) if classes and classes.rows else None,
        "class_vectors": class_vectors_of(run),
        "several": several_of(run, shown),
        "gallery": gallery_of(run, kind),
        "believed": believed,
        "fitted_for": _fitted_for(run),
        "reliability": None if believed is None else figures.reliability(believed),
        "titles": TITLES,
        "missing": missing.missing_of(run),
        "settings": [(name, _setting(value)) for name, value in run.record.settings.items()],
        "most": {"credits": MOST_CREDITS, "rows": MOST_ROWS, "classes": MOST_CLASSES},
    }


def _fitted_for(run: Gathered) -> str:
    """Title of the student that the calibration was fitted for."""
    fitted = None if run.text is None else run.text.calibration
    return "" if fitted is None else model_name(fitted.model, "student", run.classifier_of).title


def _setting(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _raced(run: Gathered) -> list[dict[str, Any]]:
    """The rows of the benchmark as text."""
    cells = []
    for row in () if run.raced is None else run.raced.rows:
        name = model_name(row.model, row.role, run.classifier_of)
        cells.append(
            {
                "model": name.file,
                "runtime": RUNTIMES.get(row.runtime, row.runtime),
                "precision": row.kind,
                "size": words.megabytes(row.size_mb),
                "latency": words.milliseconds(row.latency_ms),
                "slow": words.milliseconds(row.latency_p90_ms),
                "rates": {batch: f"{rate:,.0f}" for batch, rate in row.throughput.items()},
                "memory": "-" if row.peak_mb is None else f"{row.peak_mb:,.0f}",
                "accuracy": words.percent(row.accuracy),
                "agreement": words.percent(row.agreement),
                "cosine": "-" if row.cosine is None else f"{row.cosine:.4f}",
                "reason": row.reason,
            }
        )
    return cells
