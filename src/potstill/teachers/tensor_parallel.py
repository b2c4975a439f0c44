"""A live teacher that a group of processes runs together: each holds a part of its layers, and all read the rows of the group."""

from __future__ import annotations

from dataclasses import fields

import torch
from accelerate import Accelerator
from torch import Tensor, distributed
from torch.distributed import ProcessGroup

from potstill.models.tensor_parallel import check_tensor_parallel, tensor_parallel
from potstill.teachers.live import LiveTeacher
from potstill.types import Batch, DenseTargets


class TensorParallelTeacher:
    """Marks as the live teacher does that it is made of, by a divided copy of its model (`tensor_parallel`, which says what is refused).

    All processes of a group have to ask it equally often, each with the rows it has; numbers of rows and widths may differ. Groups know
    nothing of each other.
    """

    def __init__(self, teacher: LiveTeacher, processes: Accelerator, *, size: int) -> None:
        """The model of `teacher` moves to the host's memory, where it stays whole; each `size` processes of consecutive ranks run one."""
        check_tensor_parallel(teacher.model, size, teacher.attention)
        model, self.group = tensor_parallel(teacher.model, processes, size=size)
        self.device = processes.device
        self.live = LiveTeacher(model, size=teacher.num_tokens, layers=teacher.layers)

    @property
    def num_tokens(self) -> int:
        """How many tokens get a probability."""
        return self.live.num_tokens

    def label(self, batch: Batch) -> DenseTargets:
        """What the teacher believes at this process's counted predictions. NotFiniteError in all of a group where it is in one."""
        parts = _of_all(batch.to(self.device), self.group)
        found = self.live.label(_joined(parts))
        before, mine = parts[: self.group.rank()], parts[self.group.rank()]
        counted = _place([int(part.counted.sum()) for part in before], int(mine.counted.sum()))
        text = _place([int((part.documents >= 0).sum()) for part in before], int((mine.documents >= 0).sum()))
        # Copies: the states of the others' rows are not to be kept.
        layers = {number: states[text].clone() for number, states in found.layers.items()}
        return DenseTargets(found.rows[counted].clone(), found.head, layers)


def _of_all(batch: Batch, group: ProcessGroup) -> list[Batch]:
    """The rows of each process of a group, those of others as wide as the widest, padding behind them."""
    shapes = torch.tensor([batch.inputs.shape], device=batch.inputs.device)
    sizes = _gathered(shapes, group)
    rows, width = sizes.amax(0).tolist()
    found = Batch(*(_gathered(one, group) for one in _padded(batch, rows, width)))
    return [found.rows(number * rows, number * rows + size) for number, size in enumerate(sizes[:, 0].tolist())]


def _padded(batch: Batch, rows: int, width: int) -> list[Tensor]:
    """The tensors of a batch with more rows and columns: no document's, of no weight, positions going on."""
    found = []
    for one in fields(batch):
        tensor = getattr(batch, one.name)
        larger = tensor.new_full((rows, width), -1 if one.name == "documents" else 0)
        if one.name == "positions":
            larger = torch.arange(width, device=tensor.device, dtype=tensor.dtype).repeat(rows, 1)
        larger[: tensor.shape[0], : tensor.shape[1]] = tensor
        found.append(larger)
    return found


def _gathered(tensor: Tensor, group: ProcessGroup) -> Tensor:
    everyone = [torch.empty_like(tensor, memory_format=torch.contiguous_format) for _ in range(group.size())]
    distributed.all_gather(everyone, tensor.contiguous(), group=group)
    return torch.cat(everyone)


def _joined(parts: list[Batch]) -> Batch:
    return Batch(*(torch.cat([getattr(part, one.name) for part in parts]) for one in fields(Batch)))


def _place(before: list[int], count: int) -> slice:
    return slice(sum(before), sum(before) + count)
