"""What comes along with a forward pass: what layers put out, what goes into the first one, what their attention works with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from potstill.errors import ModelError
from potstill.models.layers import layers_of
from potstill.models.overhearing import overhearing
from potstill.models.projections import projections_of
from potstill.types import EMBEDDINGS, AttentionKey, AttentionPart


@contextmanager
def listening_to_layers(model: PreTrainedModel, layers: Sequence[int]) -> Iterator[dict[int, Tensor]]:
    """What layers put out [rows, width, channels], by number, the last one's behind the final norm; -1: what goes into the first.

    Filled when the model runs.
    """
    heard: dict[int, Tensor] = {}
    handles = []
    modules = layers_of(model) if layers else []
    for number in layers:
        if number == EMBEDDINGS:

            def keep_given(_: nn.Module, given: tuple, named: dict) -> None:
                heard[EMBEDDINGS] = given[0] if given else named["hidden_states"]

            handles.append(modules[0].register_forward_pre_hook(keep_given, with_kwargs=True))
            continue
        is_last = number == len(modules) - 1

        def keep(_: nn.Module, _given: tuple, output: Any, number: int = number) -> None:
            heard[number] = output if isinstance(output, Tensor) else output[0]

        handles.append((model.base_model if is_last else modules[number]).register_forward_hook(keep))
    try:
        yield heard
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def listening_to_attention(
    model: PreTrainedModel, wanted: Sequence[AttentionKey]
) -> Iterator[dict[AttentionKey, Tensor]]:
    """What the attention of layers works with [rows, width, heads, channels]; there once the block is left.

    ModelError where the model's projections can't be told apart, or its attention can't be overheard.
    """
    heard: dict[AttentionKey, Tensor] = {}
    multiplied = {layer for part, layer in wanted if part in ("asked", "offered")}
    with ExitStack() as stack:
        for number in {layer for _, layer in wanted}:
            parts: set[AttentionPart] = {
                part for part, at in wanted if at == number and part not in ("asked", "offered")
            }
            if parts:
                layer = layers_of(model)[number]
                stack.enter_context(projections_of(model).listening(layer, number, heard, parts))
        if multiplied:
            stack.enter_context(overhearing(model, multiplied, heard))
        yield heard
    if missing := [key for key in wanted if key not in heard]:
        part, layer = missing[0]
        raise ModelError(
            f"the {part} of layer {layer} of {type(model).__name__} can't be overheard: its attention doesn't go through transformers' "
            "interface. Compare hidden states (loss.hidden) instead"
        )
