"""Download the Python bindings of several versions of TensorRT (1 MB each), for `make interop`.

They are what the tests compare our code and its stand-in with (tests/real_tensorrt.py).  Versions
without a wheel for this Python are left out.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parents[1] / ".tensorrt-bindings"
VERSIONS = (
    "tensorrt-bindings==8.6.1",  # JetPack 6.0
    "tensorrt-cu12-bindings==10.0.1",
    "tensorrt-cu12-bindings==10.3.0",  # JetPack 6.1, 6.2
    "tensorrt-cu12-bindings==10.12.0.36",
    "tensorrt-cu13-bindings==10.16.1.11",  # JetPack 7.2 has 10.16.2, which has no wheel
    "tensorrt-cu13-bindings==11.0.0.114",
    "tensorrt-cu13-bindings==11.4.0.106",
)


def main() -> int:
    """Download what is not there yet; returns 1 when nothing is."""
    pip = [sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check"]
    for wanted in VERSIONS:
        name, _, version = wanted.replace("-", "_").partition("==")
        if list(FOLDER.glob(f"{name}-{version}-*.whl")):
            continue
        line = [*pip, "--no-deps", "--only-binary", ":all:", "--dest", str(FOLDER), wanted]
        done = subprocess.run(line, capture_output=True, text=True, check=False)
        if done.returncode:
            reasons = [one for one in done.stderr.splitlines() if one.startswith("ERROR")]
            print(f"left out: {wanted} ({reasons[-1] if reasons else 'pip failed'})")
    there = sorted(FOLDER.glob("*.whl"))
    print(f"{len(there)} of {len(VERSIONS)} versions are in {FOLDER}")
    return 0 if there else 1


if __name__ == "__main__":
    sys.exit(main())
