"""The settings of the loop: what nothing could be learned with is refused where it is said."""

from __future__ import annotations

import math

import pytest

from potstill.errors import RecipeError
from potstill.training import TrainingSettings


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("steps", 0),
        ("steps", -1),
        ("micro_rows", 0),
        ("checkpoint_every", 0),
        ("learning_rate", 0.0),
        ("learning_rate", math.nan),
        ("learning_rate", math.inf),
        ("weight_decay", -0.1),
        ("weight_decay", math.nan),
        ("betas", (1.0, 0.95)),
        ("betas", (0.9, -0.1)),
        ("max_gradient_norm", 0.0),
        ("skip_spikes", math.nan),
    ],
)
def test_what_nothing_is_learned_with_is_refused(setting, value):
    with pytest.raises(RecipeError, match=f"^{setting} must be .*, found"):
        TrainingSettings(**{"steps": 1, setting: value})


def test_the_ends_of_the_ranges_are_legal():
    TrainingSettings(
        steps=1, micro_rows=1, checkpoint_every=1, weight_decay=0.0, betas=(0.0, 0.0), max_gradient_norm=math.inf
    )
    TrainingSettings(steps=1, micro_rows=None, checkpoint_every=None, skip_spikes=None)
