"""What befalls a run: commands in processes of their own that are killed or find the disk full, bytes that change on it."""

from __future__ import annotations

import json
import os
import random
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

    @property
    def is_named(self) -> bool:
        """It ended as a mistake does: one message, no traceback."""
        return self.code == 2 and "Traceback" not in self.said and self.said.count("potstill: ") == 1


@dataclass(frozen=True)
class Begin:
    """Begins commands in a folder."""

    requests: IO[str]
    replies: IO[str]

    def command(
        self,
        *words: str,
        folder: Path,
        kill_after: float | None = None,
        kill_at: str | None = None,
        most_bytes: int | None = None,
        finds: str | None = None,
    ) -> Ended:
        """`potstill WORDS`.

        kill_after  seconds until SIGKILL; with kill_at, from then on
        kill_at     a file below the folder, as a pattern: SIGKILL as soon as one is there
        most_bytes  that a file may have: what is written beyond fails, as on a full disk
        finds       the number format that is found the faster, whatever the clock says
        """
        asked = {
            "words": words,
            "folder": str(folder),
            "kill_after": kill_after,
            "kill_at": None if kill_at is None else str(folder / kill_at),
            "most_bytes": most_bytes,
            "finds": finds,
        }
        print(json.dumps(asked), file=self.requests, flush=True)
        return Ended(*json.loads(self.replies.readline()))


def zygote() -> subprocess.Popen[str]:
    """Ready to begin commands."""
    quiet = os.environ | {
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "COLUMNS": "400",
    }
    process = subprocess.Popen(
        [sys.executable, str(ZYGOTE)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=quiet
    )
    assert process.stdout is not None
    assert json.loads(process.stdout.readline()) == "ready"
    return process


def damage(file: Path, draw: random.Random) -> str:
    """Change a file as disks and copies do: a bit, a run of bytes that are zero, an end that is missing; what was done."""
    before = file.read_bytes()
    kind = draw.choice(["bit", "bit", "zeros", "end"])
    place = draw.randrange(len(before))
    match kind:
        case "bit":
            bit = 1 << draw.randrange(8)
            after = before[:place] + bytes([before[place] ^ bit]) + before[place + 1 :]
            what = f"bit {bit} of byte {place}"
        case "zeros":
            size = min(draw.randint(1, 64), len(before) - place)
            after = before[:place] + bytes(size) + before[place + size :]
            what = f"{size} zeros from byte {place}"
        case _:
            after, what = before[:place], f"all from byte {place}"
    file.write_bytes(after)
    return f"{file.name} ({len(before)} bytes): {what}"
