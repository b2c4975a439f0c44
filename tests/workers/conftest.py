"""The tiny models live beside the tests of `models`, the tiny job beside those of `runs`, stores beside those of `soft_labels`."""

import gc
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

for room in ("models", "runs", "cli"):
    sys.path.insert(0, str(Path(__file__).parents[1] / room))
sys.path.insert(0, str(Path(__file__).parent))

from commands import Workshop, set_up  # noqa: E402

from potstill.workers import Crew, joined  # noqa: E402


@pytest.fixture
def workshop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workshop:
    monkeypatch.chdir(tmp_path)
    return set_up(tmp_path)


@pytest.fixture(scope="package")
def cluster() -> Iterator[Crew]:
    """A Ray on this machine, with room for two workers."""
    with joined(None, count=2, model="") as crew:
        yield crew
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()  # Ray waits for none of the processes that it began
