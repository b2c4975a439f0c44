"""A process that has imported everything and begins others that do, as `harm` asks: what is forked from tests could be in any state.

Requests and replies are lines of JSON; a line once it is ready.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import time
import traceback


def begin(words: list[str], folder: str, said: str, most_bytes: int | None) -> None:
    """Be the command. Never comes back."""
    from potstill.cli import main

    code = 70
    try:
        os.chdir(folder)
        for stream in (1, 2):
            os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT | (os.O_TRUNC if stream == 1 else os.O_APPEND)), stream)
        if most_bytes is not None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, resource.RLIM_INFINITY))
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
        os._exit(code)


def ended(child: int, kill_after: float | None) -> int | None:
    """The exit code; None where it had to be killed, which is what `kill_after` seconds are for. Minus a signal for any other end."""
    until = None if kill_after is None else time.monotonic() + kill_after
    while True:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if until is not None and time.monotonic() > until:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return None
        time.sleep(0.005)


def main() -> None:
    """Until the input ends."""
    import torch

    import potstill.cli.app
    import potstill.recipe.job  # noqa: F401

    torch.set_num_threads(1)
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        kill_after = asked.pop("kill_after")
        child = os.fork()
        if child == 0:
            begin(**asked)
        print(json.dumps(ended(child, kill_after)), flush=True)


if __name__ == "__main__":
    main()
