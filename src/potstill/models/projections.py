"""Which modules of a layer make queries, keys and values, and which of their channels belong to which head.

Names say which modules. How their channels are laid out is asked of the model: at the first token of a text rotary embeddings turn
nothing, so what is projected there is what the attention gets, but for a factor (or a norm, where the model has one).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from potstill.errors import ModelError
from potstill.models.asking import device_of, evaluating
from potstill.models.layers import layers_of
from potstill.models.overhearing import overhearing
from potstill.types import AttentionKey, AttentionPart

_PARTS: tuple[AttentionPart, ...] = ("queries", "keys", "values")
_SEPARATE = (
    ("q_proj", "k_proj", "v_proj"),
    ("query", "key", "value"),
    ("q_lin", "k_lin", "v_lin"),
    ("query_proj", "key_proj", "value_proj"),
)
_FUSED = ("qkv_proj", "c_attn", "query_key_value", "Wqkv", "qkv")
_PROBE_TOKENS = 6
# Special tokens, padding first of all, are often the first ones.
_LEAST_TOKEN = 4
_ALIKE = 0.999

# (class, configuration) -> what was found.
_FOUND: dict[tuple[type, str], Projections] = {}


@dataclass(frozen=True)
class Place:
    """Where queries, keys or values are: the module (a path inside the layer), its channels in order of heads, how many heads."""

    module: str
    channels: Int[Tensor, " channels"]
    heads: int
    of: int

    def of_output(self, output: Float[Tensor, "rows width _"]) -> Float[Tensor, "rows width heads channels"]:
        """The heads of what the module puts out."""
        if len(self.channels) != self.of:
            output = output[..., self.channels.to(output.device)]
        return output.unflatten(-1, (self.heads, -1))


@dataclass(frozen=True)
class Projections:
    """Where the queries, keys and values of each layer are made."""

    places: Mapping[AttentionPart, Place]

    @contextmanager
    def listening(
        self, layer: nn.Module, number: int, heard: dict[AttentionKey, Tensor], parts: set[AttentionPart]
    ) -> Iterator[None]:
        """Fills `heard` with these parts of the layer of this number, once the model has run."""
        with _outputs(layer, {self.places[part].module for part in parts}) as outputs:
            yield
        for part in parts:
            place = self.places[part]
            if place.module in outputs:
                if outputs[place.module].shape[-1] != place.of:
                    raise ModelError(
                        f"layer {number} projects to {outputs[place.module].shape[-1]} channels where layer 0 has {place.of}: "
                        "relations of layers of different shapes can't be compared; choose another layer"
                    )
                heard[part, number] = place.of_output(outputs[place.module])


def projections_of(model: PreTrainedModel) -> Projections:
    """Asked once of each kind of model. ModelError, with its class, where its projections can't be told apart."""
    key = (type(model), model.config.to_json_string())
    if key not in _FOUND:
        _FOUND[key] = _found(model)
    return _FOUND[key]


def _found(model: PreTrainedModel) -> Projections:
    layer = layers_of(model)[0]
    modules = _modules(model, layer)
    attended: dict[AttentionKey, Tensor] = {}
    device = device_of(model)
    tokens = torch.arange(_PROBE_TOKENS, device=device)[None] + _LEAST_TOKEN
    calm = torch.autocast(device.type, enabled=False)
    with evaluating(model), calm, _outputs(layer, set(modules)) as outputs, overhearing(model, {0}, attended):
        model(input_ids=tokens)
    if ("values", 0) not in attended:
        raise _refusal(model, "its attention doesn't go through transformers' interface")
    # Where the model has norms over queries and keys, only values say how the channels lie.
    has_norms = any("norm" in type(one).__name__.lower() for one in _parent(layer, modules[0]).modules())
    seen: dict[AttentionPart, AttentionPart] = {"queries": "asked", "keys": "offered", "values": "values"}
    wanted: dict[AttentionPart, Tensor] = {
        part: attended[key, 0][0] for part, key in seen.items()
    }  # [width, heads, channels]
    for places in _candidates(modules, outputs, wanted):
        found = {part: places[part].of_output(outputs[places[part].module])[0] for part in _PARTS}
        compared = ("values",) if has_norms else _PARTS
        if all(_is_alike(found[part], wanted[part]) for part in compared):
            return Projections(places)
    raise _refusal(
        model, f"what {' and '.join(modules)} put out is not what its attention gets, in any order of heads known here"
    )


