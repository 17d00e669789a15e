"""Times models, each in its own process and in turns, and draws conclusions."""
