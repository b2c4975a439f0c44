"""Signals of an answer in closed form, and from what servers say."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from potstill.errors import DataError
from potstill.routing import SIGNALS, Signals, TokenLogprobs, listed_tokens, prompt_features, signals_of

HALF, QUARTER = math.log(0.5), math.log(0.25)


def test_signals_in_closed_form():
    found = signals_of([TokenLogprobs(HALF, (QUARTER, HALF)), TokenLogprobs(QUARTER, (HALF, QUARTER))])
    assert found.mean_logprob == pytest.approx((HALF + QUARTER) / 2)
    assert found.min_logprob == QUARTER
    assert found.sum_logprob == pytest.approx(HALF + QUARTER)
    # a half, a quarter, and another quarter that the list leaves out
    assert found.entropy == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(4))
    assert found.margin == pytest.approx(0.25)


def test_what_is_not_listed_is_not_known():
    assert signals_of([TokenLogprobs(HALF)]).named().keys() == {"mean_logprob", "min_logprob", "sum_logprob"}
    one = signals_of([TokenLogprobs(HALF, (HALF,))])
    assert one.margin is None
    assert one.entropy == pytest.approx(math.log(2))
    mixed = signals_of([TokenLogprobs(HALF, (HALF, QUARTER)), TokenLogprobs(HALF)])
    assert mixed.entropy is None
    assert set(Signals().named()) == set()


def test_an_empty_answer_is_as_unsure_as_can_be():
    least = signals_of(())
    poor = signals_of([TokenLogprobs(-9999.0, (-3.0, -3.0, -3.0, -3.0))])
    assert least.mean_logprob == poor.mean_logprob
    assert least.margin == 0
    assert least.entropy is not None
    assert poor.entropy is not None
    assert least.entropy > poor.entropy


@given(st.lists(st.floats(0.001, 1), min_size=2, max_size=8))
def test_entropy_and_margin_are_within_their_bounds(weights):
    total = sum(weights) + 0.001
    top = tuple(math.log(one / total) for one in weights)
    found = signals_of([TokenLogprobs(max(top), top)])
    assert found.entropy is not None
    assert found.margin is not None
    assert -1e-9 <= found.entropy <= math.log(len(weights) + 1) + 1e-9
    assert 0 <= found.margin <= 1


@pytest.mark.parametrize("logprob", [0.5, math.nan, math.inf])
def test_what_is_no_log_probability(logprob):
    with pytest.raises(DataError, match="no log-probability"):
        signals_of([TokenLogprobs(logprob)])


def test_a_servers_list():
    content = [
        {"token": "a", "logprob": -0.1, "bytes": [97], "top_logprobs": [{"token": "a", "logprob": -0.1}, {"token": "b", "logprob": -3}]},
        {"token": "b", "logprob": -9999.0, "top_logprobs": None},
    ]  # fmt: skip
    assert listed_tokens(content) == (TokenLogprobs(-0.1, (-0.1, -3.0)), TokenLogprobs(-9999.0, ()))
    for wrong in ([{"token": "a"}], [{"logprob": "x"}], [{"logprob": -1.0, "top_logprobs": [{"token": "a"}]}]):
        with pytest.raises(DataError, match="list of"):
            listed_tokens(wrong)


def test_what_a_prompt_looks_like():
    found = prompt_features("AB 1+")
    assert found == {
        "prompt_length": math.log(5),
        "prompt_digits": 0.2,
        "prompt_symbols": 0.2,
        "prompt_capitals": 0.4,
    }
    assert set(prompt_features("")) == set(found)
    assert not set(found) & set(SIGNALS)