def _candidates(
    modules: tuple[str, ...], outputs: Mapping[str, Tensor], wanted: Mapping[AttentionPart, Tensor]
) -> Iterator[dict[AttentionPart, Place]]:
    """Ways the channels may lie, the plainest first."""
    widths = {part: wanted[part].shape[-1] for part in _PARTS}
    if len(modules) == 3:
        sizes = [outputs[module].shape[-1] for module in modules]
        if not any(size % widths[part] for size, part in zip(sizes, _PARTS, strict=True)):
            yield {
                part: Place(module, torch.arange(size), size // widths[part], size)
                for part, module, size in zip(_PARTS, modules, sizes, strict=True)
            }
        return
    (module,) = modules
    size, heads = outputs[module].shape[-1], wanted["queries"].shape[1]
    pairs, rest = divmod(size - heads * widths["queries"], widths["keys"] + widths["values"])
    if rest or pairs < 1 or heads % pairs:
        return
    numbers = {"queries": heads, "keys": pairs, "values": pairs}
    everything = torch.arange(size)
    one_after_the_other = everything.split([numbers[part] * widths[part] for part in _PARTS])
    group = [numbers[part] // pairs * widths[part] for part in _PARTS]
    by_group = [part.flatten() for part in everything.reshape(pairs, -1).split(group, 1)]
    for laid in (one_after_the_other, by_group):
        yield {part: Place(module, channels, numbers[part], size) for part, channels in zip(_PARTS, laid, strict=True)}


def _is_alike(found: Float[Tensor, "width heads channels"], wanted: Float[Tensor, "width more channels"]) -> bool:
    """At the first token, in direction; some models hand on a head of keys once for each of its queries."""
    found, wanted = found[0].float(), wanted[0].float()
    if wanted.shape[0] % found.shape[0]:
        return False
    found = found.repeat_interleave(wanted.shape[0] // found.shape[0], 0)
    return bool((functional.cosine_similarity(found, wanted, dim=-1) > _ALIKE).all())


def _modules(model: PreTrainedModel, layer: nn.Module) -> tuple[str, ...]:
    """The paths of the three modules, or of the one that is all three."""
    names = {name for name, _ in layer.named_modules()}
    parents = {name.rpartition(".")[0] for name in names if name}
    found = [
        paths
        for parent in sorted(parents)
        for known in (*_SEPARATE, *((name,) for name in _FUSED))
        if names.issuperset(paths := tuple(f"{parent}.{name}".lstrip(".") for name in known))
    ]
    if len(found) != 1:
        raise _refusal(
            model, f"a layer has {len(found)} places with modules named like {', '.join(_SEPARATE[0])} or {_FUSED[0]}"
        )
    return found[0]


def _parent(layer: nn.Module, path: str) -> nn.Module:
    return layer.get_submodule(path.rpartition(".")[0])


def _refusal(model: PreTrainedModel, why: str) -> ModelError:
    return ModelError(
        f"the queries, keys and values of {type(model).__name__} can't be told apart: {why}. Compare hidden states (loss.hidden) instead"
    )


@contextmanager
def _outputs(layer: nn.Module, paths: set[str]) -> Iterator[dict[str, Tensor]]:
    """What modules of a layer put out; filled when the model runs. References alone: under activation checkpointing a layer is run
    again, without the hooks."""
    outputs: dict[str, Tensor] = {}
    handles = []
    for path in paths:

        def keep(_: nn.Module, _given: tuple, output: Tensor, path: str = path) -> None:
            outputs[path] = output

        handles.append(layer.get_submodule(path).register_forward_hook(keep))
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()
