"""The tiny models live beside the tests of `models`, the tiny job beside those of `runs`, stores beside those of `soft_labels`."""

import sys
from pathlib import Path

import pytest

for room in ("models", "runs", "cli"):
    sys.path.insert(0, str(Path(__file__).parents[1] / room))
sys.path.insert(0, str(Path(__file__).parent))

from commands import Workshop, set_up  # noqa: E402


@pytest.fixture
def workshop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workshop:
    monkeypatch.chdir(tmp_path)
    return set_up(tmp_path)
