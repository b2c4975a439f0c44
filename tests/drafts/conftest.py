"""Where the tiny models of other rooms live."""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1] / room) for room in ("models", "runs")]
