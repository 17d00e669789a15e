"""Building a TensorRT engine: TensorRT 8.6, 10.x and 11.x through one Python API.

Differences between the versions (sources: the names in the bindings 8.6.1, 10.0.1, 10.12.0, 11.0.0
and 11.4.0, and NVIDIA's migration guides; 2026-11):

    8.6            the flag EXPLICIT_BATCH is needed; precisions are builder flags
    10.0 - 10.11   batch is always explicit; STRONGLY_TYPED exists, the flags still work
    10.12 - 10.16  the flags FP16 and INT8 are deprecated: STRONGLY_TYPED, the file decides
    11             always strongly typed; FP16, INT8, EXPLICIT_BATCH and calibrators are removed

The file decides the precision in every version: flags, where needed, follow from its contents.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.errors import ClipDistillError, FormatError
from ..core.files import write_bytes
from ..core.progress import message
from ..formats.classifier import INPUT
from ..formats.engine import Engaged
from ..models.runtimes.tensorrt import import_tensorrt, start

EXPLICIT_BATCH_BY_DEFAULT = (10, 0)
STRONGLY_TYPED_SINCE = (10, 12)
ALWAYS_STRONGLY_TYPED = (11, 0)
MAX_KEPT = 400
"""Kept lines of the builder's log, which has hundreds of thousands."""

_ELIGIBLE = re.compile(
    r"\(Sparsity\) (?:Layers eligible for sparse math|Found (\d+) layer\(s\) eligible to use "
    r"sparse tactics):?\s*(.*)"
)
_CHOSEN = re.compile(
    r"\(Sparsity\) (?:TRT inference plan picked sparse implementation for layers|Chose (\d+) "
    r"layer\(s\) using sparse tactics):?\s*(.*)"
)
"""Lines of the builder's log: up to 8.x, and since 10 (a count, and sometimes the names)."""
_INT8_TACTIC = re.compile(r"i8i8|i8_i8|int8", re.I)
_COMPUTES = re.compile(r"conv|gemm|matmul|matrix|fullyconnected", re.I)


@dataclass(frozen=True)
class BuildOptions:
    """Settings of the builder.

    Attributes:
        batch: least, best and most images per batch.
        sparse: let TensorRT try 2:4 sparse tactics.
        workspace_mb: most scratch memory per layer in MB; all of the GPU's memory unless given.
        timing_cache: file with timings of tactics, read if it exists, and updated.
        any_gpu: build for every GPU since Ampere, somewhat slower; not for Jetson.
    """

    batch: tuple[int, int, int] = (1, 8, 32)
    sparse: bool = False
    workspace_mb: int | None = None
    timing_cache: Path | None = None
    any_gpu: bool = False


@dataclass(frozen=True)
class Built:
    """A built engine.

    Attributes:
        data: bytes of the engine.
        tensorrt: version of TensorRT that built it.
        strongly_typed: whether the file alone decided the precisions.
        engaged: INT8 and sparse layers that TensorRT chose.
    """

    data: bytes
    tensorrt: str
    strongly_typed: bool
    engaged: Engaged


def build(onnx: Path, side: int, precision: str, options: BuildOptions) -> Built:
    """Build an engine of an ONNX file that `read_onnx` has checked.

    Args:
        onnx: .onnx file.
        side: side of its input in pixels.
        precision: precision of the file: "fp32", "fp16", "int8", "int8+fp16".
        options: settings of the builder.

    Raises:
        InputError: TensorRT does not start here.
        FormatError: TensorRT cannot read the file.
        ClipDistillError: TensorRT cannot build the engine.
        MissingExtraError: TensorRT is not installed.
    """
    trt = import_tensorrt()
    version = version_of(str(trt.__version__))
    log = _make_log(trt)
    builder = start(trt, "Builder", log)
    network = builder.create_network(_network_flags(trt, version))
    parser = trt.OnnxParser(network, log)
    if not parser.parse(onnx.read_bytes()):
        reasons = [parser.get_error(index).desc() for index in range(parser.num_errors)]
        raise FormatError(
            f"{onnx}: TensorRT {trt.__version__} cannot read it ({'; '.join(reasons[:3])}). "
            "Make it again with: clipdistill export STUDENT OUT.onnx --target tensorrt"
        )
    config = _configure(trt, builder, version, side, precision, options)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise ClipDistillError(
            f"TensorRT {trt.__version__} could not build an engine of {onnx} "
            f"({log.worst() or 'no reason given'}). Try a larger --workspace or a smaller --batch."
        )
    data = bytes(plan)
    _save_timing_cache(config, options.timing_cache)
    typed = version >= STRONGLY_TYPED_SINCE
    return Built(data, str(trt.__version__), typed, _inspect(trt, log, data))


