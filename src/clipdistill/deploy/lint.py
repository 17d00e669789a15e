"""lint: check from the stored graph whether a runtime runs an ONNX file fast."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..core.errors import FormatError
from ..core.files import describing
from ..core.results import Result, Table
from ..core.wording import percent
from ..formats.classifier import Target
from ..models.open import needs_training_extra

if TYPE_CHECKING:
    from .graph.findings import Finding
    from .graph.weights import Layer


@dataclass(frozen=True, repr=False)
class LintResult(Result):
    """What `lint` found.

    Attributes:
        file: ONNX file.
        target: runtime it was checked for.
        made_for: runtime it was exported for; empty for a file of another program.
        ready: whether there are no errors.
        opset: version of ONNX's operators.
        ir_version: version of the file format.
        size_mb: size of the file in 10^6 bytes.
        findings: findings of the rules, errors first.
        macs: multiplications per image, of the layers whose shapes are known.
        uncounted: layers whose multiplications are unknown, which no share includes.
        int8_share: share of the multiplications with INT8 weights.
        two_four_weights_share: share of the weights in layers stored as 2:4.
        two_four_share: share of the multiplications in layers stored as 2:4.
        engaging_share: share of the multiplications that sparse kernels can do.
        layers: layers with weights.
    """

    file: Path
    target: Target
    made_for: str
    ready: bool
    opset: int
    ir_version: int
    size_mb: float
    findings: tuple[Finding, ...]
    macs: int
    uncounted: int
    int8_share: float
    two_four_weights_share: float
    two_four_share: float
    engaging_share: float
    layers: tuple[Layer, ...]

    @property
    def exit_code(self) -> int:
        """Exit code: 0 when ready, else that of a `FormatError`."""
        return 0 if self.ready else FormatError.exit_code

    def summary(self) -> list[str | Table]:
        """See `Result.summary`."""
        errors = sum(one.severity == "error" for one in self.findings)
        status = "ready" if self.ready else f"NOT ready ({errors} errors)"
        made = f" (made for {self.made_for})" if self.made_for not in ("", self.target) else ""
        lines: list[str | Table] = [
            f"{self.file}: {status} for {self.target}{made}; opset {self.opset}, "
            f"{self.size_mb:.1f} MB.",
            self._multiplications(),
        ]
        return [*lines, *(_by_rule(self.findings) or ["No findings."])]

    def _multiplications(self) -> str:
        counted = len(self.layers) - self.uncounted
        if not counted:
            return f"The multiplications of its {len(self.layers)} layers are unknown."
        unknown = f", without {self.uncounted} of unknown shape" if self.uncounted else ""
        return (
            f"{self.macs / 1e6:.1f} million multiplications per image in {counted} "
            f"layers{unknown}: {percent(self.int8_share)} INT8, {percent(self.two_four_share)} "
            f"2:4; sparse kernels can do {percent(self.engaging_share)}."
        )


def lint(file: Path, /, *, target: Target) -> LintResult:
    """Check whether an ONNX file is ready for a runtime: what it refuses, and what would be slow.

    Reads the stored graph and runs nothing.  Checks opset, domains, sizes, leftover batch norms,
    places and types of quantisers, residual additions, casts, layers in float, the 2:4 pattern of
    the stored weights, and the share of the multiplications where sparsity can engage.  Works on
    files of other programs, too.  The exit code is 4 when there are errors.

    Args:
        file: .onnx file to check.
        target: runtime that will run the file: onnxruntime (CPU), or tensorrt (also for OpenVINO).

    Raises:
        InputError: no such file.
        FormatError: the file is damaged or too large, or keeps its weights in other files.
    """
    with needs_training_extra("Checking an ONNX file"):
        from .graph import load_graph
        from .graph.lint import card_of, lint_model
    model = load_graph(file)
    card = card_of(model, file)
    with describing(file):
        report = lint_model(model, target, card)
    return LintResult(
        file=file,
        target=target,
        made_for="" if card is None else card.target,
        ready=not report.of("error"),
        opset=report.opset,
        ir_version=report.ir_version,
        size_mb=file.stat().st_size / 1e6,
        findings=report.findings,
        macs=report.macs,
        uncounted=report.uncounted,
        int8_share=report.int8_macs_share,
        two_four_weights_share=report.two_four_weights_share,
        two_four_share=report.two_four_macs_share,
        engaging_share=report.engaging_macs_share,
        layers=report.layers,
    )


def _by_rule(findings: tuple[Finding, ...]) -> list[str]:
    """Format one line per rule, however many nodes it found, and each advice once."""
    groups: dict[tuple[str, str], list[Finding]] = {}
    for one in findings:
        groups.setdefault((one.severity, one.rule), []).append(one)
    lines = []
    for (severity, rule), found in groups.items():
        more = f" and {len(found) - 1} more" if len(found) > 1 else ""
        where = f" [{found[0].node}{more}]" if found[0].node else ""
        lines.append(f"  {severity}: {rule}: {found[0].message}{where}")
    errors = [found[0] for found in groups.values() if found[0].severity != "note"]
    return [*lines, *(f"  -> {advice}" for advice in dict.fromkeys(one.advice for one in errors))]
