"""Calibration of a student: probabilities that match accuracy, and the threshold of "unknown".

fitting   computing temperature, calibration error and threshold
storing   calibrating a student in `evaluate`, and storing the result
"""

from __future__ import annotations

from .fitting import LEAST_IMAGES
from .storing import calibrated, describe_calibration, store, where_to_store

__all__ = ["LEAST_IMAGES", "calibrated", "describe_calibration", "store", "where_to_store"]
