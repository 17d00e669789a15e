"""NVIDIA's real Python bindings of TensorRT, without TensorRT and without a GPU.

The bindings' wheels hold one extension module, which needs a dozen functions of TensorRT's
libraries to be loaded.  A library that is compiled here has functions of these names that return
null, as TensorRT's own do where CUDA cannot start.  Then the module can be imported and inspected:
classes, members, signatures, values of enums.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
WHEELS = ROOT / ".tensorrt-bindings"
"""Where `make interop` downloads the wheels to (tools/tensorrt_bindings.py)."""

INSPECT = """
import json
import tensorrt_bindings as trt

def started(name):
    try:
        getattr(trt, name)(trt.Logger(trt.Logger.ERROR))
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "started"

def values(kind):
    return {name: int(value) for name, value in kind.__members__.items()}

def described(kind):
    found = {}
    for name in dir(kind):
        value = getattr(kind, name)
        if name.startswith("_") and name != "__init__":
            continue
        if isinstance(value, type) and hasattr(value, "__members__"):
            found[name] = {"enum": values(value)}
        elif isinstance(value, property):
            found[name] = {"property": value.fset is not None}
        elif callable(value):
            found[name] = {"method": value.__doc__ or ""}
        else:
            found[name] = {"constant": getattr(value, "name", "")}
    return found

names = [name for name in dir(trt) if not name.startswith("_")]
surface = {"__version__": trt.__version__}
for name in names:
    value = getattr(trt, name)
    if isinstance(value, type) and hasattr(value, "__members__"):
        surface[name] = {"enum": values(value)}
    elif isinstance(value, type):
        surface[name] = {"class": described(value)}
    else:
        surface[name] = {"constant": getattr(value, "name", "")}
surface["starts"] = {name: started(name) for name in ("Builder", "Runtime")}
print(json.dumps(surface))
"""


def surface(wheel: Path, folder: Path) -> dict[str, Any]:
    """Import the bindings in a wheel and list what is in them.

    Args:
        wheel: of a version for this Python.
        folder: an empty folder for the files of this version.
    """
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    library = next(folder.glob("tensorrt_bindings/tensorrt*.so"))
    libraries = folder / "libraries"
    libraries.mkdir()
    _compile_stub(library, libraries)
    done = subprocess.run(
        [sys.executable, "-c", INSPECT],
        env={**os.environ, "PYTHONPATH": str(folder), "LD_LIBRARY_PATH": str(libraries)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def compiler() -> str | None:
    """The C compiler, if this machine has it and the tools that read libraries."""
    return shutil.which("cc") if shutil.which("nm") and shutil.which("readelf") else None


def _compile_stub(library: Path, folder: Path) -> None:
    """Compile the functions that a library lacks, under the names of the libraries it lacks."""
    symbols = re.findall(r" U ([\w.]+)$", _output("nm", "-D", "--undefined-only", library), re.M)
    here = [ctypes.CDLL(name) for name in (None, "libstdc++.so.6")]
    lacking = [
        name
        for name in symbols
        if not name.startswith(("Py", "_Py")) and not any(hasattr(one, name) for one in here)
    ]
    code = "".join(f"void *{name}(void) {{ return 0; }}\n" for name in lacking)
    (folder / "stub.c").write_text(code)
    _output("cc", "-shared", "-fPIC", "-o", folder / "stub.so", folder / "stub.c")
    for name in re.findall(r"NEEDED.*\[(libnv.*)\]", _output("readelf", "-d", library)):
        (folder / name).symlink_to("stub.so")


def _output(*command: str | Path) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
