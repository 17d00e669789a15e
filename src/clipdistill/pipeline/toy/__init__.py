"""The toy world that `quickstart` draws, and the tiny OpenCLIP teacher that knows it."""
