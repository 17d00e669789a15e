"""The toy world that `quickstart` draws, and a tiny OpenCLIP teacher that was trained on it."""
