"""Fewer key-value heads: each the mean of those it stands for (grouped-query attention from multi-head; Ainslie et al. 2023)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from potstill.errors import ModelError
from potstill.students.configs import changed_config, copy_generation_config_
from potstill.students.probes import answers_apart, noisy, small, without_memory

_SETTING = "num_key_value_heads"
_TOLERANCE = 1e-4


@dataclass(frozen=True)
class _Heads:
    """Key-value heads in one weight: dimension `dim` ends in `chunks` parts (keys, values) of `heads` heads, `width` entries each."""

    parameter: str
    dim: int
    chunks: int
    heads: int
    width: int

    def merged(self, weight: Tensor, count: int) -> Tensor:
        """With `count` heads, each the mean of neighbours; what stands before them (queries) as it is."""
        there = weight.movedim(self.dim, 0)
        tail = self.chunks * self.heads * self.width
        rest, heads = there[: len(there) - tail], there[len(there) - tail :]
        grouped = heads.reshape(self.chunks, count, self.heads // count, self.width, *there.shape[1:])
        return torch.cat([rest, grouped.mean(2).flatten(0, 2)]).movedim(0, self.dim)


def merge_key_value_heads(teacher: PreTrainedModel, count: int) -> PreTrainedModel:
    """A model with `count` key-value heads; queries are untouched. A teacher whose merged heads are equal would say the same.

    Raises ModelError for a number that doesn't divide the teacher's, and for a family that can't say it.
    """
    config, kind = teacher.config, type(teacher)
    heads = key_value_heads(teacher)
    if not 0 < count <= heads or heads % count:
        raise ModelError(
            f"{heads} key-value heads can't become {count}: choose {', '.join(map(str, divisors_of(heads)))}"
        )
    if count == heads:
        return teacher
    lies = list(_places(teacher, count))
    _check_merges_rightly(teacher, count, {one.parameter: one for one in lies})
    here = {one.parameter: one for one in lies}
    made: Any = kind
    with torch.random.fork_rng(), torch.no_grad():
        merged = made._from_config(
            changed_config(config, range(config.num_hidden_layers), {_SETTING: count}), dtype=teacher.dtype
        )
        weights = merged.state_dict()
        for name, weight in teacher.state_dict().items():
            weights[name].copy_(here[name].merged(weight, count) if name in here else weight)
    copy_generation_config_(merged, teacher)
    merged.train(teacher.training)
    return merged.to(teacher.device)


def key_value_heads(model: PreTrainedModel) -> int:
    """How many there are."""
    return getattr(model.config, _SETTING, None) or model.config.num_attention_heads


def divisors_of(heads: int) -> list[int]:
    """What so many heads can become."""
    return [count for count in range(1, heads + 1) if heads % count == 0]


def _places(model: PreTrainedModel, count: int) -> Iterator[_Heads]:
    config, kind, heads = model.config, type(model), key_value_heads(model)
    if not hasattr(config, _SETTING):
        raise ModelError(f"{config.model_type} has no setting for the number of key-value heads: it can't have fewer")
    layers = range(config.num_hidden_layers)
    was = {name: weight.shape for name, weight in model.state_dict().items()}
    fewer = without_memory(kind, changed_config(config, layers, {_SETTING: count}))
    becomes = {name: weight.shape for name, weight in fewer.state_dict().items()}
    if was.keys() != becomes.keys() or was == becomes:
        raise ModelError(f"fewer key-value heads change no weight of {config.model_type}, or give it other parts")
    for name, shape in was.items():
        dims = [dim for dim, (one, other) in enumerate(zip(shape, becomes[name], strict=True)) if one != other]
        if not dims:
            continue
        gone = shape[dims[0]] - becomes[name][dims[0]]
        if len(dims) > 1 or gone <= 0 or gone % (heads - count):
            raise ModelError(
                f"fewer key-value heads of {config.model_type} change {name} in a way that isn't understood"
            )
        width = gone // (heads - count)
        # Keys and values in one weight, behind the queries, are twice as wide as either.
        chunks = 1 if shape[dims[0]] == heads * width else 2
        yield _Heads(name, dims[0], chunks, heads, width // chunks)


def _check_merges_rightly(model: PreTrainedModel, count: int, here: dict[str, _Heads]) -> None:
    """A small random model whose merged heads are equal must say the same with one of each."""
    config, kind = model.config, type(model)
    parent, child = noisy(kind, small(config, {})), noisy(kind, small(config, {_SETTING: count}))
    state, of_child = parent.state_dict(), child.state_dict()
    with torch.no_grad():
        for name, weight in state.items():
            if name not in here:
                of_child[name].copy_(weight)
                continue
            one = here[name]
            mean = one.merged(weight, count)
            of_child[name].copy_(mean)
            there, tail = weight.movedim(one.dim, 0), one.chunks * one.heads * one.width
            small_tail = mean.movedim(one.dim, 0)[len(there) - tail :].unflatten(0, (one.chunks, count, one.width))
            there[len(there) - tail :] = small_tail.repeat_interleave(one.heads // count, 1).flatten(0, 2)
    if (apart := answers_apart(parent, child)) > _TOLERANCE:
        raise ModelError(
            f"the key-value heads of {config.model_type} can't be merged: a model whose heads are equal doesn't answer as one with one of "
            f"each (they differ by {apart:.2g} of the answers' size)"
        )
