"""A command in a terminal, as it comes: captured (asciicast 2), and shortened by making all its time run evenly faster.

    python tools/recording.py capture demo.cast -- potstill demo
    python tools/recording.py shorten demo.cast short.cast --seconds 60

Shortened, outputs that would be less than a frame apart become one; the last stays for some seconds.
"""

from __future__ import annotations

import argparse
import codecs
import fcntl
import json
import os
import pty
import re
import struct
import sys
import termios
import time
from pathlib import Path

COLUMNS, ROWS = 100, 27
FRAME, AT_THE_END = 0.6, 12.0
UP = "\x1b[1A"
ERASING = re.compile(r"\r\x1b\[2K(\x1b\[1A\x1b\[2K)*")


def capture(cast: Path, command: list[str]) -> int:
    """Run it in a terminal of its own and write what it writes there, with the seconds; its exit status."""
    child, terminal = pty.fork()
    if child == 0:
        fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
        os.environ |= {"TERM": "xterm-256color"}
        os.execvp(command[0], command)
    started, decode = time.monotonic(), codecs.getincrementaldecoder("utf-8")(errors="replace").decode
    with cast.open("w", encoding="utf-8") as out:
        print(json.dumps({"version": 2, "width": COLUMNS, "height": ROWS}), file=out)
        print(json.dumps([0.0, "o", f"$ {' '.join(command)}\r\n"]), file=out)
        while read := _read(terminal):
            print(json.dumps([round(time.monotonic() - started, 3), "o", decode(read)]), file=out)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # how Linux says that the other side has ended
        return b""


def shortened(outputs: list[tuple[float, str]], seconds: float) -> list[tuple[float, str]]:
    """The same within so many seconds."""
    scale = min(1.0, (seconds - AT_THE_END) / max(outputs[-1][0], 1e-9))
    frames: dict[float, list[str]] = {}
    for when, text in outputs:
        _add_(frames.setdefault(round(FRAME * int(scale * when / FRAME), 3), []), text)
    found = [(when, "".join(texts)) for when, texts in frames.items()]
    return [*found, (found[-1][0] + AT_THE_END, "")]


def _add_(frame: list[str], text: str) -> None:
    """Add an output; one that erases exactly what the last of the frame drew takes its place, which draws the same, sooner."""
    erasing = ERASING.match(text)
    drawn = ERASING.match(frame[-1]) if frame else None
    if erasing and drawn and erasing[0].count(UP) == frame[-1].count("\n"):
        frame[-1] = drawn[0] + text[erasing.end() :]
    else:
        frame.append(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_subparsers(dest="what", required=True)
    capturing, shortening = what.add_parser("capture"), what.add_parser("shorten")
    capturing.add_argument("cast", type=Path)
    capturing.add_argument("command", nargs="+")
    shortening.add_argument("cast", type=Path)
    shortening.add_argument("out", type=Path)
    shortening.add_argument("--seconds", type=float, default=60.0)
    wanted = parser.parse_args()
    if wanted.what == "capture":
        sys.exit(capture(wanted.cast, wanted.command))
    head, *lines = wanted.cast.read_text("utf-8").splitlines()
    outputs = [(when, text) for when, _, text in map(json.loads, lines)]
    rows = [json.dumps([when, "o", text]) for when, text in shortened(outputs, wanted.seconds)]
    wanted.out.write_text("\n".join([head, *rows]) + "\n", "utf-8")


if __name__ == "__main__":
    main()
