"""What a model's attention multiplies, taken where transformers hands it to the attention function of the model's choice."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from potstill.models.layers import layers_of
from potstill.types import AttentionKey


@contextmanager
def overhearing(model: PreTrainedModel, layers: set[int], heard: dict[AttentionKey, Tensor]) -> Iterator[None]:
    """Fills `heard` with "asked", "offered" and "values" of these layers [rows, width, heads, channels] when the model runs.

    The one interface of all models is wrapped meanwhile; models other than this one pass through it as ever. A model that doesn't use
    it leaves `heard` as it is.
    """
    numbers = {id(module): number for number in layers for module in layers_of(model)[number].modules()}
    choose = ALL_ATTENTION_FUNCTIONS.get_interface

    def choose_and_listen(name: str, default: Callable) -> Callable:
        attend = choose(name, default)

        def listen(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *others: Any, **named: Any) -> Any:
            if (number := numbers.get(id(module))) is not None:
                scaling = named.get("scaling")
                factor = query.shape[-1] ** -0.5 if scaling is None else scaling
                heard["asked", number] = query.transpose(1, 2) * factor
                heard["offered", number], heard["values", number] = key.transpose(1, 2), value.transpose(1, 2)
            return attend(module, query, key, value, *others, **named)

        return listen

    ALL_ATTENTION_FUNCTIONS.get_interface = choose_and_listen  # type: ignore[method-assign]
    try:
        yield
    finally:
        del ALL_ATTENTION_FUNCTIONS.get_interface
