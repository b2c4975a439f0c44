"""Where the axes of an architecture lie in its weights, found without knowing the architecture.

One setting of the configuration is changed, both models are built without memory, and their shapes are compared: the dimensions
that moved are the axis. Where a setting can't say what is wanted (a dimension would grow, or one weight would move in two),
the axis is refused. How an axis lies in fused weights (gate and up one after the other or in turn) the shapes don't say: small random
models say it, because a model with units put to zero must answer as the model without them.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from potstill.errors import ModelError
from potstill.students.configs import ConfigValue, changed_config
from potstill.students.probes import answers_apart, noisy, small, without_memory

AxisName = Literal["ffn", "heads", "hidden"]
AXES: tuple[AxisName, ...] = ("ffn", "heads", "hidden")
_FFN = ("intermediate_size", "ffn_dim", "n_inner", "hidden_dim", "ffn_hidden_size", "ffn_size")
_TOLERANCE = {"ffn": 1e-4, "heads": 1e-4, "hidden": 1e-3}


# (class, configuration, axis) -> what was found: looking takes seconds.
_FOUND: dict[tuple[type, str, str], Axis | ModelError] = {}


@dataclass(frozen=True)
class Slice:
    """An axis in one weight: dimension `dim` is `chunks` equal parts, in each of which index i has `units` entries from i · units on.

    Entries behind the last index (keys and values behind the queries) stay as they are.
    """

    parameter: str
    dim: int
    units: int
    chunks: int = 1

    def places(self, kept: Tensor, size: int, length: int) -> Tensor:
        """The entries that remain of this dimension, `length` long, where `kept` of `size` indices remain."""
        one = (kept[:, None] * self.units + torch.arange(self.units)).flatten()
        part = length // self.chunks
        rest = torch.arange(size * self.units, part)
        return torch.cat([torch.cat([one, rest]) + chunk * part for chunk in range(self.chunks)])


@dataclass(frozen=True)
class Axis:
    """What can be cut: `size` indices now, in groups of `group` that are cut alike (query heads of a key-value head).

    setting     of the configuration, and what else has to be said with it (`with_it`)
    slices      where it lies
    scaled      norms over this axis, whose mean square changes when it gets narrower: "weight" or "1 + weight" is what multiplies
    embeddings  the factor on embeddings follows the square root of the width
    """

    name: AxisName
    size: int
    group: int
    setting: str
    slices: tuple[Slice, ...]
    with_it: tuple[str, ...] = ()
    scaled: Literal["none", "weight", "1 + weight"] = "none"
    embeddings: bool = False

    def changes(self, config: PreTrainedConfig, size: int) -> dict[str, ConfigValue]:
        """The settings of a model with `size` indices."""
        pinned = _pinned_head_dim(config) if self.name != "ffn" else {}
        return {**pinned, self.setting: size, **dict.fromkeys(self.with_it, size)}


def axis_of(model: PreTrainedModel, name: AxisName) -> Axis:
    """Where an axis lies in this architecture; looked for once. ModelError where it can't be cut, and why."""
    key = (type(model), model.config.to_json_string(), name)
    if key not in _FOUND:
        try:
            _FOUND[key] = _found(model, name)
        except ModelError as error:
            _FOUND[key] = error
    found = _FOUND[key]
    if isinstance(found, ModelError):
        raise ModelError(str(found))
    return found


def _found(model: PreTrainedModel, name: AxisName) -> Axis:
    settings = settings_of(model.config, name)
    found = next(filter(None, (_by_shapes(type(model), model.config, name, setting) for setting in settings)), None)
    if found is None:
        raise ModelError(
            f"{' and '.join(settings)} of {model.config.model_type} changes no weight: its {name} can't be cut"
        )
    problems = []
    for candidate in _layouts(found):
        problem = _disagreement(type(model), model.config, candidate)
        if problem <= _TOLERANCE[name]:
            return candidate
        problems.append(problem)
    raise ModelError(
        f"{name} of {model.config.model_type} can't be cut: a model with units put to zero doesn't answer as one without them (they differ "
        f"by {min(problems):.2g} of the answers' size in the best of {len(problems)} layouts)"
    )


