"""Probabilities that can be believed, and an honest "unknown".

fitting   temperature, calibration error and threshold: arithmetic
storing   for a student that is measured: fitting, and where the result is kept
"""

from __future__ import annotations

from .fitting import LEAST_IMAGES
from .storing import calibrated, describe_calibration, store, where_to_store

__all__ = ["LEAST_IMAGES", "calibrated", "describe_calibration", "store", "where_to_store"]
