"""Every on-disk format, one file each.  No other module spells a file name.

The layouts are described for people in `docs/formats.md`.
"""
