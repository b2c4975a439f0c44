"""One forward pass as hidden states and a head. Logits are made later, a chunk at a time, by whoever needs them."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from potstill.errors import ModelError
from potstill.types import Batch, Head, HiddenStates

# What a family calls the factor on its logits, and its exponent: Cohere multiplies, Granite divides, Falcon-H1 multiplies.
_SCALES = {"logit_scale": 1, "logits_scaling": -1, "lm_head_multiplier": 1}
# What a family calls the bound of its logits: Gemma 2 and its kin; RecurrentGemma.
_SOFTCAPS = ("final_logit_softcapping", "logits_soft_cap")


def hidden_states(model: PreTrainedModel, batch: Batch, *, size: int | None = None) -> HiddenStates:
    """The last hidden state [predictions, width] at each counted prediction, in reading order, and the head for it.

    The rows have the dtype the final norm gives (under autocast some families give fp32, some bf16) and carry the
    gradient. No attention mask is passed: contexts are kept apart by their positions, which start again at 0, and padding
    stands last or in a context of its own. With `size`, only the first so many tokens get a probability.
    """
    positions = {"position_ids": batch.positions} if _takes_positions(model) else {}
    states = model.base_model(input_ids=batch.inputs, use_cache=False, **positions).last_hidden_state
    head = head_of(model)
    return HiddenStates(states[batch.counted], head if size is None else head.sliced_to(size))


def head_of(model: PreTrainedModel) -> Head:
    """How the model turns its last hidden state into logits. The weight is the model's own, tied or not, not a copy.

    Raises ModelError where the model has no linear head. That the factors are right is for `check_head` to find out.
    """
    layer = model.get_output_embeddings()
    if not isinstance(layer, nn.Linear):
        raise ModelError(
            f"{type(model).__name__} has no linear head over a vocabulary (found {type(layer).__name__}): "
            "use a causal language model with unquantised weights"
        )
    return Head(layer.weight, layer.bias, scale=_scale(model.config), softcap=_softcap(model.config))


def _scale(config: PreTrainedConfig) -> float:
    scale = 1.0
    for name, exponent in _SCALES.items():
        factor = getattr(config, name, None)
        if isinstance(factor, int | float):
            scale *= float(factor) ** exponent
    return scale


def _softcap(config: PreTrainedConfig) -> float | None:
    caps = [getattr(config, name, None) for name in _SOFTCAPS]
    return next((float(cap) for cap in caps if cap is not None), None)


def _takes_positions(model: PreTrainedModel) -> bool:
    # ALiBi and state-space families know order from elsewhere. They can't be packed, and check_packing says so.
    return "position_ids" in inspect.signature(model.base_model.forward).parameters


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
