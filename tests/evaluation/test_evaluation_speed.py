import time

import pytest
import torch
from tiny_models import FAMILIES, tiny_model

from potstill.evaluation import speed

READ, WRITTEN = 0.02, 0.005


def calls_of(model) -> list[tuple[int, int, int]]:
    """Fills with (rows, tokens read, tokens in the cache before) a call, as the model is called."""
    calls = []

    def note(module, arguments, named):
        cache = named.get("past_key_values")
        calls.append((*arguments[0].shape, 0 if cache is None else cache.get_seq_length()))

    model.register_forward_pre_hook(note, with_kwargs=True)
    return calls


@pytest.mark.parametrize("family", FAMILIES)
def test_the_prompt_is_read_once_and_then_one_token_at_a_time(family):
    model = tiny_model(family)
    calls = calls_of(model)
    found = speed(model, prompt_tokens=10, new_tokens=3, rows=2)
    assert found.prefill_tokens_per_second > 0
    assert found.decode_tokens_per_second > 0
    assert len(calls) == 6 * 4  # a warm-up and five repeats
    assert calls == [(2, 10, 0), (2, 1, 10), (2, 1, 11), (2, 1, 12)] * 6


def test_a_rate_is_tokens_over_median_seconds(monkeypatch):
    """A clock that moves by what a call is said to take; the first round and one hiccup don't count."""
    model, now, rounds = tiny_model("llama"), [0.0], []

    def pass_time(module, arguments, named):
        is_prompt = arguments[0].shape[1] > 1
        if is_prompt:
            rounds.append(1)
        slow = 100 if len(rounds) in (1, 4) else 1
        now[0] += slow * (READ if is_prompt else WRITTEN)

    model.register_forward_pre_hook(pass_time, with_kwargs=True)
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    found = speed(model, prompt_tokens=16, new_tokens=4, rows=2)
    assert found.prefill_tokens_per_second == pytest.approx(2 * 16 / READ)
    assert found.decode_tokens_per_second == pytest.approx(2 * 4 / (4 * WRITTEN))


def test_the_model_is_left_as_it_was():
    model = tiny_model("gpt2").train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    speed(model, prompt_tokens=4, new_tokens=2)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
