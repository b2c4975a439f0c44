"""A student that is its teacher with fewer layers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from potstill.errors import ModelError
from potstill.models.layers import layers_path
from potstill.students.configs import changed_config, copy_generation_config_
from potstill.types import Lineage

# What a layer may know of its own place without behaving otherwise for it: which slot of the cache is its own.
_PLACE = {"layer_idx", "layer_id"}
# Ways of transformers to remember that weights were drawn.
_BOOKKEEPING = {"training", "_is_hf_initialized"}


def copy_layers(teacher: PreTrainedModel, layers: Sequence[int]) -> tuple[PreTrainedModel, Lineage]:
    """A student with copies of these teacher layers, in this order, and of everything that is not a layer.

    It is built from its own configuration, has the teacher's dtype and device, and shares no memory with it. Raises
    ModelError for layers the teacher hasn't got, and where a layer in its new place would not be what it was (a family
    whose layers depend on their index in a way its configuration can't express).
    """
    path = layers_path(teacher)
    num_layers = teacher.config.num_hidden_layers
    if not layers or not all(0 <= layer < num_layers for layer in layers):
        raise ModelError(f"the teacher has layers 0 to {num_layers - 1}, found {list(layers)}: choose among these")
    config = changed_config(teacher.config, layers, {})
    with torch.random.fork_rng():  # the weights drawn here are overwritten: nobody's random numbers may depend on them
        kind: Any = type(teacher)
        student = kind._from_config(config, dtype=teacher.dtype)
    check_same_parts(teacher, student, path, layers)
    student.load_state_dict(dict(_copied_weights(teacher, path, layers)))
    copy_generation_config_(student, teacher)
    student.train(teacher.training)
    return student.to(teacher.device), Lineage(tuple(layers), source=teacher.name_or_path or type(teacher).__name__)


def _copied_weights(teacher: PreTrainedModel, path: str, layers: Sequence[int]) -> Iterator[tuple[str, Tensor]]:
    in_layer = re.compile(rf"{re.escape(path)}\.(\d+)\.(.*)")
    for name, weight in teacher.state_dict().items():
        if (match := in_layer.fullmatch(name)) is None:
            yield name, weight
            continue
        for place, layer in enumerate(layers):
            if layer == int(match[1]):
                yield f"{path}.{place}.{match[2]}", weight


def check_same_parts(teacher: PreTrainedModel, student: PreTrainedModel, path: str, layers: Sequence[int]) -> None:
    """Each student layer, as its own configuration built it, has the parts and the settings of the layer it copies."""
    for place, layer in enumerate(layers):
        was = _description(teacher.get_submodule(f"{path}.{layer}"))
        becomes = _description(student.get_submodule(f"{path}.{place}"))
        if was != becomes:
            name = min(name for name in was.keys() | becomes.keys() if was.get(name) != becomes.get(name))
            raise ModelError(
                f"layer {layer} of {type(teacher).__name__} can't become layer {place}: {name} was {was.get(name)} and "
                f"would be {becomes.get(name)}; choose layers that keep the family's pattern"
            )


def _description(layer: nn.Module) -> dict[str, str]:
    described: dict[str, str] = {}
    for name, module in layer.named_modules():
        described[f"{name} (kind)"] = type(module).__name__
        for key, tensor in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)):
            described[f"{name}.{key}"] = str(list(tensor.shape))
        for key, value in vars(module).items():
            if isinstance(value, bool | int | float | str | None) and key not in _PLACE | _BOOKKEEPING:
                described[f"{name}.{key}"] = repr(value)
    return described
