"""Every model as an Embedder: teachers, students, exported files, and what runs them."""
