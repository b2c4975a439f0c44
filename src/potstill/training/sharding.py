"""Weights divided among processes by FSDP2 (`fully_shard`), and made whole again.

The student that is given stays whole and plain, in the memory of the host; what learns is a divided copy of it. So checkpoints are the
same files whatever the number of processes, and who saves or scores a student needs to know nothing of this.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
)
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers.pytorch_utils import Conv1D

from potstill.errors import ModelError
from potstill.models import fsdp_plugin, group_size, layers_of
from potstill.teachers import (
    AveragedTeacher,
    LiveTeacher,
    MixtureTeacher,
    RoutedTeacher,
    TensorParallelTeacher,
    TranslatedTeacher,
)
from potstill.types import Teacher


@dataclass(frozen=True)
class Sharding:
    """Over which processes weights are divided, whether a layer's are given back after its forward pass, where they wait, and the dtype in
    which autocast multiplies."""

    mesh: DeviceMesh
    reshard: bool
    offload: OffloadPolicy
    dtype: torch.dtype = torch.float32


def sharding_of(processes: Accelerator, dtype: torch.dtype) -> Sharding | None:
    """As accelerate's configuration says, of a student that learns in this dtype; None where each process has all weights."""
    if (plugin := fsdp_plugin(processes)) is None:
        return None
    assert isinstance(plugin.cpu_offload, OffloadPolicy)
    mesh = init_device_mesh(processes.device.type, (processes.num_processes,))
    offload = plugin.cpu_offload
    if isinstance(offload, CPUOffloadPolicy) and processes.device.type == "cpu":
        offload = CPUOffloadPolicy(pin_memory=False)  # memory is pinned for an accelerator, and there is none
    return Sharding(mesh, bool(plugin.reshard_after_forward), offload, dtype)


def shard_(root: nn.Module, layers: Iterable[nn.Module], sharding: Sharding) -> None:
    """Divide a module that is called whole: a unit each layer, and one of all else, embeddings and head among it.

    The last is gathered in a step's first forward pass and kept until its last backward pass, so that the loss finds the head's weight
    whole and nobody gathers it twice.
    """
    layers = list(layers)
    for layer in layers:
        _shard_layer_(layer, sharding)
    if sharding.dtype != torch.float32:
        # Else a layer would fetch the norm that stood before it in the forward pass, which is there already.
        for before, layer in pairwise(layers):
            assert isinstance(before, FSDPModule)
            assert isinstance(layer, FSDPModule)
            layer.set_modules_to_backward_prefetch([before])
    fully_shard(root, mesh=sharding.mesh, offload_policy=sharding.offload)


def _shard_layer_(layer: nn.Module, sharding: Sharding) -> None:
    """Divide a layer. Matrices that autocast would round in each process are gathered rounded, so that no copies outlive them; norms, which
    it takes as they are, are gathered so, each by itself."""
    policy, norms = MixedPrecisionPolicy(), _beside_matrices(layer)
    if sharding.dtype != torch.float32 and norms is not None:
        for norm in norms:
            fully_shard(norm, mesh=sharding.mesh, reshard_after_forward=False, offload_policy=sharding.offload)
        policy = MixedPrecisionPolicy(sharding.dtype, torch.float32, cast_forward_inputs=False)
    fully_shard(
        layer,
        mesh=sharding.mesh,
        reshard_after_forward=sharding.reshard,
        mp_policy=policy,
        offload_policy=sharding.offload,
    )


def _beside_matrices(layer: nn.Module) -> list[nn.Module] | None:
    """The norms of a layer that has nothing but linear layers beside them; None of another: what is done with its weights is not known."""
    # Of no subclass: parametrized ones round to other grids first.
    others = [
        one for one in layer.modules() if type(one) not in (nn.Linear, Conv1D) and list(one.parameters(recurse=False))
    ]
    are_norms = all(not list(one.children()) and all(weight.ndim < 2 for weight in one.parameters()) for one in others)
    return [one for one in others if one is not layer] if are_norms and layer not in others else None


