"""A model that marks text while the student reads it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from potstill.errors import ModelError, NotFiniteError
from potstill.models.asking import device_of
from potstill.models.forward import head_of, hidden_states
from potstill.types import AttentionKey, Batch, DenseTargets, HiddenStates

_CHUNK = 256


class LiveTeacher:
    """A model as a teacher: frozen, in evaluation mode, never part of a gradient.

    It freezes the model it is given in place: a student that is the same object could not learn.
    """

    def __init__(
        self, model: PreTrainedModel, *, size: int, layers: Sequence[int] = (), attention: Sequence[AttentionKey] = ()
    ) -> None:
        """`size` is the number of tokens that get a probability, at most the rows of the model's head (ModelError); what `layers` put
        out and their `attention` works with comes with the targets."""
        head = head_of(model)
        if not 0 < size <= len(head.weight):
            raise ModelError(f"the teacher's head has {len(head.weight)} rows, so it can't mark {size} tokens")
        self.model = model.requires_grad_(False).eval()
        self.num_tokens, self.layers, self.attention = size, tuple(layers), tuple(attention)
        # By Cauchy-Schwarz no logit exceeds this times the longest hidden state, so one number a batch shows that all
        # logits are finite. NaN and infinity in the weights make it NaN or infinite.
        weight = head.weight[:size]
        longest = torch.linalg.vector_norm(weight, dim=-1, dtype=_wide(weight)).max() * max(1.0, abs(head.scale))
        self._longest = longest.clamp(min=1.0)  # a hidden state alone must fit the weight's dtype too
        self._offset = weight.new_zeros(()) if head.bias is None else head.bias[:size].abs().max()

    def label(self, batch: Batch) -> DenseTargets:
        """The teacher's hidden states at the counted predictions, and its head over the first `num_tokens` tokens.

        The batch may be on any device; the targets are on the model's. Raises NotFiniteError when a logit is NaN or
        infinite, and says where.
        """
        batch = batch.to(device_of(self.model))
        with torch.no_grad():
            states = hidden_states(
                self.model, batch, size=self.num_tokens, layers=self.layers, attention=self.attention
            )
            self._check_is_finite(states, batch)
        return DenseTargets(states.rows, states.head, states.layers, states.attention)

    def _check_is_finite(self, states: HiddenStates, batch: Batch) -> None:
        if len(states.rows) == 0:
            return
        longest = torch.linalg.vector_norm(states.rows, dim=-1, dtype=_wide(states.rows)).max()
        # The comparison is false for NaN too.
        if longest * self._longest + self._offset < torch.finfo(states.head.weight.dtype).max:
            return
        is_bad = torch.cat([~states.head.logits(rows).isfinite().all(-1) for rows in states.rows.split(_CHUNK)])
        if not is_bad.any():
            return
        row, column = batch.counted.nonzero()[is_bad][0].tolist()
        raise NotFiniteError(
            f"the teacher's logits are NaN or infinite at {int(is_bad.sum())} of {len(is_bad)} predictions, first in "
            f"document {int(batch.documents[row, column])} at position {int(batch.positions[row, column])} of its "
            f"context: load the teacher in float32 or bfloat16 (it is in {self.model.dtype}), or check its weights"
        )


def _wide(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)
