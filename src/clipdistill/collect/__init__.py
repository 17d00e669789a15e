"""From prompts to images: search, download, pools of embeddings, selection."""
