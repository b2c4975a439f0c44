"""`potstill serve` and fake engines as processes of their own, which can be killed."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

ENGINE = Path(__file__).with_name("fake_engine.py")


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@contextmanager
def served(
    *words: str | Path, port: int, log: int | IO[str] = subprocess.PIPE, most_kib: int | None = None, **environment: str
) -> Iterator[subprocess.Popen[str]]:
    """Listening, or ended already. `most_kib`: that a file may have, the log too: what is written beyond fails, as on a full disk."""
    command = [sys.executable, "-m", "potstill", "serve", *map(str, words), "--port", str(port)]
    if most_kib is not None:
        command = ["bash", "-c", f'ulimit -f {most_kib}; exec "$@"', "-", *command]
    with subprocess.Popen(command, stderr=log, text=True, env=os.environ | environment) as started:
        try:
            deadline = time.monotonic() + 120
            while started.poll() is None and time.monotonic() < deadline:
                with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                    break
                time.sleep(0.1)
            yield started
        finally:
            started.kill()


@contextmanager
def engine_process(name: str, seconds_a_token: float) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """(its address, the process)."""
    command = [sys.executable, str(ENGINE), name, str(seconds_a_token)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as started:
        try:
            assert started.stdout is not None
            yield started.stdout.readline().strip(), started
        finally:
            started.kill()
