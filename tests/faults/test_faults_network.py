"""A server that drops what it says at any byte, stalls, refuses and talks nonsense, and a writer that is killed meanwhile."""

from __future__ import annotations

import json
import random
import shutil
import sys
from pathlib import Path

import pytest
from harm import Begin

sys.path.insert(0, str(Path(__file__).parents[1] / "writing"))

from faulty_server import FAULTS, Behaviour, serving

RECIPE = """
[writer]
kind = "server"
model = "teacher"
url = "URL"
endpoint = "completions"
concurrency = 4
timeout = 5.0
attempts = 30
first_wait = 0.001
[prompts]
source = "prompts.jsonl"
[sampling]
max_new_tokens = 8
best_of = 2
[output]
keep = "all"
"""
PROMPTS = 40


def written(folder: Path) -> bytes:
    return (folder / "out" / "written.jsonl").read_bytes()


def prepare(folder: Path, url: str) -> None:
    (folder / "write.toml").write_text(RECIPE.replace("URL", url))
    rows = [{"prompt": f"number {n} is"} for n in range(PROMPTS)]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def undisturbed(begin: Begin, folder: Path) -> bytes:
    with serving(Behaviour()) as url:
        prepare(folder, url)
        ended = begin.command("write", "write.toml", "-o", "out", folder=folder)
        assert ended.code == 0, ended.said
    whole = written(folder)
    shutil.rmtree(folder / "out")
    return whole


SEEDS = [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 21))]


@pytest.mark.parametrize("seed", SEEDS)
def test_what_a_bad_line_lets_through_is_what_a_good_one_does(seed, begin, tmp_path):
    whole, draw = undisturbed(begin, tmp_path), random.Random(seed)
    faults = ("dropped",) if seed == 0 else tuple(draw.sample([*FAULTS, "dropped", "dropped"], 6))
    behaviour = Behaviour(share=draw.uniform(0.2, 0.7), faults=faults)
    with serving(behaviour) as url:
        prepare(tmp_path, url)
        for _ in range(2):
            begin.command("write", "write.toml", "-o", "out", folder=tmp_path, kill_after=draw.uniform(0.1, 0.8))
        ended = begin.command("write", "write.toml", "-o", "out", folder=tmp_path)
    assert ended.code == 0, ended.said
    assert behaviour.gone_wrong.total() > 5
    assert written(tmp_path) == whole


def test_a_server_that_goes_away_is_named_and_waited_for(begin, tmp_path):
    whole = undisturbed(begin, tmp_path)
    gone = Behaviour(share=1.0, faults=("dropped", "closed"))
    with serving(gone) as url:
        prepare(tmp_path, url)
        toml = tmp_path / "write.toml"
        toml.write_text(toml.read_text().replace("attempts = 30", "attempts = 2"))
        ended = begin.command("write", "write.toml", "-o", "out", folder=tmp_path)
    assert ended.is_named, ended.said
    assert "in a row got no answer" in ended.said
    assert len(set(gone.dropped_at)) > 3
    ended = begin.command("write", "write.toml", "-o", "out", folder=tmp_path)
    assert ended.is_named, ended.said
    assert "nothing answers at" in ended.said
    with serving(Behaviour()) as url:
        prepare(tmp_path, url)
        assert begin.command("write", "write.toml", "-o", "out", folder=tmp_path).code == 0
    assert written(tmp_path) == whole
