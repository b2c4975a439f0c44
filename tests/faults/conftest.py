"""The workshop of the command line's tests."""

import sys
from pathlib import Path

import pytest

for room in ("models", "runs", "cli"):
    sys.path.insert(0, str(Path(__file__).parents[1] / room))

from commands import Workshop, set_up  # noqa: E402


@pytest.fixture
def workshop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workshop:
    monkeypatch.chdir(tmp_path)
    return set_up(tmp_path)