def settings_of(config: PreTrainedConfig, name: AxisName) -> list[str]:
    """What this family may call an axis. ModelError where it has no name for it."""
    if name == "ffn":
        known = {*config.to_dict(), *config.attribute_map}
        if not (found := [one for one in _FFN if one in known]):
            raise ModelError(f"{config.model_type} has no setting for the width of its feed-forward layers")
        return found
    return ["num_attention_heads"] if name == "heads" else ["hidden_size"]


def _pinned_head_dim(config: PreTrainedConfig) -> dict[str, ConfigValue]:
    """Heads stay as wide as they are: said outright, where a family would work it out from the hidden size."""
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return {"head_dim": width}


def _size_and_group(config: PreTrainedConfig, name: AxisName, setting: str) -> tuple[int, int, tuple[str, ...]]:
    """(indices now, indices in a group, settings that change together)."""
    size = getattr(config, setting)
    if name == "ffn":
        if size is None:  # GPT-2's way of saying four times the width
            size = 4 * config.hidden_size
        if not isinstance(size, int):
            raise ModelError(f"{config.model_type} has a {setting} of its own for each layer: {size}")
        return size, 1, ()
    if name == "hidden":
        return size, 1, ()
    of_keys = getattr(config, "num_key_value_heads", None) or size
    if of_keys == size:
        return size, 1, ("num_key_value_heads",) if hasattr(config, "num_key_value_heads") else ()
    if size // of_keys < 2 or size % of_keys:
        raise ModelError(f"{size} query heads are not whole groups of {of_keys} key-value heads")
    return size, size // of_keys, ()


