"""Commands in processes of their own, and what may happen to them: killed, on a full disk, with bytes changed between two runs."""

from __future__ import annotations

import os
import random
import resource
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from potstill.cli import main


@dataclass(frozen=True)
class Ended:
    """`code`: None where the process was killed; `said`: stdout and stderr."""

    code: int | None
    said: str

    def check_is_told(self) -> None:
        """Refused in a message, not a traceback."""
        assert self.code == 2, (self.code, self.said)
        assert "Traceback" not in self.said, self.said
        assert "potstill: " in self.said, self.said


def command(*words: str, said: Path, kill_after: float | None = None, most_bytes: int | None = None) -> Ended:
    """`potstill WORDS` in a forked process, which has imported all there is already.

    kill_after  seconds until SIGKILL
    most_bytes  that a file may have: what is written beyond fails, as on a disk that is full
    """
    child = os.fork()
    if child == 0:
        _be(words, said, most_bytes)
    until = None if kill_after is None else time.monotonic() + kill_after
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            break
        if until is not None and time.monotonic() > until:
            os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
            break
        time.sleep(0.005)
    code = None if os.WIFSIGNALED(status) else os.waitstatus_to_exitcode(status)
    return Ended(code, said.read_text("utf-8", "replace"))


def _be(words: Sequence[str], said: Path, most_bytes: int | None) -> None:
    """Never comes back."""
    code = 70
    try:
        file = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, 1)
        os.dup2(file, 2)
        if most_bytes is not None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, resource.RLIM_INFINITY))
        sys.argv = ["potstill", *words]
        main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # noqa: BLE001 - a child must not go on with the parent's tests
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)


def harm_(folder: Path, draw: random.Random, *, spared: Sequence[str] = ()) -> str:
    """One file below the folder gets a wound of a few bytes, or loses its end; which, and what."""
    files = sorted(
        path for path in folder.rglob("*") if path.is_file() and path.stat().st_size and path.name not in spared
    )
    file = draw.choice(files)
    data = bytearray(file.read_bytes())
    if draw.random() < 0.3:
        del data[draw.randrange(len(data)) :]
        what = f"cut to {len(data)} bytes"
    else:
        at = draw.randrange(len(data))
        for place in range(at, min(len(data), at + draw.choice((1, 1, 8)))):
            data[place] ^= 1 << draw.randrange(8)
        what = f"bytes changed at {at}"
    file.write_bytes(bytes(data))
    return f"{file.relative_to(folder)}: {what}"
