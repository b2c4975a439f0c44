"""Where a person reads: a terminal as wide as it is, a file or a pipe in lines wide enough for the tables."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from rich.console import Console

_WIDTH_OF_A_FILE = 120


def new_console() -> Console:
    """Standard output. COLUMNS goes before what is found out."""
    found = Console()
    return found if found.is_terminal or "COLUMNS" in os.environ else Console(width=_WIDTH_OF_A_FILE)


def next_step(run: Path) -> str:
    """What to type once a student that writes lies in the run."""
    place = shlex.quote(str(run))
    return f"next     potstill export {place} --to gguf   (then: potstill serve {place})"
