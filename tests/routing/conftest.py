"""Queries made up, and where the tiny models of other rooms and the command line's workshop live."""

import sys
from pathlib import Path

import pytest

for room in ("models", "runs", "cli", "writing"):
    sys.path.insert(0, str(Path(__file__).parents[1] / room))

from commands import Workshop, set_up  # noqa: E402


@pytest.fixture
def workshop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workshop:
    monkeypatch.chdir(tmp_path)
    return set_up(tmp_path)


@pytest.fixture(scope="session")
def pocket():
    from potstill.models import load_model, load_tokenizer

    return load_model("pocket").float(), load_tokenizer("pocket")
