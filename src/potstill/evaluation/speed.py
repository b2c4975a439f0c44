"""How fast a model reads and writes, on this machine, now."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from potstill.models import task_of
from potstill.models.asking import device_of, evaluating, whole_rows_at_heads

_REPEATS = 5


@dataclass(frozen=True)
class Speed:
    """Medians over repeats. Prefill: tokens read at once; decode: tokens written one after another, with the cache; None for a model that
    doesn't write."""

    prefill_tokens_per_second: float
    decode_tokens_per_second: float | None


def speed(model: PreTrainedModel, *, prompt_tokens: int = 128, new_tokens: int = 32, rows: int = 1) -> Speed:
    """Time a prompt's forward pass and greedy steps after it, five times after a warm-up, in the model's own dtype.

    `rows` prompts go side by side, and all their tokens count. The first new token comes out of the prefill and counts there.
    A model whose context is shorter reads and writes less, in the same proportion.
    """
    writes = task_of(model) == "causal"
    prompt_tokens, new_tokens = _fitting(model, prompt_tokens, new_tokens if writes else 0)
    generator = torch.Generator().manual_seed(0)
    prompt = torch.randint(model.config.vocab_size, (rows, prompt_tokens), generator=generator).to(device_of(model))
    if not writes:
        return Speed(rows * prompt_tokens / _seconds_to_read(model, prompt), None)
    read, written = [], []
    with evaluating(model), whole_rows_at_heads(model):
        for _ in range(_REPEATS + 1):
            started = time.perf_counter()
            out = model(prompt, use_cache=True, logits_to_keep=1)
            token = out.logits[:, -1:].argmax(-1)
            token.cpu()  # waits for the device
            middle = time.perf_counter()
            cache = out.past_key_values
            for _ in range(new_tokens):
                token = model(token, past_key_values=cache, use_cache=True).logits[:, -1:].argmax(-1)
            token.cpu()
            read.append(middle - started)
            written.append(time.perf_counter() - middle)
    return Speed(
        prefill_tokens_per_second=rows * prompt_tokens / statistics.median(read[1:]),
        decode_tokens_per_second=rows * new_tokens / statistics.median(written[1:]),
    )


def _seconds_to_read(model: PreTrainedModel, prompt: Tensor) -> float:
    """The median, after a warm-up."""
    seconds = []
    with evaluating(model):
        for _ in range(_REPEATS + 1):
            started = time.perf_counter()
            model(prompt).logits.flatten()[0].cpu()  # waits for the device
            seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[1:])


def _fitting(model: PreTrainedModel, prompt_tokens: int, new_tokens: int) -> tuple[int, int]:
    context = getattr(model.config, "max_position_embeddings", None)
    if not isinstance(context, int) or prompt_tokens + new_tokens <= context:
        return prompt_tokens, new_tokens
    shorter = max(1, prompt_tokens * context // (prompt_tokens + new_tokens))
    return shorter, max(1, context - shorter) if new_tokens else 0
