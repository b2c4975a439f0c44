"""From the student's width to the teacher's: matrices that are learned beside the student and never become part of it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from potstill.errors import LossError


@dataclass(frozen=True)
class Projection:
    """A linear map without bias for each pair of layers, or one for all of them (TinyBERT's `fit_dense`, Minitron's).

    student, teacher  widths
    is_shared         one for all pairs
    seed              of the first weights
    """

    student: int
    teacher: int
    is_shared: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if self.student < 1 or self.teacher < 1:
            raise LossError(f"a projection leads from one width to another, found {self.student} and {self.teacher}")

    def place(self, pair: int) -> int:
        """Which of the matrices serves this pair."""
        return 0 if self.is_shared else pair

    def matrices(self, pairs: int) -> list[Float[Tensor, "teacher student"]]:
        """The first weights: the identity between equal widths, else random and as near to a rotation as can be.

        Columns (or rows) are orthogonal, times √(teacher / student), so that a channel keeps its mean square on the way up.
        """
        draw = torch.Generator().manual_seed(self.seed)
        found = []
        for _ in range(1 if self.is_shared else pairs):
            matrix = torch.eye(self.teacher)
            if self.student != self.teacher:
                matrix = torch.empty(self.teacher, self.student)
                torch.nn.init.orthogonal_(matrix, gain=max(1.0, (self.teacher / self.student) ** 0.5), generator=draw)
            found.append(matrix)
        return found