def version_of(text: str) -> tuple[int, int]:
    """Turn "10.12.0.36" into (10, 12)."""
    numbers = [int(number) for number in re.findall(r"\d+", text)[:2]]
    return (numbers[0], numbers[1]) if len(numbers) == 2 else (0, 0)


def precision_flags(precision: str) -> tuple[str, ...]:
    """List the builder flags that a weakly typed network of this precision needs."""
    return tuple(name for name in ("INT8", "FP16") if name.lower() in precision.split("+"))


def trtexec_lines(
    onnx: Path, out: Path, side: int, precision: str, options: BuildOptions
) -> dict[str, list[str]]:
    """Compose the equivalent trtexec commands: range of versions -> arguments."""
    shapes = [f"{INPUT}:{count}x3x{side}x{side}" for count in options.batch]
    common = ["trtexec", f"--onnx={onnx}", f"--saveEngine={out}"]
    common += [
        f"--{name}Shapes={shape}" for name, shape in zip(("min", "opt", "max"), shapes, strict=True)
    ]
    if options.workspace_mb is not None:
        common.append(f"--memPoolSize=workspace:{options.workspace_mb}")
    if options.timing_cache is not None:
        common.append(f"--timingCacheFile={options.timing_cache}")
    if options.any_gpu:
        common.append("--hardwareCompatibilityLevel=ampere+")
    common += ["--profilingVerbosity=detailed", "--skipInference"]
    if options.sparse:
        common += ["--sparsity=enable", "--verbose"]  # the verbose log lists the chosen layers
    flags = [f"--{name.lower()}" for name in precision_flags(precision)]
    return {
        "TensorRT 8.6 to 10.11": [*common, *flags],
        "TensorRT 10.12 to 10.16": [*common, "--stronglyTyped"],
        "TensorRT 11": common,
    }


def read_engaged(layers: Sequence[Any], lines: Sequence[str], *, detailed: bool) -> Engaged:
    """Find the INT8 and sparse layers in the inspector's output and the builder's log.

    Args:
        layers: list "Layers" of the inspector: objects, or names where it gave no details.
        lines: lines of the log.
        detailed: whether the inspector's output could be read.
    """
    known = [layer for layer in layers if isinstance(layer, dict)]
    sparse = [_name(one) for one in known if "sparse" in str(one.get("TacticName", "")).lower()]
    eligible, _ = _from_log(_ELIGIBLE, lines)
    chosen, names = _from_log(_CHOSEN, lines)
    sparse = sparse or names
    if chosen and not sparse:
        sparse = [f"not named, {index + 1} of {chosen}" for index in range(chosen)]
    int8 = tuple(_name(layer) for layer in known if _is_int8(layer))
    return Engaged(len(layers), int8, tuple(sparse), eligible, detailed and bool(known))


def _make_log(trt: Any) -> Any:
    """Make an ILogger that keeps TensorRT's errors and its lines about sparsity."""

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.lines: list[str] = []
            self.errors: list[str] = []

        def log(self, severity: Any, text: str) -> None:
            """Take a line of any severity from TensorRT."""
            severities = trt.ILogger.Severity
            if severity in (severities.ERROR, severities.INTERNAL_ERROR):
                self.errors = [*self.errors[-MAX_KEPT:], text]
            elif text.startswith("(Sparsity)"):
                self.lines = [*self.lines[-MAX_KEPT:], text]

        def worst(self) -> str:
            """The first error; later ones are mostly its consequences."""
            return self.errors[0][:300] if self.errors else ""

    return Log()


