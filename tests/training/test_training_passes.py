"""However a step is divided among processes and passes, each row is read once."""

from __future__ import annotations

from itertools import repeat

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as some

from potstill.errors import DataError
from potstill.training.passes import divided
from potstill.types import Batch


def batch_of(rows: int) -> Batch:
    """Each row has its number."""
    numbers = torch.arange(rows)[:, None].repeat(1, 3)
    return Batch(numbers, numbers, torch.ones(rows, 3), numbers, numbers, numbers)


@given(some.integers(1, 24), some.integers(1, 6), some.none() | some.integers(1, 7), some.booleans())
def test_every_row_is_read_once(rows, world, micro_rows, in_step):
    if rows < world:
        return
    shares = [
        next(divided(repeat(batch_of(rows)), None, micro_rows, rank=rank, world=world, in_step=in_step))[1]
        for rank in range(world)
    ]
    read = [int(row) for share in shares for part, _ in share for row in part.inputs[:, 0]]
    assert read == list(range(rows))
    sizes = [[len(part.inputs) for part, _ in share] for share in shares]
    assert min(min(one) for one in sizes) > 0
    if in_step:
        assert len({len(one) for one in sizes}) == 1
    if micro_rows is not None:
        # Where shares differ by a row and a pass has one, one pass has two: none may be left out.
        assert max(max(one) for one in sizes) <= max(micro_rows, 2 if in_step and rows % world else 1)


def test_fewer_rows_than_processes_are_refused():
    with pytest.raises(DataError, match="2 sequences and there are 3 processes"):
        next(divided(repeat(batch_of(2)), None, None, rank=0, world=3))
