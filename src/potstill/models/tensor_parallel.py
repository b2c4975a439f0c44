"""A model whose layers are divided among processes by transformers' own plan (`tp_plan`): a group of them runs it, on the same rows."""

from __future__ import annotations

import re
from collections.abc import Iterable
from copy import deepcopy

from accelerate import Accelerator
from torch.distributed import ProcessGroup
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel
from transformers.distributed.configuration_utils import DistributedConfig

from potstill.errors import ModelError, RecipeError
from potstill.models.checks import check_same_states
from potstill.models.layers import layers_path
from potstill.types import AttentionKey

# The number of a layer, for which plans have a star.
_NUMBER = re.compile(r"\.\d+(?=\.|$)")
# What a process's share of an attention is counted in.
_HEADS = {"num_attention_heads": "attention heads", "num_key_value_heads": "key-value heads"}


def group_size(wanted: bool | int, num_processes: int) -> int:
    """How many processes run one model together: all (True), or so many. RecipeError for a process alone, for a group of fewer than two,
    and where the groups don't come out even."""
    if num_processes == 1:
        raise RecipeError(
            "tensor_parallel divides the teacher among processes, and there is one: begin several (`accelerate launch --num_processes 2 "
            "-m potstill distill ...`), or leave tensor_parallel out"
        )
    if wanted is True:
        return num_processes
    if wanted < 2:
        raise RecipeError(
            f"tensor_parallel is how many processes run one teacher together, at least 2, found {wanted}: set true for all of them, or "
            "leave it out"
        )
    if num_processes % wanted:
        raise RecipeError(
            f"tensor_parallel is {wanted}, and {num_processes} processes don't make groups of {wanted}: set it to a number that divides "
            f"{num_processes}, to true for one group of all, or begin another number of processes"
        )
    return int(wanted)


def check_tensor_parallel(model: PreTrainedModel, size: int, attention: Iterable[AttentionKey] = ()) -> None:
    """Raise where `size` processes can't share the model's layers: RecipeError for what would compare `attention`, ModelError for a model
    without a plan, or whose heads don't come out even."""
    if any(attention):
        raise RecipeError(
            "each process has some of a tensor-parallel teacher's attention heads, and their attention can't be compared: leave "
            "loss.attention out (loss.hidden works), or tensor_parallel"
        )
    plan = _plan_of(model)
    if not plan:
        raise ModelError(
            f"transformers has no tensor-parallel plan (tp_plan) for the layers of {type(model).__name__}: leave tensor_parallel out; "
            "under FSDP2 its layers are divided without one (recipes/accelerate/fsdp2.yaml)"
        )
    if not any("att" in name for name in plan):
        return
    for name, words in _HEADS.items():
        heads = getattr(model.config, name, None)
        if isinstance(heads, int) and heads % size:
            raise ModelError(
                f"{type(model).__name__} has {heads} {words}, which {size} processes can't share evenly: set tensor_parallel to a number "
                f"that divides {heads}, begin another number of processes, or leave tensor_parallel out"
            )


def tensor_parallel(
    model: PreTrainedModel, processes: Accelerator, *, size: int
) -> tuple[PreTrainedModel, ProcessGroup]:
    """A copy of which this process holds its part of the layers, on its device; embeddings, norms and head are whole in each. And the
    `size` processes of consecutive ranks that hold all parts of it together.

    All processes call this, and those of a group run their copy together and on the same rows. The model given moves to the host's
    memory. Raises as `check_tensor_parallel`, and ModelError where the copy doesn't give what the model gives.
    """
    check_tensor_parallel(model, size)
    model.to("cpu")  # type: ignore[arg-type]  # transformers wraps `to` and loses its type
    copy = deepcopy(model)
    copy.tp_plan = _plan_of(copy)
    # In the mesh ranks of a group are consecutive. That there are several groups is nothing to the model: it has no gradient.
    groups = DistributedConfig(tp_size=size, dp_replicate_size=processes.num_processes // size)
    _, _, mesh = copy.prepare_distribute_model(groups)
    assert mesh is not None
    copy.maybe_distribute_model(copy, DistributedConfig(tp_size=size), mesh)  # in place
    for tensor in (*copy.parameters(), *copy.buffers()):
        if not isinstance(tensor, DTensor):
            tensor.data = tensor.data.to(processes.device)
    check_same_states(copy, model)
    return copy, mesh.get_mesh("tp").get_group()


def _plan_of(model: PreTrainedModel) -> dict[str, str]:
    """transformers' plan for the layers; the head stays whole, as the loss reads it, and so do embeddings, which it may be tied to."""
    if not model.tp_plan:
        return {}
    names = {_NUMBER.sub(".*", name) for name, _ in (*model.named_modules(), *model.named_parameters())}
    layers = f"{layers_path(model)}.*."
    return {name: style for name, style in model.tp_plan.items() if name in names and name.startswith(layers)}