def _network_flags(trt: Any, version: tuple[int, int]) -> int:
    kinds = trt.NetworkDefinitionCreationFlag
    if version < EXPLICIT_BATCH_BY_DEFAULT:
        return 1 << int(kinds.EXPLICIT_BATCH)
    if STRONGLY_TYPED_SINCE <= version < ALWAYS_STRONGLY_TYPED:
        return 1 << int(kinds.STRONGLY_TYPED)
    return 0


def _configure(
    trt: Any,
    builder: Any,
    version: tuple[int, int],
    side: int,
    precision: str,
    options: BuildOptions,
) -> Any:
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if options.workspace_mb is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_mb << 20)
    if version < STRONGLY_TYPED_SINCE:
        for name in precision_flags(precision):
            config.set_flag(getattr(trt.BuilderFlag, name))
    if options.sparse:
        config.set_flag(trt.BuilderFlag.SPARSE_WEIGHTS)
    if options.any_gpu:
        config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
    if options.timing_cache is not None:
        _load_timing_cache(config, options.timing_cache)
    profile = builder.create_optimization_profile()
    profile.set_shape(INPUT, *((count, 3, side, side) for count in options.batch))
    config.add_optimization_profile(profile)
    return config


def _load_timing_cache(config: Any, path: Path) -> None:
    held = path.read_bytes() if path.is_file() else b""
    cache = config.create_timing_cache(held)
    if cache is None or not config.set_timing_cache(cache, False):
        message(f"{path}: this timing cache is from another machine or version; it is replaced.")
        config.set_timing_cache(config.create_timing_cache(b""), False)


def _save_timing_cache(config: Any, path: Path | None) -> None:
    cache = config.get_timing_cache() if path is not None else None
    if path is not None and cache is not None:
        write_bytes(path, bytes(cache.serialize()))


def _inspect(trt: Any, log: Any, data: bytes) -> Engaged:
    """Load the engine again and inspect its layers."""
    engine = start(trt, "Runtime", log).deserialize_cuda_engine(data)
    if engine is None:
        raise ClipDistillError(
            f"TensorRT cannot load the engine that it has just built ({log.worst()}). "
            "The engine was not kept."
        )
    text = engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)
    try:
        layers = list(json.loads(text)["Layers"])
    except (ValueError, KeyError, TypeError):
        # Some versions write names that make their JSON invalid.
        return read_engaged([None] * int(engine.num_layers), log.lines, detailed=False)
    return read_engaged(layers, log.lines, detailed=True)


def _from_log(pattern: re.Pattern[str], lines: Sequence[str]) -> tuple[int | None, list[str]]:
    """Parse the last matching line: number of layers, and their names where given."""
    found = [match for match in map(pattern.match, lines) if match]
    if not found:
        return None, []
    count, listed = found[-1].groups()
    names = [name.strip() for name in (listed or "").split(", ") if name.strip()]
    return len(names) if count is None else int(count), names


def _name(layer: dict[str, Any]) -> str:
    return str(layer.get("Name", "?"))


def _is_int8(layer: dict[str, Any]) -> bool:
    """Whether a layer multiplies in INT8, by its weights, else its tactic, else its inputs."""
    kind = f"{layer.get('ParameterType', '')} {layer.get('LayerType', '')}"
    if not _COMPUTES.search(kind):
        return False
    weights = layer.get("Weights")
    if isinstance(weights, dict) and "Type" in weights:
        return str(weights["Type"]).lower() == "int8"
    if _INT8_TACTIC.search(str(layer.get("TacticName", ""))):
        return True
    inputs = [one for one in layer.get("Inputs", ()) if isinstance(one, dict)]
    # "Format/Datatype" up to TensorRT 10, "DataType" since 11.
    types = [str(one.get("Format/Datatype", one.get("DataType", ""))) for one in inputs[:2]]
    return bool(types) and all("int8" in one.lower() for one in types)
