"""Careful HTTP: fetching untrusted URLs from servers that may be hostile."""
