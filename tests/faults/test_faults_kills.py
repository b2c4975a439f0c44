"""SIGKILL at random moments, again and again: what comes out at last is, byte for byte, what an undisturbed run gives."""

from __future__ import annotations

import json
import random
import shutil

import pytest
from commands import Workshop
from harm import command

LEARN = ("distill", "recipe.toml", "--set", "training.steps=60", "--set", "training.checkpoint_every=3", "-o", "run")
STUDENTS = (
    "student/model.safetensors",
    "controls/hard_labels/student/model.safetensors",
    "untouched/model.safetensors",
)


def times(quick: int, slow: int):
    return pytest.mark.parametrize("kills", [quick, pytest.param(slow, marks=pytest.mark.slow)])


def killed_until_done(workshop: Workshop, words: tuple[str, ...], kills: int, out: str) -> None:
    """Each round begins anew when the command came to its end before it was killed often enough."""
    draw, said, done = random.Random(kills), workshop.path / "said.txt", 0
    whole = command(*words, said=said)
    assert whole.code == 0, whole.said
    shutil.move(workshop.path / out, workshop.path / "whole")
    longest = 1.5
    while done < kills:
        ended = command(*words, said=said, kill_after=draw.random() * longest)
        assert ended.code in (None, 0), ended.said
        done += ended.code is None
        if ended.code == 0:
            compare(workshop, out)
            shutil.rmtree(workshop.path / out)
    ended = command(*words, said=said)
    assert ended.code == 0, ended.said
    compare(workshop, out)


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


@times(4, 50)
def test_distill(kills, workshop):
    killed_until_done(workshop, LEARN, kills, "run")


@times(4, 50)
def test_label(kills, workshop):
    killed_until_done(workshop, ("label", "recipe.toml", "-o", "labels"), kills, "labels")
