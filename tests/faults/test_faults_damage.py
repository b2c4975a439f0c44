"""Bytes that change on the disk: in what is finished and in what is half done. The same command again ends with what an undisturbed run
gives, or with one message that says what is damaged."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from harm import Begin, damage
from verbs import VERBS, Jobs, outcome

from potstill.errors import PotstillError
from potstill.models import load_model
from potstill.soft_labels import Store


def any_file(folder: Path, draw: random.Random) -> Path | None:
    files = [one for one in sorted(folder.rglob("*")) if one.is_file() and one.stat().st_size]  # locks have no bytes
    return draw.choice(files) if files else None


def check(begin: Begin, jobs: Jobs, folder: Path, name: str, what: str) -> str:
    """How it ended: "same", "named", or "refused", where nothing was to be done again and whoever reads what is damaged says so."""
    verb = VERBS[name]
    ended = begin.command(*verb.command, folder=folder)
    if ended.code == 0:
        whole, _ = jobs.whole(name)
        found = outcome(folder / verb.out)
        changed = [one for one in whole if found.get(one) != whole[one]]
        assert [one for one in changed if not is_refused(folder / verb.out / one)] == [], what
        return "refused" if changed else "same"
    assert ended.is_named, (what, ended.code, ended.said)
    return "named"


def is_refused(file: Path) -> bool:
    """By whoever reads it."""
    try:
        if file.suffix == ".labels":
            for shard in Store(file.parent).shards:
                for page in range(-(-shard.num_tokens // shard.page_tokens)):
                    shard.page(page)
        elif file.suffix == ".safetensors":
            load_model(file.parent)
    except PotstillError:
        return True
    return False


SEEDS = [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 51))]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", VERBS)
def test_damage_to_what_is_finished(name, seed, begin, jobs, tmp_path):
    draw = random.Random(seed)
    jobs.whole(name)
    folder = jobs.copy(tmp_path / "damaged")
    file = any_file(folder / VERBS[name].out, draw)
    assert file is not None
    check(begin, jobs, folder, name, damage(file, draw))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", VERBS)
def test_damage_to_what_is_half_done(name, seed, begin, jobs, tmp_path):
    draw = random.Random(seed)
    _, seconds = jobs.whole(name)
    folder = jobs.copy(tmp_path / "damaged", without=name)
    begin.command(*VERBS[name].command, folder=folder, kill_after=draw.uniform(0.3, 1.0) * seconds)
    file = any_file(folder / VERBS[name].out, draw)
    what = "nothing was there yet" if file is None else damage(file, draw)
    check(begin, jobs, folder, name, what)
