"""The tier `sampled`: every stored probability has the right expectation, and they sum to exactly 1."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from potstill.soft_labels.noise import uniforms
from potstill.soft_labels.sampled import Sampled


def noise_of(rows: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(uniforms(seed, np.full(rows, 7, dtype=np.uint64), np.arange(rows), 2))


def stored(probs: torch.Tensor, tau: float, seed: int = 0) -> tuple[torch.Tensor, np.ndarray]:
    """(the stored distributions [rows, tokens] in fp64, records a row)."""
    codec, (rows, tokens) = Sampled(tau), probs.shape
    ranks = torch.randperm(tokens, generator=torch.Generator().manual_seed(1))
    tokens_of_rank = ranks.argsort().numpy()
    found = codec.decode(codec.encode(probs.clone(), noise_of(rows, seed), ranks).arrays, tokens_of_rank)
    dense = np.zeros((rows, tokens))
    np.add.at(dense, (np.repeat(np.arange(rows), found.counts), found.ids), found.probs.astype(np.float64))
    return torch.from_numpy(dense), found.counts


@pytest.mark.parametrize("tau", [0.3, 0.05, 0.03])
@pytest.mark.parametrize("sharpness", [0.0, 2.0, 6.0])
def test_the_mean_of_many_encodings_is_the_distribution(tau, sharpness):
    """Chi-square over 1,000 encodings, tokens with small expectation pooled as is usual."""
    encodings = 1000
    logits = sharpness * torch.randn(600, generator=torch.Generator().manual_seed(2))
    probs = logits.softmax(-1)
    found, _ = stored(probs.expand(encodings, -1), tau)
    # Tokens that are drawn fewer than five times are pooled, as is usual.
    is_rare = probs * encodings < 5 * tau
    found = torch.cat([found[:, ~is_rare], found[:, is_rare].sum(-1, keepdim=True)], 1)
    expected = torch.cat([probs[~is_rare], probs[is_rare].sum().unsqueeze(0)]).double()
    # Of a sampled token with weight w: w p - p². Its own spread over the encodings says little where it was drawn a few times.
    variance = torch.where(expected < tau, 0.9 * tau * expected, found.var(0))
    deviation = (variance / encodings).sqrt().clamp_min(1e-4 * tau)
    degrees = len(expected)
    # Ten deviations: a systematic sample takes some tokens always together.
    largest = degrees + 10 * (2 * degrees) ** 0.5
    assert float(((found.mean(0) - expected) / deviation).square().sum()) < largest
    biased = found.mean(0) * 1.5
    assert float(((biased - expected) / deviation).square().sum()) > largest


@settings(max_examples=60, deadline=None)
@given(
    tokens=st.integers(2, 1500),
    sharpness=st.floats(0, 30),
    tau=st.floats(0.01, 0.5),
    seed=st.integers(0, 2**31),
    impossible=st.floats(0, 0.99),
)
def test_any_distribution_sums_to_one_and_keeps_its_head(tokens, sharpness, tau, seed, impossible):
    draw = torch.Generator().manual_seed(seed)
    logits = sharpness * torch.randn(5, tokens, generator=draw)
    logits[:, 1:][torch.rand(5, tokens - 1, generator=draw) < impossible] = -torch.inf
    probs = logits.softmax(-1)
    found, counts = stored(probs, tau, seed)
    torch.testing.assert_close(found.sum(-1), torch.ones(5, dtype=torch.float64), rtol=0, atol=1e-6)
    assert (found[probs == 0] == 0).all()
    is_head = probs >= tau * (1 + 1e-6)
    assert ((found - probs).abs()[is_head] <= tau / 4 + 1e-6).all()
    assert (counts <= 1 / tau + 2 + is_head.sum(-1).numpy()).all()


@pytest.mark.parametrize("tokens", [2, 3, 511, 512, 513])
def test_sure_and_uniform_and_tied(tokens):
    sure = torch.zeros(1, tokens)
    sure[0, -1] = 1.0
    uniform = torch.full((1, tokens), 1 / tokens)
    tied = torch.zeros(1, tokens)
    tied[0, :2] = 0.5
    for probs in (sure, uniform, tied):
        found, _ = stored(probs, 0.1)
        assert found.sum().item() == pytest.approx(1.0, abs=1e-6)
        assert (found[probs == 0] == 0).all()
    assert stored(sure, 0.1)[0][0, -1] == 1.0
    assert stored(tied, 0.1)[0][0, :2].tolist() == [0.5, 0.5]


def test_error_is_no_larger_than_that_of_independent_draws_that_take_more_records():
    """RS-KD (50 independent draws) on distributions of a few bits."""
    probs = (4 * torch.randn(400, 2000, generator=torch.Generator().manual_seed(3))).softmax(-1)
    found, counts = stored(probs, 0.05)
    draws = torch.multinomial(probs, 50, replacement=True, generator=torch.Generator().manual_seed(4))
    independent = torch.zeros_like(probs).scatter_add_(1, draws, torch.full(draws.shape, 1 / 50))
    ours, theirs = (((one - probs) ** 2).sum(-1).mean() for one in (found, independent))
    num_theirs = np.mean([len(set(row)) for row in draws.tolist()])
    assert ours < 1.1 * theirs
    assert counts.mean() < num_theirs


def test_noise_belongs_to_the_prediction():
    keys = np.array([1, 1, 2, 2**64 - 1], dtype=np.uint64)
    offsets = np.array([0, 1, 0, 5])
    together = uniforms(3, keys, offsets, 2)
    one_by_one = np.concatenate([uniforms(3, keys[i : i + 1], offsets[i : i + 1], 2) for i in range(4)])
    assert np.array_equal(together, one_by_one)
    assert len(np.unique(together)) == together.size
    many = uniforms(0, np.zeros(20_000, dtype=np.uint64), np.arange(20_000), 2)
    assert abs(many.mean() - 0.5) < 0.01
    assert abs(np.corrcoef(many.T)[0, 1]) < 0.03
    assert abs(np.corrcoef(many[1:, 0], many[:-1, 0])[0, 1]) < 0.03
