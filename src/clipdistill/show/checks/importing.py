"""A process that imports packages, one after the other, and writes what it finds as JSON lines.

A package that does not fit the machine may end the process that imports it (an instruction that the
processor does not have, too little memory), so this is never done in the process of the verb.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Callable
from typing import Any

from ...core.errors import ClipDistillError, first_line
from ...formats.engine import Gpu


def main() -> None:
    """Import the modules that the command line names, and write a line about each."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print
    for module in sys.argv[1:]:
        print(json.dumps(_imported(module)), file=out, flush=True)


def _imported(module: str) -> dict[str, Any]:
    """Import a module: {"version", "devices"}, or {"error"}."""
    try:
        found = importlib.import_module(module)
        devices = DEVICES[module](found) if module in DEVICES else []
    except ClipDistillError as error:
        return {"error": str(error)}
    except Exception as error:  # whatever a package raises that does not work here
        return {"error": f"{type(error).__name__}: {first_line(error)}"}
    return {"version": str(getattr(found, "__version__", "")), "devices": devices}


def _torch(torch: Any) -> list[str]:
    """List the GPUs that torch can use, after a computation on each."""
    names = []
    for index in range(torch.cuda.device_count()):
        torch.ones(8, device=f"cuda:{index}").sum().item()
        found = torch.cuda.get_device_properties(index)
        names.append(_named(Gpu(found.name, f"{found.major}.{found.minor}")))
    return [*names, *(["Apple's GPU"] if torch.backends.mps.is_available() else [])]


def _onnxruntime(onnxruntime: Any) -> list[str]:
    """List those of ONNX Runtime's providers that `--device` can name."""
    wanted = {f"{name}ExecutionProvider": name for name in ("CPU", "CUDA", "Tensorrt")}
    return [wanted[name] for name in onnxruntime.get_available_providers() if name in wanted]


def _openvino(openvino: Any) -> list[str]:
    return list(openvino.Core().available_devices)


def _tensorrt(tensorrt: Any) -> list[str]:
    """Name the first GPU, after TensorRT has started on it."""
    from ...models.runtimes.cuda_memory import open_memory
    from ...models.runtimes.tensorrt import start

    gpu = open_memory("auto").gpu
    start(tensorrt, "Builder", tensorrt.Logger(tensorrt.Logger.ERROR))
    return [_named(gpu)]


def _named(gpu: Gpu) -> str:
    return f"{gpu.name}, compute capability {gpu.capability}"


DEVICES: dict[str, Callable[[Any], list[str]]] = {
    "torch": _torch,
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
    "tensorrt": _tensorrt,
}
"""Module -> the function that lists its devices."""

if __name__ == "__main__":
    main()
