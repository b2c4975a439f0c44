"""SIGKILL at random moments, again and again: what comes out at last is, byte for byte, what an undisturbed run gives."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest
from harm import Begin
from verbs import VERBS, Jobs, outcome


def killed_until_done(begin: Begin, jobs: Jobs, place: Path, name: str, kills: int) -> int:
    """How often it was killed. Begun anew whenever it came to its end before it was killed often enough."""
    verb, draw, done = VERBS[name], random.Random(kills), 0
    whole, seconds = jobs.whole(name)
    folder = jobs.copy(place, without=name)
    while done < kills:
        ended = begin.command(*verb.command, folder=folder, kill_after=draw.random() * 0.9 * seconds)
        assert ended.code in (None, 0), ended.said
        done += ended.code is None
        if ended.code == 0:
            assert outcome(folder / verb.out) == whole
            shutil.rmtree(folder / verb.out)
    ended = begin.command(*verb.command, folder=folder)
    assert ended.code == 0, ended.said
    assert outcome(folder / verb.out) == whole
    return done


@pytest.mark.parametrize("name", VERBS)
@pytest.mark.parametrize("kills", [pytest.param(2, id="2"), pytest.param(50, id="50", marks=pytest.mark.slow)])
def test_what_is_killed_ends_as_if_it_was_not(kills, name, begin, jobs, tmp_path):
    assert killed_until_done(begin, jobs, tmp_path / "killed", name, kills) == kills
