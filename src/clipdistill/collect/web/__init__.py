"""Careful HTTP: strangers' URLs fetched from servers that may be hostile."""
