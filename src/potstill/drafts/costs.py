"""What a draft costs and saves: a token of the student, and several tokens at once of the teacher, timed on this machine.

    speed-up(k) = E[tokens a round] · v(1) / (k · d + v(k + 1))

d: a token of the student; v(n): n tokens at once of the teacher. The textbook has v(k + 1) = v(1), which holds where reading weights is all
the time; on a processor it does not, so it is measured.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import DynamicCache, PreTrainedModel

from potstill.drafts.acceptance import Expectation
from potstill.models import check_context
from potstill.models.asking import device_of, evaluating

_REPEATS = 9


@dataclass(frozen=True)
class Costs:
    """Seconds. `draft`: one token of the student; `verify[n - 1]`: n tokens at once of the teacher."""

    draft: float
    verify: tuple[float, ...]

    @property
    def ratio(self) -> float:
        """A token of the student against one of the teacher."""
        return self.draft / self.verify[0]


def measure_costs(teacher: PreTrainedModel, student: PreTrainedModel, *, longest: int, context: int = 64) -> Costs:
    """Medians of forward passes behind `context` cached tokens, or as many as fit, the two models in turns so that a slow moment hits both.

    What generation does besides (choosing tokens, keeping count) is not in it. ModelError where a model reads no more than is drafted.
    """
    for model in (teacher, student):
        check_context(model, longest + 2)
        limit = getattr(model.config, "max_position_embeddings", None)
        context = min(context, limit - longest - 1) if isinstance(limit, int) else context
    draft, verify = [], [[] for _ in range(longest + 1)]
    caches = [_read(model, context) for model in (teacher, student)]
    with evaluating(teacher), evaluating(student), torch.no_grad():
        for repeat in range(_REPEATS + 1):
            for count in range(1, longest + 2):
                seconds = _seconds(teacher, caches[0], count)
                verify[count - 1] += [seconds] if repeat else []
            for _ in range(longest):
                seconds = _seconds(student, caches[1], 1)
                draft += [seconds] if repeat else []
    return Costs(statistics.median(draft), tuple(statistics.median(some) for some in verify))


def speedup(expected: Expectation, costs: Costs) -> float:
    """How many times faster than the teacher alone."""
    round_ = expected.length * costs.draft + costs.verify[expected.length]
    return expected.mean_acceptance_length * costs.verify[0] / round_


def best_length(expected: Sequence[Expectation], costs: Costs) -> Expectation | None:
    """The one that saves most time; None where none saves any."""
    best = max(expected, key=lambda one: speedup(one, costs))
    return best if speedup(best, costs) > 1 else None


def _read(model: PreTrainedModel, context: int) -> DynamicCache:
    cache = DynamicCache(config=model.config)
    with evaluating(model), torch.no_grad():
        model(_tokens(model, context), past_key_values=cache, use_cache=True)
    return cache


def _seconds(model: PreTrainedModel, cache: DynamicCache, count: int) -> float:
    tokens = _tokens(model, count)
    began = time.perf_counter()
    model(tokens, past_key_values=cache, use_cache=True).logits[0, -1, 0].item()  # waits for the device
    seconds = time.perf_counter() - began
    cache.crop(-count)
    return seconds


def _tokens(model: PreTrainedModel, count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(count)
    return torch.randint(model.config.vocab_size, (1, count), generator=generator).to(device_of(model))
