"""How big a model is."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedModel

from potstill.errors import ModelError


@dataclass(frozen=True)
class Size:
    """Parameters, each counted once however often it is used, and the bytes they take in their dtype.

    total          all parameters
    non_embedding  without tokens' and positions' embeddings and the head: what does the computing
    bytes          of the weights as they stand in memory
    """

    total: int
    non_embedding: int
    bytes: int


def check_context(model: PreTrainedModel, length: int) -> None:
    """ModelError where texts of so many tokens are longer than what the model was made for."""
    longest = getattr(model.config, "max_position_embeddings", None)
    if isinstance(longest, int) and length > longest:
        raise ModelError(
            f"a length of {length} is longer than the context of {type(model).__name__} ({longest} tokens): set it to {longest} or less"
        )


def size_of(model: PreTrainedModel) -> Size:
    """Counts a model's parameters, on any device, the meta device too."""
    embeddings = [module for module in model.modules() if isinstance(module, nn.Embedding)]
    lookups = {id(parameter) for module in embeddings for parameter in module.parameters()}
    head = model.get_output_embeddings()
    if head is not None:
        lookups |= {id(parameter) for parameter in head.parameters()}
    parameters = list(model.parameters())
    return Size(
        total=sum(parameter.numel() for parameter in parameters),
        non_embedding=sum(parameter.numel() for parameter in parameters if id(parameter) not in lookups),
        bytes=sum(parameter.numel() * parameter.element_size() for parameter in parameters),
    )
