"""The page of `demo --web`."""
