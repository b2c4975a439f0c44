"""Text that a model writes: many prompts at once, one token after another, with a cache of what was read.

What is drawn for a completion's token is a number given from outside, so that a completion depends on its prompt, its numbers and the
model, and not on what is written beside it (up to rounding).
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from potstill.models.asking import device_of, evaluating
from potstill.models.forward import head_of, takes_positions
from potstill.models.sampling import Sampling, cut, draw


@dataclass(frozen=True)
class Companion:
    """Another model that chooses along: each token comes from share · its distribution + (1 - share) · the writer's.

    With the teacher as companion: teacher-mixed sampling (Gu et al. 2023, arXiv:2306.08543, sec. 2.2).
    """

    model: PreTrainedModel
    share: float


def complete(
    model: PreTrainedModel,
    prompts: Sequence[NDArray[np.int64]],
    draws: NDArray[np.float32],
    *,
    sampling: Sampling,
    ends: Sequence[int],
    size: int,
    rows: int,
    companion: Companion | None = None,
) -> list[NDArray[np.int64]]:
    """What the model writes after each prompt: up to the first token of `ends`, that one included, or as many tokens as there are
    draws.

    draws  in [0, 1), one for each token that may be written [prompts, tokens]
    size   only the first so many tokens of the vocabulary may be written
    rows   prompts that are gone on from at once, those of similar length together
    """
    found: list[NDArray[np.int64]] = [np.zeros(0, np.int64)] * len(prompts)
    order = np.argsort([len(prompt) for prompt in prompts], kind="stable")
    writers = [model] if companion is None else [model, companion.model]
    with evaluating(model):
        for start in range(0, len(order), rows):
            some = order[start : start + rows]
            readers = [_Reader(writer, [prompts[one] for one in some], size) for writer in writers]
            share = 0.0 if companion is None else companion.share
            drawn = torch.from_numpy(draws[some]).to(device_of(model))
            for one, text in zip(some, _written(readers, share, drawn, sampling, ends), strict=True):
                found[one] = text
    return found


def ends_of(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """The tokens that end a text: those of the model's own settings (chat models have several), and the tokenizer's end of text."""
    config = model.generation_config
    of_model = None if config is None else config.eos_token_id
    listed = of_model if isinstance(of_model, list) else [of_model]
    return tuple(sorted({int(str(token)) for token in [tokenizer.eos_token_id, *listed] if token is not None}))


def held_in(model: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    """A copy of the model with its weights in this dtype, buffers as they are: casting once is faster than at every token."""
    cast = {id(weight): nn.Parameter(weight.detach().to(dtype), requires_grad=False) for weight in model.parameters()}
    return deepcopy(model, cast)


def _written(
    readers: Sequence[_Reader], share: float, draws: Tensor, sampling: Sampling, ends: Sequence[int]
) -> list[NDArray[np.int64]]:
    """Rows leave as soon as they have ended."""
    rows, most = draws.shape
    text = torch.full((rows, most), -1, dtype=torch.int64, device=draws.device)
    going_on = torch.arange(rows, device=draws.device)
    last = torch.tensor(list(ends), dtype=torch.int64, device=draws.device)
    for place in range(most):
        logits = [reader.logits.to(draws.device) for reader in readers]
        if sampling.temperature == 0:
            tokens = logits[0].argmax(-1)
        else:
            chances = [(one / sampling.temperature).softmax(-1) for one in logits]
            mixed = chances[0] if len(chances) == 1 else share * chances[1] + (1 - share) * chances[0]
            weights = cut(mixed, top_k=sampling.top_k, top_p=sampling.top_p)
            tokens = draw(weights, draws[going_on, place])
        text[going_on, place] = tokens
        left = (~torch.isin(tokens, last)).nonzero().squeeze(-1)
        if len(left) == 0 or place == most - 1:
            break
        if len(left) < len(tokens):
            going_on, tokens = going_on[left], tokens[left]
            for reader in readers:
                reader.keep(left)
        for reader in readers:
            reader.read(tokens)
    return [row[row >= 0] for row in text.cpu().numpy()]


class _Reader:
    """A model that has read some rows, and the logits of what comes next."""

    def __init__(self, model: PreTrainedModel, prompts: Sequence[NDArray[np.int64]], size: int) -> None:
        self.model, self.head = model, head_of(model).sliced_to(size)
        self._takes_positions = takes_positions(model)
        device = device_of(model)
        sizes = torch.tensor([len(prompt) for prompt in prompts], device=device)
        width = int(sizes.max())
        ids = np.zeros((len(prompts), width), dtype=np.int64)
        for row, prompt in enumerate(prompts):
            ids[row, width - len(prompt) :] = prompt
        # Padding stands on the left, so that all rows go on at the same place; without any there is nothing to mask.
        is_text = torch.arange(width, device=device) >= width - sizes[:, None]
        self._mask = None if bool(is_text.all()) else is_text.long()
        self._next = sizes
        self._cache: Any = None
        positions = (torch.arange(width, device=device) - (width - sizes[:, None])).clamp_min(0)
        self._forward(torch.from_numpy(ids).to(device), positions)

    def read(self, tokens: Int[Tensor, " rows"]) -> None:
        """One more token a row."""
        if self._mask is not None:
            self._mask = torch.cat([self._mask, self._mask.new_ones(len(tokens), 1)], 1)
        positions = self._next[:, None]
        self._next = self._next + 1
        self._forward(tokens[:, None].to(positions.device), positions)

    def keep(self, rows: Int[Tensor, " rows"]) -> None:
        """Forget all but these rows."""
        rows = rows.to(self._next.device)
        self._cache.batch_select_indices(rows)
        self._next = self._next[rows]
        self._mask = None if self._mask is None else self._mask[rows]

    def _forward(self, ids: Tensor, positions: Tensor) -> None:
        placed = {"position_ids": positions} if self._takes_positions else {}
        out = self.model.base_model(
            input_ids=ids, attention_mask=self._mask, past_key_values=self._cache, use_cache=True, **placed
        )
        self._cache = out.past_key_values
        self.logits = self.head.logits(out.last_hidden_state[:, -1])
