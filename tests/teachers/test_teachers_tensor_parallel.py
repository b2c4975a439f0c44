"""A teacher that two processes run together says to each of its own rows what a whole one says."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))
from many_processes import DDP, begin

SCRIPT = str(Path(__file__).with_name("divided_teacher.py"))


def differences(*families: str) -> list[dict[str, float | str]]:
    """What each of two processes found."""
    ranks = begin(2, [SCRIPT, *families], DDP)
    said = [rank.communicate(timeout=240) for rank in ranks]
    for rank, (_, errors) in zip(ranks, said, strict=True):
        assert rank.returncode == 0, errors[-3000:]
    return [json.loads(out.splitlines()[-1]) for out, _ in said]


def assert_same(found: dict[str, float | str]) -> None:
    assert found
    for name, difference in found.items():
        assert isinstance(difference, float), difference
        assert difference < 1e-5, name


def test_each_process_hears_of_its_own_rows():
    """Of three rows one process's, of one row, narrower, the other's; with padding and contexts packed together. Where a weight that only
    one of them holds is damaged, both are told, and neither waits for the other for ever."""
    for found in differences("Llama", "damaged"):
        assert "logits are NaN or infinite" in str(found.pop("damaged"))
        assert_same(found)


@pytest.mark.slow
def test_so_it_is_for_whatever_transformers_has_a_plan_for():
    for found in differences():
        assert len(found) == 5
        assert_same(found)
