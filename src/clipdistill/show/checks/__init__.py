"""The checks of `doctor`: packages, imported in a process of their own, and the machine."""
