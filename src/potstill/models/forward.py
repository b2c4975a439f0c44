"""One forward pass as hidden states and a head. Logits are made later, a chunk at a time, by whoever needs them."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from potstill.models.listening import listening_to_attention, listening_to_layers
from potstill.models.tasks import head_layer, task_of
from potstill.types import AttentionKey, Batch, Head, HiddenStates

# What a family calls the factor on its logits, and its exponent: Cohere multiplies, Granite divides, Falcon-H1 multiplies.
_SCALES = {"logit_scale": 1, "logits_scaling": -1, "lm_head_multiplier": 1}
# What a family calls the bound of its logits: Gemma 2 and its kin; RecurrentGemma.
_SOFTCAPS = ("final_logit_softcapping", "logits_soft_cap")


def hidden_states(
    model: PreTrainedModel,
    batch: Batch,
    *,
    size: int | None = None,
    layers: Sequence[int] = (),
    attention: Sequence[AttentionKey] = (),
) -> HiddenStates:
    """What the head makes logits of [predictions, width] at each counted prediction, in reading order, and the head for it.

    The rows have the dtype the final norm gives (under autocast some families give fp32, some bf16) and carry the
    gradient. A causal model gets no attention mask: contexts are kept apart by their positions, which start again at 0, and padding
    stands last or in a context of its own. An encoder gets one, over what is not padding. A classifier's prediction is one a text,
    counted at its last token. With `size`, only the first so many tokens get a probability.

    `layers`: what these layers put out comes along, at every position that is not padding; of the last layer it is what the model
    itself calls its last hidden state, behind the final norm; -1 is what goes into the first layer.
    `attention`: what the attention of layers works with comes along likewise.
    """
    head = head_of(model)
    if size is not None:
        head = head.sliced_to(size)
    with listening_to_layers(model, layers) as heard, listening_to_attention(model, attention) as attended:
        rows = _rows(model, batch)
    is_text = batch.documents >= 0
    return HiddenStates(
        rows,
        head,
        {layer: states[is_text] for layer, states in heard.items()},
        {key: attended[key][is_text] for key in attention},
    )


def _rows(model: PreTrainedModel, batch: Batch) -> Tensor:
    task = task_of(model)
    if task == "causal":
        positions = {"position_ids": batch.positions} if takes_positions(model) else {}
        states = model.base_model(input_ids=batch.inputs, use_cache=False, **positions).last_hidden_state
        return states[batch.counted]
    mask = (batch.documents >= 0).long()
    layer = head_layer(model)
    if task == "classes" and layer is getattr(
        model, "score", None
    ):  # a decoder's: it looks up the last token by itself
        states = model.base_model(input_ids=batch.inputs, attention_mask=mask, use_cache=False).last_hidden_state
        return states[batch.counted]
    with _instead_of_logits(layer) as taken:
        model(input_ids=batch.inputs, attention_mask=mask)
    (states,) = taken
    return states[batch.counted if states.ndim == 3 else batch.counted.any(1)]


@contextmanager
def _instead_of_logits(layer: nn.Linear) -> Iterator[list[Tensor]]:
    """What reaches the head, which itself gets nothing to do: logits are made later, where they are needed."""
    taken: list[Tensor] = []

    def take(_: nn.Module, arguments: tuple[Tensor]) -> tuple[Tensor]:
        taken.append(arguments[0])
        return (arguments[0].flatten(0, -2)[:0],)

    handle = layer.register_forward_pre_hook(take)
    try:
        yield taken
    finally:
        handle.remove()


def head_of(model: PreTrainedModel) -> Head:
    """How the model turns what reaches its head into logits. The weight is the model's own, tied or not, not a copy.

    Raises ModelError where the model has no linear head. That the factors are right is for `check_head` to find out.
    """
    layer = head_layer(model)
    if task_of(model) == "classes":
        return Head(layer.weight, layer.bias)
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


def takes_positions(model: PreTrainedModel) -> bool:
    """Whether it is told where a token stands. ALiBi and state-space families know order from elsewhere; they can't be packed, and
    check_packing says so."""
    return "position_ids" in inspect.signature(model.base_model.forward).parameters
