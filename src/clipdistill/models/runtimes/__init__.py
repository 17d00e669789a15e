"""Runtimes of files with a card: each is an Embedder and imports neither another nor torch."""
