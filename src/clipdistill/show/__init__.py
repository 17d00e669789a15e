"""Showing answers: predictions, the live demo and its page, the report of a run."""
