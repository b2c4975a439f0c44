"""Many prompts gone on from at once: as the model alone would, whatever stands beside a row, up to its end."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_models import FAMILIES, tiny_model

from potstill.models import Companion, Sampling, complete, cut, draw
from potstill.models.generating import held_in

PROMPTS = [np.random.default_rng(seed).integers(3, 61, size) for seed, size in enumerate([5, 9, 2, 9, 1, 7])]
GREEDY = Sampling(temperature=0.0)


def draws(rows: int, tokens: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((rows, tokens), np.float32)


def written(model, prompts, tokens: int = 6, *, sampling=GREEDY, ends=(), rows: int = 64, seed: int = 0, **more):
    return complete(
        model, prompts, draws(len(prompts), tokens, seed), sampling=sampling, ends=ends, size=61, rows=rows, **more
    )


def of_transformers(model, prompt, tokens: int, ends=()) -> list[int]:
    ids = torch.from_numpy(prompt)[None]
    out = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, do_sample=False, pad_token_id=0,
        eos_token_id=list(ends) or None,
    )  # fmt: skip
    return out[0, len(prompt) :].tolist()


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_text_is_that_of_the_model_alone(family):
    """Rows of several lengths side by side, against transformers' own generate on one row without padding."""
    model = tiny_model(family)
    model.generation_config.eos_token_id = None
    found = written(model, PROMPTS)
    assert [one.tolist() for one in found] == [of_transformers(model, prompt, 6) for prompt in PROMPTS]


def test_a_row_ends_at_its_end_and_the_others_go_on():
    model = tiny_model("llama")
    model.generation_config.eos_token_id = None
    whole = written(model, PROMPTS, 8)
    ends = (int(whole[0][2]), int(whole[3][5]))
    found = written(model, PROMPTS, 8, ends=ends)
    assert [one.tolist() for one in found] == [of_transformers(model, prompt, 8, ends) for prompt in PROMPTS]
    assert len({len(one) for one in found}) > 1
    for one, all_of_it in zip(found, whole, strict=True):
        assert one.tolist() == all_of_it[: len(one)].tolist()
        assert not set(one[:-1].tolist()) & set(ends)


@pytest.mark.parametrize("rows", [1, 2, 64])
def test_a_completion_depends_on_its_own_prompt_and_draws_alone(rows):
    model = tiny_model("qwen3").double()
    sampling = Sampling(temperature=0.8, top_p=0.9)
    together = written(model, PROMPTS, sampling=sampling, ends=(7, 9, 11))
    found = written(model, PROMPTS, sampling=sampling, ends=(7, 9, 11), rows=rows)
    assert [one.tolist() for one in found] == [one.tolist() for one in together]
    other = written(model, PROMPTS, sampling=sampling, ends=(7, 9, 11), seed=1)
    assert [one.tolist() for one in other] != [one.tolist() for one in together]


def test_only_shared_tokens_are_written():
    model = tiny_model("llama")
    found = complete(model, PROMPTS, draws(6, 20), sampling=Sampling(3.0), ends=(), size=10, rows=64)
    assert max(one.max() for one in found) == 9


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(top_k=5), Sampling(top_p=0.7), Sampling(1.0, 0.6, 4)])
def test_tokens_are_drawn_as_often_as_they_are_likely(sampling):
    logits = torch.randn(12, generator=torch.Generator().manual_seed(2), dtype=torch.float64) * 2
    probabilities = logits.softmax(-1)
    expected = probabilities.clone()
    order = probabilities.argsort(descending=True)
    if sampling.top_k is not None:
        expected[order[sampling.top_k :]] = 0
        expected /= expected.sum()
    if sampling.top_p < 1:
        before = expected[order].cumsum(-1) - expected[order]
        expected[order[before >= sampling.top_p]] = 0
        expected /= expected.sum()
    count = 20_000
    even = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    tokens = draw(cut(probabilities.expand(count, 12), top_k=sampling.top_k, top_p=sampling.top_p), even)
    found = torch.bincount(tokens, minlength=12) / count
    torch.testing.assert_close(found, expected.float(), rtol=0, atol=2e-4)
    # The ends of the interval are tokens that can be drawn.
    for end in (0.0, 1 - 2**-24):
        weights = cut(probabilities.float()[None], top_k=sampling.top_k, top_p=sampling.top_p)
        token = draw(weights, torch.tensor([end]))
        assert expected[token] > 0


def test_a_companion_has_its_share_of_each_token():
    """One prompt, one token, many draws: the mixture of both distributions."""
    model, other = tiny_model("llama"), tiny_model("llama", seed=5)
    prompt, count = PROMPTS[0], 4000
    even = ((np.arange(count, dtype=np.float32) + 0.5) / count)[:, None]
    found = complete(
        model, [prompt] * count, even, sampling=Sampling(2.0), ends=(), size=61, rows=count, companion=Companion(other, 0.3)
    )  # fmt: skip
    with torch.no_grad():
        p, q = ((one(torch.from_numpy(prompt)[None]).logits[0, -1] / 2).softmax(-1) for one in (other, model))
    counted = torch.bincount(torch.tensor([int(one[0]) for one in found]), minlength=61) / count
    torch.testing.assert_close(counted, 0.3 * p + 0.7 * q, rtol=0, atol=1e-3)


def test_writing_leaves_the_model_as_it_was():
    model = tiny_model("llama").train()
    model.model.layers[1].eval()
    written(model, PROMPTS)
    assert model.training
    assert not model.model.layers[1].training
    assert all(weight.requires_grad and weight.grad is None for weight in model.parameters())


def test_a_copy_in_fewer_bits_leaves_buffers_and_the_model_alone():
    model = tiny_model("llama")
    copy = held_in(model, torch.bfloat16)
    assert {weight.dtype for weight in copy.parameters()} == {torch.bfloat16}
    assert {buffer.dtype for buffer in copy.buffers()} == {torch.float32}
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    assert torch.equal(copy.lm_head.weight.float(), model.lm_head.weight.bfloat16().float())
    assert len(written(copy, PROMPTS, sampling=Sampling())) == len(PROMPTS)
