"""A process that begins commands, and jobs for it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

for room in ("models", "runs", "cli"):
    sys.path.insert(0, str(Path(__file__).parents[1] / room))

from harm import Begin, zygote  # noqa: E402
from verbs import Jobs  # noqa: E402


@pytest.fixture(scope="session")
def begin() -> Iterator[Begin]:
    process = zygote()
    assert process.stdin is not None
    assert process.stdout is not None
    yield Begin(process.stdin, process.stdout)
    process.stdin.close()
    process.stdout.close()
    process.wait(timeout=60)


@pytest.fixture(scope="session")
def jobs(begin: Begin, tmp_path_factory: pytest.TempPathFactory) -> Jobs:
    found = Jobs(tmp_path_factory.mktemp("jobs"), begin)
    found.prepare()
    return found
