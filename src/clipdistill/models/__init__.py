"""Teachers, students and exported files as Embedders, and the runtimes that run them."""
