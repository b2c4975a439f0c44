"""What of a model costs something: counts, from its configuration alone."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from potstill.models import head_of, layers_of, size_of
from potstill.students.shapes import cached_values

# What families call the number of experts, and of those that one token goes through.
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")
_CHOSEN = "num_experts_per_tok"


@dataclass(frozen=True)
class ModelShape:
    """A model without weights.

    parameters  all of them, each once
    active      of those that are neither embeddings nor head, how many one token is multiplied with: all, but for a mixture of experts
    head        weights of the head, a tied one's too
    vocabulary  tokens it gives a probability
    width       of a hidden state
    ffn         neurons of a feed-forward layer that one token goes through
    layers      how many
    attention   width of a layer's queries, all heads together
    cache       numbers kept of one token, for writing on
    largest     weights of the largest layer
    inside      weights of all layers together
    """

    parameters: int
    active: int
    head: int
    vocabulary: int
    width: int
    ffn: int
    layers: int
    attention: int
    cache: int
    largest: int
    inside: int

    @property
    def outside(self) -> int:
        """Weights of no layer: embeddings, head, the last norm."""
        return self.parameters - self.inside

    @property
    def is_mixture(self) -> bool:
        """Whether a token is not multiplied with all of a layer: a mixture of experts."""
        return self.active < self.inside


def shape_of(model: PreTrainedModel) -> ModelShape:
    """Counts a model, on any device, the meta device too. ModelError where it has no linear head or no list of layers."""
    config, head = model.config, head_of(model)
    experts = _weights_of_experts(model)
    share = _share_of_experts(config)
    heads = config.num_attention_heads
    ffn = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
    if experts:
        ffn = (getattr(config, "moe_intermediate_size", None) or ffn) * getattr(config, _CHOSEN, 1)
    layers = [sum(weight.numel() for weight in layer.parameters()) for layer in layers_of(model)]
    return ModelShape(
        parameters=size_of(model).total,
        active=size_of(model).non_embedding - experts + round(share * experts),
        head=head.weight.numel(),
        vocabulary=head.num_tokens,
        width=config.hidden_size,
        ffn=int(ffn),
        layers=len(layers),
        attention=heads * (getattr(config, "head_dim", None) or config.hidden_size // heads),
        cache=cached_values(model),
        largest=max(layers),
        inside=sum(layers),
    )


def _weights_of_experts(model: nn.Module) -> int:
    """Of routed experts; those that all tokens go through have other names."""
    return sum(weight.numel() for name, weight in model.named_parameters() if ".experts." in f".{name}.")


def _share_of_experts(config: PreTrainedConfig) -> float:
    experts = next((count for name in _EXPERTS if (count := getattr(config, name, None))), None)
    return 1.0 if experts is None else getattr(config, _CHOSEN, experts) / experts
