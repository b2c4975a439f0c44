"""The workshop of the command line's tests, and a process that begins commands."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

for room in ("models", "runs", "cli"):
    sys.path.insert(0, str(Path(__file__).parents[1] / room))

from commands import Workshop, set_up  # noqa: E402
from harm import Begin, zygote  # noqa: E402


@pytest.fixture
def workshop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workshop:
    monkeypatch.chdir(tmp_path)
    return set_up(tmp_path)


@pytest.fixture(scope="module")
def begin() -> Iterator[Begin]:
    process = zygote()
    assert process.stdin is not None
    assert process.stdout is not None
    yield Begin(process.stdin, process.stdout)
    process.stdin.close()
    process.stdout.close()
    process.wait(timeout=60)
