"""Distances of hidden states against their formulas, and one gradient however a step is split."""

from __future__ import annotations

import pytest
import torch

from potstill.errors import LossError
from potstill.losses import HiddenLoss


def states(seed: int, *, width: int = 6) -> torch.Tensor:
    return torch.randn(5, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_formulas():
    ours, theirs = {0: states(1), 2: states(2)}, {1: states(3), 5: states(4)}
    cosine = HiddenLoss(((0, 1), (2, 5)))(ours, theirs)
    expected = torch.zeros(5, dtype=torch.float64)
    for one, other in ((0, 1), (2, 5)):
        a, b = ours[one], theirs[other]
        expected += (1 - (a * b).sum(-1) / (a.norm(dim=-1) * b.norm(dim=-1))) / 2
    torch.testing.assert_close(cosine, expected)
    mse = HiddenLoss(((2, 5),), distance="mse")(ours, theirs)
    torch.testing.assert_close(mse, ((ours[2] - theirs[5]) ** 2).sum(-1) / 6)


@pytest.mark.parametrize("distance", ["cosine", "mse"])
def test_nothing_to_learn_from_oneself(distance: str):
    mine = states(1).requires_grad_()
    loss = HiddenLoss(((0, 0),), distance=distance)({0: mine}, {0: mine.detach()}).sum()
    loss.backward()
    assert loss.item() == pytest.approx(0.0, abs=1e-12)
    assert mine.grad is not None
    assert mine.grad.abs().max() < 1e-12


def test_what_can_not_be_compared():
    with pytest.raises(LossError, match=r"width 6 .* and 4"):
        HiddenLoss(((0, 0),))({0: states(1)}, {0: states(1, width=4)})
    with pytest.raises(LossError, match="stored labels have none"):
        HiddenLoss(((0, 3),))({0: states(1)}, {})
    with pytest.raises(LossError, match="counted from 0"):
        HiddenLoss(())
    with pytest.raises(LossError, match="above 0"):
        HiddenLoss(((0, 0),), weight=0.0)
