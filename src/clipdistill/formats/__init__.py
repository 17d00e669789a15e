"""Every on-disk format, one module each.  No other module contains a file name.

`docs/formats.md` describes the layouts.
"""
