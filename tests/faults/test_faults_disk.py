"""A disk that fills up at random: one message, and once there is room the same command ends with what an undisturbed run gives."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from harm import Begin
from verbs import VERBS, Jobs, outcome

SEEDS = [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 31))]


def filled_and_freed(begin: Begin, jobs: Jobs, place: Path, name: str, draw: random.Random) -> int | None:
    """The exit code while the disk was full."""
    verb = VERBS[name]
    whole, _ = jobs.whole(name)
    largest = max(len(one) for one in whole.values() if isinstance(one, bytes))
    folder = jobs.copy(place, without=name)
    # As many small files as large ones are written; to the smaller sizes, then.
    ended = begin.command(*verb.command, folder=folder, most_bytes=int(largest * draw.random() ** 2))
    assert ended.code == 0 or ended.is_named, (ended.code, ended.said)
    ended = begin.command(*verb.command, folder=folder)
    assert ended.code == 0, ended.said
    assert outcome(folder / verb.out) == whole
    return ended.code


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    "name", [*(one for one in VERBS if one != "compress"), pytest.param("compress", marks=pytest.mark.slow)]
)
def test_a_full_disk_is_named_and_then_forgotten(name, seed, begin, jobs, tmp_path):
    filled_and_freed(begin, jobs, tmp_path / "full", name, random.Random(seed))
