"""The tiny models live beside the tests of `models`, the tiny job beside those of `runs`."""

import sys
from pathlib import Path

for room in ("models", "runs"):
    sys.path.insert(0, str(Path(__file__).parents[1] / room))
