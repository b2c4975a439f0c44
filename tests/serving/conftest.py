"""Fake engines and doors lie beside these tests, the command line's workshop beside those of `cli`."""

import sys
from pathlib import Path

for room in ("serving", "cli", "models", "runs"):
    sys.path.insert(0, str(Path(__file__).parents[1] / room))
