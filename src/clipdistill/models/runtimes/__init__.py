"""The runtimes of files that carry a card: each an Embedder, none imports another or torch."""
