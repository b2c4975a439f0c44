"""What a launcher must not decide is refused: it would change the numbers, or be left out without a word."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from potstill.errors import RecipeError
from potstill.models import fsdp_plugin, join_processes

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))
from many_processes import DDP, begin

TRY = """
import json, os, sys
from accelerate.state import AcceleratorState
from potstill.errors import RecipeError
from potstill.models import fsdp_plugin, join_processes

for settings in json.loads(sys.argv[1]):
    AcceleratorState._reset_state(True)
    os.environ.update(settings)
    try:
        print("whole" if fsdp_plugin(join_processes()) is None else "divided")
    except RecipeError as error:
        print(error)
    for name in settings:
        del os.environ[name]
"""
DIVIDED = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
# Settings of the environment, as `accelerate launch` hands them on, and what is said about them.
CASES = [
    ({}, "whole"),
    ({"ACCELERATE_MIXED_PRECISION": "bf16"}, "says mixed_precision = bf16, and the recipe's training.dtype decides"),
    (
        {"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4"},
        "accumulates 4 steps, which would make the gradient so many times",
    ),
    ({"ACCELERATE_DYNAMO_BACKEND": "INDUCTOR"}, "compiles the model (dynamo): leave it out"),
    (DIVIDED, "divided"),
    (DIVIDED | {"FSDP_VERSION": "1"}, "asks for FSDP1: set fsdp_version to 2"),
    (DIVIDED | {"FSDP_CPU_RAM_EFFICIENT_LOADING": "true"}, "would go on with empty ones. Set it to false"),
    (
        DIVIDED | {"FSDP_ACTIVATION_CHECKPOINTING": "true"},
        "the recipe says that (training.gradient_checkpointing = true)",
    ),
]


@pytest.mark.slow
def test_what_a_launcher_must_not_decide_is_refused():
    ranks = begin(2, ["-c", TRY, json.dumps([settings for settings, _ in CASES])], DDP)
    for rank in ranks:
        said, errors = rank.communicate(timeout=180)
        assert rank.returncode == 0, errors[-3000:]
        for line, (settings, expected) in zip(said.splitlines(), CASES, strict=True):
            assert expected in line, settings


def test_a_process_that_does_not_know_of_the_others_is_refused(monkeypatch: pytest.MonkeyPatch):
    assert fsdp_plugin(join_processes()) is None
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(
        RecipeError, match="began 2 processes and this one knows of 1: each would do the whole run by itself"
    ):
        join_processes()
