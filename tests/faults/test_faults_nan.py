"""Numbers that are none: a teacher whose weights are damaged where few texts lead."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from harm import Begin
from safetensors.torch import load_file, save_file
from tiny_models import byte_tokenizer
from verbs import VERBS, Jobs


def spoil(folder: Path, value: float) -> None:
    """What the teacher makes of the byte `9`, which few documents have."""
    file = folder / "teacher" / "model.safetensors"
    weights = load_file(file)
    name = next(name for name in weights if "embed_tokens" in name)
    weights[name][byte_tokenizer()("9").input_ids[0]] = value
    save_file(weights, file, metadata={"format": "pt"})


@pytest.mark.parametrize("value", [torch.nan, pytest.param(torch.inf, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", VERBS)
def test_a_teacher_that_says_nan_is_named(name, value, begin: Begin, jobs: Jobs, tmp_path):
    folder = jobs.copy(tmp_path / "spoiled", without=name)
    spoil(folder, value)
    ended = begin.command(*VERBS[name].command, folder=folder)
    assert ended.is_named, (ended.code, ended.said)
    assert "NaN" in ended.said
    assert not [*folder.glob(f"{VERBS[name].out}/**/*.labels")]
    assert not (folder / VERBS[name].out / "scores.json").exists()
