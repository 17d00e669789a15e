"""Images: finding and decoding them, converting them to a model's input (Pillow, numpy only)."""
