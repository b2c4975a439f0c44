"""A run whose student learns on its own text: what is logged, what the controls read, and that a kill changes nothing."""

from __future__ import annotations

import itertools

import pytest
import torch
from safetensors.torch import load_file
from tiny_job import LENGTH, tiny_folder, tiny_job

from potstill.data import prompts_of
from potstill.losses import ReverseKL, SoftLabelLoss
from potstill.runs import distil
from potstill.runs.distillation import seconds_a_step
from potstill.training import OnPolicy


def writing_job():
    batches = tiny_job().batches
    prompts = prompts_of(batches.corpus, tokens=6, longest=12)
    plan = OnPolicy(batches, prompts, ends=(256,), share=0.5, rows=3, new_tokens=9, refresh_every=2)
    return tiny_job(measure=SoftLabelLoss(ReverseKL()), on_policy=plan, untouched=False)


def test_a_run_stopped_between_writings_ends_as_one_that_was_not(tmp_path):
    """Of six steps the second, fourth and sixth read the student's text; checkpoints lie behind each."""
    list(distil(writing_job(), tiny_folder(tmp_path / "straight")))
    straight = load_file(tmp_path / "straight" / "student" / "model.safetensors")
    for stop in (4, 5):
        path = tmp_path / f"stopped-{stop}"
        interrupted = distil(writing_job(), tiny_folder(path))
        list(itertools.islice(interrupted, stop))
        interrupted.close()
        list(distil(writing_job(), tiny_folder(path)))
        resumed = load_file(path / "student" / "model.safetensors")
        assert all(torch.equal(resumed[name], tensor) for name, tensor in straight.items())
    steps = tiny_folder(tmp_path / "straight").steps("distilled")
    written = [step["written"] for step in steps]
    assert [one is not None for one in written] == [False, True] * 3
    assert all(0 < one["length"] <= 9 and one["tokens"] == round(3 * one["length"]) for one in written if one)
    # The control reads the corpus, as many tokens as the student did.
    control = tiny_folder(tmp_path / "straight").steps("hard_labels")
    assert all(step["written"] is None and step["tokens"] == 4 * LENGTH for step in control)
    assert len(control) == round(sum(step["tokens"] for step in steps) / (4 * LENGTH)) < len(steps)


def test_seconds_of_writing_are_spread_over_all_steps():
    steps = [{"seconds": 1.0, "written": None}] * 2 + [{"seconds": 5.0, "written": {"seconds": 4.0}}]
    assert seconds_a_step(steps) == pytest.approx(1 + 4 / 3)
    assert seconds_a_step([{"seconds": 2.0}, {"seconds": 9.0}, {"seconds": 2.5}]) == 2.5
    assert seconds_a_step([]) == 1.0