def divided_teacher(
    teacher: Teacher | None, processes: Accelerator, sharding: Sharding | None, *, tensor_parallel: bool | int
) -> Teacher | None:
    """The same teacher as the processes hold it while the student learns: whole in each, divided by layers, or tensor-parallel
    (True: among all, a number: among groups of so many)."""
    if teacher is not None and tensor_parallel is not False:
        return tensor_parallel_teacher(teacher, processes, size=group_size(tensor_parallel, processes.num_processes))
    return sharded_teacher(teacher, sharding, processes.device)


def sharded_teacher(teacher: Teacher | None, sharding: Sharding | None, device: torch.device) -> Teacher | None:
    """The same teacher with the weights of its layers divided; embeddings and head stay whole. Others than live ones stay as they are.

    The model that was given moves to the host's memory, where it stays whole.
    """
    if sharding is None or not isinstance(teacher, LiveTeacher):
        return teacher
    teacher.model.to("cpu")  # type: ignore[arg-type]  # transformers wraps `to` and loses its type
    model = deepcopy(teacher.model)
    layers = layers_of(model)
    inside = {weight for layer in layers for weight in layer.parameters()}
    rest = {weight for weight in model.parameters() if weight not in inside}
    for weight in rest:
        weight.data = weight.data.to(device)
    for layer in layers:
        fully_shard(layer, mesh=sharding.mesh, reshard_after_forward=True, offload_policy=sharding.offload)
    # Without weights of its own, it knows which layer comes next.
    fully_shard(model.base_model, mesh=sharding.mesh, ignored_params=rest)
    return LiveTeacher(model, size=teacher.num_tokens, layers=teacher.layers, attention=teacher.attention)


def tensor_parallel_teacher(teacher: Teacher | None, processes: Accelerator, *, size: int) -> Teacher | None:
    """The same teacher, its live models divided among each `size` processes by transformers' plans; who marks without a model stays as it
    is.

    Raises ModelError for a teacher whose models the processes would not ask equally often, and as `TensorParallelTeacher`.
    """
    match teacher:
        case LiveTeacher():
            return TensorParallelTeacher(teacher, processes, size=size)
        case MixtureTeacher():
            divided = [tensor_parallel_teacher(one, processes, size=size) for one in teacher.teachers]
            return replace(teacher, teachers=tuple(one for one in divided if one is not None))
        case RoutedTeacher() | TranslatedTeacher() | AveragedTeacher():
            raise ModelError(
                f"a {type(teacher).__name__} can't be tensor-parallel: the processes would not ask its models in step. Leave "
                "tensor_parallel out"
            )
    return teacher


@contextmanager
def keeping_gradients(objective: nn.Module, processes: Accelerator) -> Iterator[None]:
    """Inside, gradients add up in each process and are not exchanged, and head and embeddings stay gathered for the next pass."""
    if not isinstance(objective, FSDPModule):
        with processes.no_sync(objective):
            yield
        return
    objective.set_requires_gradient_sync(False)
    objective.set_reshard_after_backward(False, recurse=False)
    try:
        yield
    finally:
        objective.set_requires_gradient_sync(True)
        objective.set_reshard_after_backward(True, recurse=False)


def whole(tensor: Tensor) -> Tensor:
    """The tensor, gathered where it is divided: all processes have to ask for it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def divided_as(tensor: Tensor, other: Tensor) -> Tensor:
    """A whole tensor that each process has, on the other's device and divided as the other is."""
    tensor = tensor.to(other.device)
    if not isinstance(other, DTensor) or tensor.ndim == 0:
        return tensor
    # It comes back on the mesh's device, and what is offloaded waits on the host.
    return distribute_tensor(tensor, other.device_mesh, other.placements, src_data_rank=None).to(other.device)


def gather_(plain: nn.Module, divided: nn.Module) -> None:
    """Fill the plain module with what the divided one has, in every process."""
    mine = {**dict(plain.named_parameters()), **dict(plain.named_buffers())}
    theirs = {**dict(divided.named_parameters()), **dict(divided.named_buffers())}
    with torch.no_grad():
        for name, tensor in mine.items():
            tensor.copy_(whole(theirs[name]))
