"""A student that is its teacher with less of everything: fewer layers, neurons, heads, channels (Minitron)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor
from transformers import PreTrainedModel

from potstill.errors import ModelError
from potstill.models.layers import layers_path
from potstill.students.anatomy import Axis, AxisName, axis_of, layer_of, rescale_, sliced
from potstill.students.configs import changed_config, copy_generation_config_
from potstill.students.copy_layers import check_same_parts
from potstill.students.importance import Importance
from potstill.students.merging import merge_key_value_heads
from potstill.students.probes import without_memory
from potstill.types import Lineage


@dataclass(frozen=True)
class Shape:
    """What a student has: `layers` are the teacher's, in order; None = as many as the teacher. `heads` are query heads."""

    layers: tuple[int, ...] | None = None
    ffn: int | None = None
    heads: int | None = None
    hidden: int | None = None
    kv_heads: int | None = None


def prune(teacher: PreTrainedModel, shape: Shape, importance: Importance) -> tuple[PreTrainedModel, Lineage]:
    """A student of this shape with the teacher's most important parts; the teacher is not changed.

    It is built from its own configuration, so plain `from_pretrained` reloads it, and has the teacher's dtype and device. With the
    parts cut at zero, the teacher would say the same. Raises ModelError for a shape that this architecture can't have, and says why.
    """
    source = teacher.name_or_path or type(teacher).__name__
    if shape.kv_heads is not None:
        teacher = merge_key_value_heads(teacher, shape.kv_heads)
    layers = shape.layers if shape.layers is not None else tuple(range(teacher.config.num_hidden_layers))
    path = layers_path(teacher)
    if not layers or not all(0 <= layer < teacher.config.num_hidden_layers for layer in layers):
        raise ModelError(
            f"the teacher has layers 0 to {teacher.config.num_hidden_layers - 1}, found {list(layers)}: choose among these"
        )
    # At the full width: what a layer has and how it is set must not change with its place, whatever is cut besides.
    moved = without_memory(type(teacher), changed_config(teacher.config, layers, {}))
    check_same_parts(teacher, moved, path, layers)
    axes = {axis.name: (axis, size) for axis, size in _wanted(teacher, shape)}
    changes = {
        name: value for axis, size in axes.values() for name, value in axis.changes(teacher.config, size).items()
    }
    try:
        config = changed_config(teacher.config, layers, changes)
        kind: Any = type(teacher)
        with torch.random.fork_rng():  # the weights drawn here are overwritten
            student = kind._from_config(config, dtype=teacher.dtype)
    except (ValueError, TypeError, KeyError, RuntimeError, ArithmeticError, StrictDataclassError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ModelError(f"no {teacher.config.model_type} can be made with {changes}: {reason}") from error
    kept = {name: _kept(axis, size, importance) for name, (axis, size) in axes.items()}
    _fill_(student, teacher, path, layers, {name: axis for name, (axis, _) in axes.items()}, kept)
    if "hidden" in axes:
        rescale_(student.state_dict(), student, *axes["hidden"])
    copy_generation_config_(student, teacher)
    student.train(teacher.training)
    return student.to(teacher.device), Lineage(tuple(layers), source)


def _wanted(teacher: PreTrainedModel, shape: Shape) -> list[tuple[Axis, int]]:
    """The axes that get smaller, and how small."""
    sizes: dict[AxisName, int | None] = {"ffn": shape.ffn, "heads": shape.heads, "hidden": shape.hidden}
    wanted = []
    for name, size in sizes.items():
        if size is None:
            continue
        axis = axis_of(teacher, name)
        groups = axis.size // axis.group
        if not 0 < size <= axis.size or (axis.group > 1 and size % groups):
            whole = f", a multiple of its {groups} key-value heads" if axis.group > 1 else ""
            raise ModelError(f"{name} = {size} can't be had of {axis.size}: choose 1 to {axis.size}{whole}")
        if size < axis.size:
            wanted.append((axis, size))
    return wanted


def _kept(axis: Axis, size: int, importance: Importance) -> Tensor:
    """Indices kept, ascending: [layers, size], or [size] of the channels, which all layers share."""
    scores = torch.from_numpy(np.array(getattr(importance, axis.name)))
    if not importance.sequences[0]:
        scores = -torch.arange(axis.size, dtype=torch.float64)
    if scores.shape[-1:] != (axis.size,):
        raise ModelError(
            f"the importance scores are of another model: {list(scores.shape)} for {axis.size} {axis.name}"
        )
    if axis.group == 1:
        return scores.topk(size, -1).indices.sort(-1).values
    groups = axis.size // axis.group
    within = scores.unflatten(-1, (groups, axis.group)).topk(size // groups, -1).indices.sort(-1).values
    return (within + torch.arange(groups)[:, None] * axis.group).flatten(-2)


def _fill_(
    student: PreTrainedModel,
    teacher: PreTrainedModel,
    path: str,
    layers: Sequence[int],
    axes: Mapping[str, Axis],
    kept: Mapping[str, Tensor],
) -> None:
    """Copy what is kept, one weight at a time."""
    lies = {name: {one.parameter: one for one in axis.slices} for name, axis in axes.items()}
    in_layer, from_teacher = re.compile(rf"{re.escape(path)}\.(\d+)\.(.*)"), teacher.state_dict()
    with torch.no_grad():
        for name, weight in student.state_dict().items():
            match = in_layer.fullmatch(name)
            source = name if match is None else f"{path}.{layers[int(match[1])]}.{match[2]}"
            cuts = []
            for axis_name, axis in axes.items():
                if source in lies[axis_name]:
                    indices = kept[axis_name]
                    layer = layer_of(source)
                    if indices.ndim > 1:
                        assert layer is not None
                        indices = indices[layer]
                    cuts.append((lies[axis_name][source], indices, axis.size))
            weight.copy_(sliced(from_teacher[source], cuts))
