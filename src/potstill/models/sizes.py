"""How big a model is."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedModel


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
