"""A process that has imported everything and begins others that do, as `harm` asks: what is forked from tests could be in any state.

Requests and replies are lines of JSON; a line once it is ready. What a command still had to import, the next ones find imported: of eight
seconds that a small run takes, imports are more than seven.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
from contextlib import suppress
from glob import glob
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages
from typing import IO


def begin(
    words: list[str], folder: str, most_bytes: int | None, finds: str | None, said: int, imported: IO[str]
) -> None:
    """Be the command. Never comes back."""
    import torch

    from potstill.cli import main
    from potstill.models import precision

    code, before = 70, set(sys.modules)
    try:
        os.chdir(folder)
        for stream in (1, 2):
            os.dup2(said, stream)
        if most_bytes is not None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, resource.RLIM_INFINITY))
        if finds is not None:
            precision._measured = lambda device: getattr(torch, finds)
        sys.argv = ["potstill", *words]
        main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # noqa: BLE001 - a child must not go on with the parent's work
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        if most_bytes is None:
            json.dump([name for name in sys.modules if name not in before], imported)
            imported.flush()
        os._exit(code)


def ended(child: int, kill_after: float | None, kill_at: str | None, said: int) -> tuple[int | None, str]:
    """(the exit code; None where it was killed, `kill_after` seconds after it began, or after a file is there that `kill_at` names;
    minus a signal for any other end, what it said)."""
    until, heard = None if kill_after is None or kill_at is not None else time.monotonic() + kill_after, []
    while True:
        found, status = os.waitpid(child, os.WNOHANG)
        # A pipe that nobody empties would hold up who writes.
        with suppress(BlockingIOError):
            while some := os.read(said, 65_536):
                heard.append(some)
        if found:
            return os.waitstatus_to_exitcode(status), b"".join(heard).decode("utf-8", "replace")
        if until is None and kill_at is not None and glob(kill_at, recursive=True):
            until = time.monotonic() + (kill_after or 0.0)
        if until is not None and time.monotonic() > until:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return None, b"".join(heard).decode("utf-8", "replace")
        time.sleep(0.002 if kill_at is None else 0.0005)


def learn(imported: IO[str]) -> None:
    """Import what a command imported."""
    imported.seek(0)
    text = imported.read()
    for name in json.loads(text) if text else []:
        with suppress(Exception), warnings.catch_warnings(action="ignore"):
            import_module(name)


def main() -> None:
    """Until the input ends."""
    import torch

    import potstill

    for module in walk_packages([str(Path(potstill.__file__).parent)], "potstill."):
        if not module.name.endswith("__main__"):
            import_module(module.name)
    torch.set_num_threads(1)
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        kill_after, kill_at, (reads, writes) = asked.pop("kill_after"), asked.pop("kill_at"), os.pipe()
        os.set_blocking(reads, False)
        with tempfile.TemporaryFile("w+") as imported:
            child = os.fork()
            if child == 0:
                begin(**asked, said=writes, imported=imported)
            os.close(writes)
            code, said = ended(child, kill_after, kill_at, reads)
            os.close(reads)
            learn(imported)
        print(json.dumps([code, said]), flush=True)


if __name__ == "__main__":
    main()
