"""A race of models: each alone in a process of its own, timed in turns, and told plainly."""
