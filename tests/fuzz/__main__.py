"""`python -m tests.fuzz [SERIES [FIRST_SEED]]`, which `make fuzz` runs."""

from __future__ import annotations

import sys

from tests.fuzz.run import main

if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
