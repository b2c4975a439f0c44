"""SIGKILL at random moments, again and again: what comes out at last is, byte for byte, what an undisturbed run gives."""

from __future__ import annotations

import json
import random
import shutil

import pytest
from commands import Workshop
from harm import Begin

LEARN = ("distill", "recipe.toml", "--set", "training.steps=60", "--set", "training.checkpoint_every=3", "-o", "run")
LABEL = ("label", "recipe.toml", "-o", "labels")


def killed_until_done(begin: Begin, workshop: Workshop, words: tuple[str, ...], kills: int) -> int:
    """How often it was killed. Begun anew whenever it came to its end before it was killed often enough."""
    draw, done, longest, out = random.Random(kills), 0, 1.5, words[-1]
    whole = begin.command(*words, folder=workshop.path)
    assert whole.code == 0, whole.said
    shutil.move(workshop.path / out, workshop.path / "whole")
    while done < kills:
        ended = begin.command(*words, folder=workshop.path, kill_after=draw.random() * longest)
        assert ended.code in (None, 0), ended.said
        done += ended.code is None
        if ended.code == 0:
            compare(workshop, out)
            shutil.rmtree(workshop.path / out)
    ended = begin.command(*words, folder=workshop.path)
    assert ended.code == 0, ended.said
    compare(workshop, out)
    return done


def compare(workshop: Workshop, out: str) -> None:
    whole, found = workshop.path / "whole", workshop.path / out
    files = [file.relative_to(whole) for file in sorted(whole.rglob("*")) if "checkpoints" not in file.parts]
    counted = [name for name in files if name.suffix in (".safetensors", ".labels")]
    assert counted
    for name in counted:
        assert (found / name).read_bytes() == (whole / name).read_bytes(), name
    if (whole / "scores.json").exists():
        one, other = (json.loads((folder / "scores.json").read_text("utf-8")) for folder in (whole, found))
        assert one["models"] == other["models"]


@pytest.mark.parametrize("words", [LEARN, LABEL], ids=["distill", "label"])
@pytest.mark.parametrize("kills", [pytest.param(2, id="2"), pytest.param(50, id="50", marks=pytest.mark.slow)])
def test_what_is_killed_ends_as_if_it_was_not(kills, words, begin, workshop):
    assert killed_until_done(begin, workshop, words, kills) == kills
