"""Probabilities that can be believed, and an honest "unknown".

fitting   temperature, calibration error and threshold: arithmetic
storing   for a student that is measured: fitting, and where the result is kept
"""

from __future__ import annotations

from .storing import calibrated, describe_calibration, store, where_to_store

__all__ = ["calibrated", "describe_calibration", "store", "where_to_store"]
