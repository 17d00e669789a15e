"""Shared ground: errors, atomic files, progress, results, arithmetic, wording, charts."""
