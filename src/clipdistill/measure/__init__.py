"""Measures models: accuracy, agreement, calibration, speed and memory."""
