"""Images: finding them, decoding them, bringing them to a model's input (Pillow and numpy only)."""
