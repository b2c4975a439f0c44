"""The command line: one file a verb. Nothing heavy is imported until a verb runs, so `potstill --help` answers at once.

A user's mistake ends with one message and exit code 2, an interruption with 130 and what was kept; a traceback is a defect.
"""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line and end the process with its exit code."""
    from potstill.cli.app import run

    sys.exit(run(sys.argv[1:]))
