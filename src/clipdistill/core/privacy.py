"""Switch off the telemetry of dependencies, before they are imported."""

from __future__ import annotations

import os
import sys

SWITCHES = {
    "ORT_DISABLE_TELEMETRY": "1",  # ONNX Runtime 1.29 and later keep a device id and queue events
    "ORT_TELEMETRY_DISABLED": "1",  # its other name
    "HF_HUB_DISABLE_TELEMETRY": "1",  # huggingface_hub, transformers
    "DO_NOT_TRACK": "1",  # the convention of consoledonottrack.com, which several follow
}
"""Environment variables that switch telemetry off; values that the user has set are kept."""


def switch_telemetry_off() -> None:
    """Set every switch that is not set, for this process and those it starts.

    OpenVINO has no switch: its package `openvino_telemetry` keeps a client id in ~/intel and calls
    Google Analytics when `openvino` is imported (2026.4.1).  Without that package OpenVINO uses a
    stub, so this hides the package from imports.
    """
    for name, value in SWITCHES.items():
        os.environ.setdefault(name, value)
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
