"""`python -m clipdistill`, as torchrun and accelerate launch it."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
