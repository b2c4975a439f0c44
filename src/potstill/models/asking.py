"""How a model is asked something and left as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from transformers import PreTrainedModel


def device_of(model: nn.Module) -> torch.device:
    """Where the model's first parameter lives, which is where its inputs belong."""
    return next(model.parameters()).device


@contextmanager
def evaluating(model: PreTrainedModel) -> Iterator[None]:
    """No dropout and no gradient; afterwards every module is in the mode it was in."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, was_training in modes:
            module.training = was_training


@contextmanager
def whole_rows_at_heads(*models: PreTrainedModel) -> Iterator[None]:
    """Inside, what a head reads has the strides of whole rows, as if it were not cut from a longer text.

    transformers' `generate` gives heads the last places of what was read. On a processor torch multiplies such a slice many times as
    slowly as its copy: 25 times for one row of SmolLM2 in bfloat16, 600 times for 64 rows (13 in float32).
    """
    heads = [model.get_output_embeddings() for model in models]
    hooks = [head.register_forward_pre_hook(_as_rows) for head in heads if head is not None]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _as_rows(_: nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    states, *others = args
    # Not contiguous(): a slice with one row says that it is, with the strides that are slow.
    return (states.new_empty(states.shape).copy_(states), *others)
