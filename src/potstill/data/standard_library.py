"""The one corpus every machine with Python has: the standard library's own source.

The key of a document is its path below the library's root, so a file keeps its split from one Python version to the next.
"""

from __future__ import annotations

import sysconfig
from collections.abc import Iterator
from pathlib import Path

# Not source a person would read: character tables, generated topics, and other people's packages.
_LEFT_OUT = ("site-packages", "dist-packages", "encodings", "pydoc_data", "lib2to3/tests", "__pycache__", "config-")
_TESTS = (
    "test",
    "idlelib/idle_test",
    "unittest/test",
    "distutils/tests",
    "ctypes/test",
    "tkinter/test",
    "sqlite3/test",
)
_MAX_BYTES = 300_000


def standard_library_files(*, with_tests: bool = False) -> Iterator[tuple[str, str]]:
    """(key, text) of every source file of the running interpreter's standard library, in the order of their keys."""
    root = Path(sysconfig.get_paths()["stdlib"])
    left_out = _LEFT_OUT if with_tests else _LEFT_OUT + _TESTS
    for path in sorted(root.rglob("*.py"), key=lambda path: path.relative_to(root).as_posix()):
        key = path.relative_to(root).as_posix()
        if any(key == name or key.startswith(name if name.endswith("-") else name + "/") for name in left_out):
            continue
        if path.stat().st_size > _MAX_BYTES:
            continue
        try:
            text = path.read_text("utf-8")
        except UnicodeDecodeError:  # the library's tests carry files in other encodings on purpose
            continue
        if text.strip():
            yield key, text