def smaller(axis: Axis) -> int:
    """A size below the present one that keeps groups whole, for looking."""
    if axis.name == "heads":
        groups = axis.size // axis.group
        return groups * max(1, axis.group // 2) if axis.group > 1 else max(1, axis.size // 2)
    return axis.size // 2


def _by_shapes(kind: type[PreTrainedModel], config: PreTrainedConfig, name: AxisName, setting: str) -> Axis | None:
    """The axis as the shapes tell it; None where the setting changes none."""
    size, group, with_it = _size_and_group(config, name, setting)
    axis = Axis(name, size, group, setting, (), with_it)
    fewer = smaller(axis)
    if fewer == size:
        raise ModelError(f"{config.model_type} has {size} {name}: nothing can be cut")
    layers = range(config.num_hidden_layers)
    before = without_memory(kind, changed_config(config, layers, axis.changes(config, size)))
    after = without_memory(kind, changed_config(config, layers, axis.changes(config, fewer)))
    was = {one: weight.shape for one, weight in before.state_dict().items()}
    becomes = {one: weight.shape for one, weight in after.state_dict().items()}
    present = {one: weight.shape for one, weight in without_memory(kind, config).state_dict().items()}
    if was != present:
        raise ModelError(f"{config.model_type} can't say that heads keep their width (head_dim)")
    if was.keys() != becomes.keys():
        gone = min(was.keys() ^ becomes.keys())
        raise ModelError(f"with fewer {name} a {config.model_type} has other parts ({gone})")
    slices = tuple(
        one
        for parameter in was
        for one in _moved(config, name, parameter, was[parameter], becomes[parameter], size - fewer)
    )
    return replace(axis, slices=slices) if slices else None


def _moved(
    config: PreTrainedConfig, name: AxisName, parameter: str, was: torch.Size, becomes: torch.Size, fewer: int
) -> Iterator[Slice]:
    dims = [dim for dim, (one, other) in enumerate(zip(was, becomes, strict=True)) if one != other]
    if len(dims) > 1:
        raise ModelError(
            f"fewer {name} of {config.model_type} cut {parameter} in two dimensions ({list(was)} to {list(becomes)})"
        )
    for dim in dims:
        gone = was[dim] - becomes[dim]
        if gone < 0 or gone % fewer:
            raise ModelError(
                f"with fewer {name}, {parameter} of {config.model_type} becomes {list(becomes)} from {list(was)}: its settings can't say "
                "which are cut"
            )
        yield Slice(parameter, dim, gone // fewer)


def _layouts(axis: Axis) -> Iterator[Axis]:
    """The axis with every way its fused weights may be laid out, the plainest first."""
    least = min(one.units for one in axis.slices)
    for chunks in (1, 2, 3):
        slices = tuple(
            replace(one, units=one.units // chunks, chunks=chunks)
            if chunks > 1 and one.units > least and one.units % chunks == 0
            else one
            for one in axis.slices
        )
        if chunks > 1 and slices == axis.slices:
            continue
        laid = replace(axis, slices=slices)
        if axis.name != "hidden":
            yield laid
            continue
        for scaled, embeddings in itertools.product(("weight", "1 + weight", "none"), (False, True)):
            yield replace(laid, scaled=scaled, embeddings=embeddings)


def _disagreement(kind: type[PreTrainedModel], config: PreTrainedConfig, axis: Axis) -> float:
    """How far a small random model with units at zero is from the model without them, over the size of its answers."""
    parent, child_config = _probes(kind, config, axis)
    kept = _some_kept(axis)
    child = kind._from_config(child_config, dtype=torch.float32).eval()
    here = {one.parameter: one for one in axis.slices}
    state = parent.state_dict()
    cut = {
        name: sliced(weight, [(here[name], kept, axis.size)] if name in here else []) for name, weight in state.items()
    }
    rescale_(cut, parent, axis, len(kept))
    child.load_state_dict(cut)
    with torch.no_grad():
        for name, one in here.items():
            if name in state:
                mask = torch.zeros(state[name].shape[one.dim], dtype=torch.bool)
                mask[one.places(kept, axis.size, len(mask))] = True
                state[name].index_fill_(one.dim, (~mask).nonzero().flatten(), 0.0)
    return answers_apart(parent, child)


def _probes(
    kind: type[PreTrainedModel], config: PreTrainedConfig, axis: Axis
) -> tuple[PreTrainedModel, PreTrainedConfig]:
    """(a random model of few layers and tokens and the full width, the configuration of the narrower one)."""
    whole = small(config, axis.changes(config, axis.size))
    return noisy(kind, whole), small(config, axis.changes(config, len(_some_kept(axis))))


def _some_kept(axis: Axis) -> Tensor:
    """Indices that no simple rule picks, as many in each group."""
    draw = torch.Generator().manual_seed(1)
    groups = axis.size // axis.group
    if axis.group == 1:
        return torch.randperm(axis.size, generator=draw)[: smaller(axis)].sort().values
    of_group = smaller(axis) // groups
    rows = [torch.randperm(axis.group, generator=draw)[:of_group].sort().values + g * axis.group for g in range(groups)]
    return torch.cat(rows)


def sliced(weight: Tensor, cuts: list[tuple[Slice, Tensor, int]]) -> Tensor:
    """A weight with what is kept of each axis: (where it lies, indices kept, indices there are). A copy."""
    for one, kept, size in cuts:
        weight = weight.index_select(one.dim, one.places(kept, size, weight.shape[one.dim]).to(weight.device))
    return weight.clone() if not cuts else weight


def rescale_(state: Mapping[str, Tensor], model: PreTrainedModel, axis: Axis, width: int) -> None:
    """Norms over fewer channels see another mean square: their factors make up for it, as if the channels cut had been 0.

    `state` has the weights of the narrower model under the names of `model`.
    """
    ratio = (width / axis.size) ** 0.5
    if axis.scaled != "none":
        for name in norms_over(model, axis):
            is_made_up_for = axis.embeddings and is_last_norm(name) and model.config.tie_word_embeddings
            factor = 1.0 if is_made_up_for else 1 / ratio
            state[name].copy_(state[name] * factor if axis.scaled == "weight" else (1 + state[name]) * factor - 1)
    if axis.embeddings:
        embeddings: Any = model.get_input_embeddings()
        done = set()
        for name, tensor in model.state_dict().items():
            # The head too, where it is tied; each memory once.
            is_embedding = tensor.data_ptr() == embeddings.weight.data_ptr()
            if is_embedding and state[name].data_ptr() not in done:
                state[name].div_(ratio)
                done.add(state[name].data_ptr())


def norms_over(model: PreTrainedModel, axis: Axis) -> list[str]:
    """The weights of norms over an axis."""
    here = {one.parameter for one in axis.slices}
    names = []
    for path, module in model.named_modules():
        if "norm" in type(module).__name__.lower() and f"{path}.weight" in here:
            names.append(f"{path}.weight")
    return names


def layer_of(name: str) -> int | None:
    """The layer a weight or module belongs to."""
    found = re.search(r"\.(\d+)\.", name)
    return None if found is None else int(found[1])


def is_last_norm(name: str) -> bool:
    """Whether a norm stands outside all layers."""
    return layer_of(name) is None
