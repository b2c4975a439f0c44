"""Commands in processes of their own, killed when it is asked for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import IO

ZYGOTE = Path(__file__).with_name("zygote.py")


@dataclass(frozen=True)
class Ended:
    """`code`: None where it was killed because that was asked for; `said`: stdout and stderr."""

    code: int | None
    said: str


@dataclass(frozen=True)
class Begin:
    """Begins commands in a folder."""

    requests: IO[str]
    replies: IO[str]

    def command(
        self, *words: str, folder: Path, kill_after: float | None = None, most_bytes: int | None = None
    ) -> Ended:
        """`potstill WORDS`.

        kill_after  seconds until SIGKILL
        most_bytes  that a file may have: what is written beyond fails, as on a full disk
        """
        said = folder / "said.txt"
        asked = {
            "words": words,
            "folder": str(folder),
            "said": str(said),
            "kill_after": kill_after,
            "most_bytes": most_bytes,
        }
        print(json.dumps(asked), file=self.requests, flush=True)
        return Ended(json.loads(self.replies.readline()), said.read_text("utf-8", "replace") if said.exists() else "")


def zygote() -> subprocess.Popen[str]:
    """Ready to begin commands."""
    quiet = os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    process = subprocess.Popen(
        [sys.executable, str(ZYGOTE)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=quiet
    )
    assert process.stdout is not None
    assert json.loads(process.stdout.readline()) == "ready"
    return process
