"""A teacher that several processes run together, each a part of its layers, teaches what a whole one in one process does."""

from __future__ import annotations

import pytest
from many_processes import DDP, FOR_FOUR, FSDP2, together, trained
from test_training_sharding import assert_same


def test_two_processes_learn_from_it_what_one_learns_from_a_whole_one(tmp_path):
    """Over fifty steps of several sizes, in several passes, of completions that give the processes unequal weights and rows."""
    found = together({"live": {"case": "live", "tensor_parallel": True}}, tmp_path, DDP)
    assert_same(found["live"], trained("live"))


@pytest.mark.slow
@pytest.mark.parametrize("kind", [DDP, FSDP2], ids=["ddp", "fsdp2"])
def test_so_they_do_with_all_that_goes_with_it(kind, tmp_path):
    cases = ("live", "untied", "features", "lora", "checkpointing", "mixture")
    found = together({name: {"case": name, "tensor_parallel": True} for name in cases}, tmp_path, kind)
    for name in cases:
        assert_same(found[name], trained(name))


@pytest.mark.slow
@pytest.mark.parametrize("kind", [DDP, FSDP2], ids=["ddp", "fsdp2"])
def test_so_do_four_in_groups_of_two(kind, tmp_path):
    """Its key-value heads come out even for two, and not for four; steps of six and ten rows give a group's processes unequal shares."""
    cases = ("live", "untied", "features", "mixture")
    found = together(
        {name: {"case": name, "tensor_parallel": 2, "rows": FOR_FOUR} for name in cases}, tmp_path, kind, world=4
    )
    for name in cases:
        assert_same(found[name], trained(name, rows=FOR_FOUR))
