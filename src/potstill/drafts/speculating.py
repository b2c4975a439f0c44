"""transformers' assisted generation, counted round by round, beside the teacher alone."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import GenerationConfig, PreTrainedModel
from transformers.generation.streamers import BaseStreamer

from potstill.drafts.rounds import Rounds
from potstill.models.asking import device_of, evaluating, whole_rows_at_heads


@dataclass(frozen=True)
class Timed:
    """What was written after a prompt, the seconds it took, and its rounds (none where nobody drafted)."""

    written: NDArray[np.int64]
    seconds: float
    rounds: Rounds = field(default_factory=lambda: Rounds(()))


class _Counting(BaseStreamer):
    """Tokens come to a streamer in the portions in which they are decided: the prompt first, then what each round gives."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def put(self, value: torch.Tensor) -> None:
        """A portion."""
        self.sizes.append(value.numel())

    def end(self) -> None:
        """Nothing is left to be done."""


def plainly(
    teacher: PreTrainedModel,
    prompt: NDArray[np.int64],
    *,
    temperature: float,
    new_tokens: int,
    ends: Sequence[int],
    seed: int = 0,
) -> Timed:
    """The teacher alone, one token after another."""
    with _going_by(teacher, GenerationConfig()):
        return _generate(teacher, prompt, _config(temperature, new_tokens, ends), seed)


def speculate(
    teacher: PreTrainedModel,
    student: PreTrainedModel,
    prompt: NDArray[np.int64],
    *,
    length: int,
    temperature: float,
    new_tokens: int,
    ends: Sequence[int],
    seed: int = 0,
) -> Timed:
    """The same with the student writing `length` tokens ahead: greedily the same text, else text of the same distribution."""
    counting = _Counting()
    # Exactly `length` tokens a round: neither more after a success, nor fewer where the student is unsure.
    drafting = GenerationConfig(
        num_assistant_tokens=length, num_assistant_tokens_schedule="constant", assistant_confidence_threshold=0.0
    )
    with _going_by(teacher, GenerationConfig()), _going_by(student, drafting), evaluating(student):
        found = _generate(
            teacher, prompt, _config(temperature, new_tokens, ends), seed, assistant_model=student, streamer=counting
        )
    each, done = [], 0
    for size in counting.sizes[1:]:
        # Where an end closes the text, no more of a draft is looked at.
        each.append((min(length, len(found.written) - done - 1), size - 1))
        done += size
    return Timed(found.written, found.seconds, Rounds(tuple(each)))


def _config(temperature: float, new_tokens: int, ends: Sequence[int]) -> GenerationConfig:
    ways = {"do_sample": False} if temperature == 0 else {"do_sample": True, "temperature": temperature, "top_k": 0}
    if not ends:
        return GenerationConfig(max_new_tokens=new_tokens, pad_token_id=0, **ways)
    return GenerationConfig(max_new_tokens=new_tokens, eos_token_id=list(ends), pad_token_id=ends[0], **ways)


def _generate(
    teacher: PreTrainedModel, prompt: NDArray[np.int64], config: GenerationConfig, seed: int, **more: object
) -> Timed:
    ids = torch.from_numpy(prompt[None]).to(device_of(teacher))
    helpers = [one for one in more.values() if isinstance(one, PreTrainedModel)]
    torch.manual_seed(seed)
    with evaluating(teacher), torch.no_grad(), whole_rows_at_heads(teacher, *helpers):
        began = time.perf_counter()
        out = teacher.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config, **more)  # type: ignore[operator]
        seconds = time.perf_counter() - began
    return Timed(out[0, len(prompt) :].cpu().numpy(), seconds)


@contextmanager
def _going_by(model: PreTrainedModel, config: GenerationConfig) -> Iterator[None]:
    """Inside, the model's own settings (penalties, nucleus, ...), which `generate` takes where none are given, are these."""
    before = model.generation_config
    model.generation_config = config
    try:
        yield
    finally:
        model.generation_config = before
