"""How fast a student of some shape writes, whatever its weights: tried, not counted."""

from __future__ import annotations

import statistics

from transformers import PreTrainedModel

from potstill.evaluation import speed
from potstill.students import Importance, Shape, prune


def times_as_fast(model: PreTrainedModel, shape: Shape) -> float:
    """How many times as many tokens a second it writes, here and now: the median of three turns with the model itself."""
    student, _ = prune(model, shape, Importance.unmeasured(model))
    turns = [(speed(model), speed(student)) for _ in range(3)]
    rates = [[one.decode_tokens_per_second or one.prefill_tokens_per_second for one in turn] for turn in turns]
    return statistics.median(student / teacher for teacher, student in rates)
