"""What a search will take, and how much a student can read in a given time."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_search import recipe, texts

from potstill.errors import RecipeError
from potstill.recipe.searching import build_search
from potstill.search.compression import Search
from potstill.search.planning import plan_of, tokens_in
from potstill.search.timing import Rates, rates_of

# 128 tokens a step.
RATES = Rates(marked=1_000.0, learned=100.0, read=1e9, seconds_a_question=0.0)


@pytest.fixture(scope="module")
def search(tmp_path_factory: pytest.TempPathFactory) -> Search:
    folder = tmp_path_factory.mktemp("planned")
    return build_search(recipe(texts(folder / "texts")), folder / "run", say=lambda _: None)


def test_the_longest_training_that_is_done_in_time(search: Search) -> None:
    # Two cuts: 1 + 2.3 besides + the control; each token is marked once: 43 + 1 thousandths of a second a token.
    assert tokens_in(search, RATES, 30.0) == 5 * 128
    assert plan_of(search, RATES).seconds == pytest.approx(16 * 128 * 0.044, rel=1e-3)


def test_no_more_than_the_recipe_says(search: Search) -> None:
    assert tokens_in(search, RATES, 1e6) == search.tokens


def test_too_little_time_is_refused(search: Search) -> None:
    with pytest.raises(RecipeError, match="looking at students alone"):
        tokens_in(search, RATES, 1.0)


def test_rates_are_of_real_work_and_leave_nothing_behind(search: Search, tmp_path: Path) -> None:
    before = sorted(search.path.rglob("*"))
    weights = search.job.teacher.model.get_input_embeddings().weight.clone()
    rates = rates_of(search.job)
    assert 10 < rates.learned < rates.read < 1e7
    assert rates.marked > 10
    assert sorted(search.path.rglob("*")) == before
    assert bool((search.job.teacher.model.get_input_embeddings().weight == weights).all())
