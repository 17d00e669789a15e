"""From images and prompts to a student: embeddings, training, compression."""
