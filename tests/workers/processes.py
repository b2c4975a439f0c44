"""For the tests here: processes that this one began, and commands in processes of their own."""

from __future__ import annotations

import subprocess
import sys

import psutil
from commands import Workshop


def processes(name: str) -> list[psutil.Process]:
    """Those that this one began and that are called so."""
    return [one for one in psutil.Process().children(recursive=True) if name in _called(one)]


def command(workshop: Workshop, *words: str) -> subprocess.Popen[str]:
    """`potstill WORDS`, its output to be read."""
    return subprocess.Popen(
        [sys.executable, "-m", "potstill", *words],
        cwd=workshop.path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def _called(one: psutil.Process) -> str:
    """Nothing for one that has ended meanwhile."""
    try:
        return "".join(one.cmdline()[:1])
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return ""
