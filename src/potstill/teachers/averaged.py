"""A teacher that is the average of its student's own past."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from potstill.errors import ModelError
from potstill.teachers.live import LiveTeacher
from potstill.types import Batch, DenseTargets


class AveragedTeacher:
    """The exponential moving average of the student's weights (mean teacher, Tarvainen & Valpola 2017, arXiv:1703.01780).

    It begins as the student and follows it after each optimizer step; `train` sees to that, and keeps it with the checkpoints.
    """

    def __init__(self, model: PreTrainedModel, *, size: int, decay: float) -> None:
        """`model`: a copy of the untouched student, which becomes the average; `decay`: what stays of it each step, below 1."""
        if not 0 <= decay < 1:
            raise ModelError(f"the decay of an average is at least 0 and below 1, found {decay}")
        self.model, self.num_tokens, self.decay = model.requires_grad_(False).eval(), size, decay

    def label(self, batch: Batch) -> DenseTargets:
        """What the average believes, as a live teacher."""
        return LiveTeacher(self.model, size=self.num_tokens).label(batch)

    def follow_(self, student: nn.Module, step: int) -> None:
        """Take in the student after so many optimizer steps: average = d·average + (1-d)·student, d = min(decay, (1+step)/(10+step)), so
        that the beginning is soon forgotten."""
        kept = min(self.decay, (1 + step) / (10 + step))
        with torch.no_grad():
            for mine, theirs in zip(self._tensors(self.model), self._tensors(student), strict=True):
                if mine.is_floating_point():
                    mine.lerp_(theirs.to(mine), 1 - kept)
                else:
                    mine.copy_(theirs)

    def _tensors(self, model: nn.Module) -> list[Tensor]:
        return [*model.parameters(), *model.buffers()]
