"""Times are positive, caches stay as long as they were, and the best length is the one that saves most."""

from __future__ import annotations

import pytest
from tiny_job import tiny_llama
from tiny_models import FAMILIES, tiny_model

from potstill.drafts import Costs, best_length, expect_independent, measure_costs, speedup
from potstill.errors import ModelError


def test_times_of_real_models():
    costs = measure_costs(tiny_llama(), tiny_llama(), longest=3, context=8)
    assert len(costs.verify) == 4
    assert costs.draft > 0
    assert min(costs.verify) > 0


def test_no_more_is_read_than_a_model_can():
    small = tiny_model("gpt2", settings=FAMILIES["gpt2"] | {"n_positions": 8})
    assert len(measure_costs(small, small, longest=4).verify) == 5
    with pytest.raises(ModelError, match="longer than the context"):
        measure_costs(small, small, longest=8)


def test_speedup_against_the_formula():
    costs = Costs(draft=0.1, verify=(1.0, 1.1, 1.2, 1.3, 1.4))
    expected = [expect_independent(0.8, length) for length in range(1, 5)]
    assert speedup(expected[1], costs) == pytest.approx((1 - 0.8**3) / 0.2 / (0.2 + 1.2))
    best = best_length(expected, costs)
    assert best is max(expected, key=lambda one: speedup(one, costs))
    assert costs.ratio == pytest.approx(0.1)


def test_no_length_where_none_saves_time():
    costs = Costs(draft=1.0, verify=(1.0, 1.0, 1.0))
    assert best_length([expect_independent(0.3, length) for length in (1, 2)], costs) is None
