"""Several teachers, each of whom marks the documents that are its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from potstill.errors import DataError
from potstill.teachers.mixture import MixtureTeacher, check_one_size, parts_of
from potstill.teachers.stored import StoredTeacher, on_device
from potstill.types import Batch, DenseTargets, Head, MixedTargets, SoftTargets, SparseTargets, Teacher


class RoutedTeacher:
    """Asks the teacher that each document names (TokenCorpus.teachers); a row of a batch may hold documents of several."""

    def __init__(self, teachers: Sequence[Teacher], of_document: NDArray[np.int64]) -> None:
        """`of_document`: the number of each document's teacher, in the order of the corpus that batches are made from. DataError for a
        document without one."""
        check_one_size(teachers)
        is_known = (of_document >= 0) & (of_document < len(teachers))
        if not is_known.all():
            raise DataError(
                f"{int((~is_known).sum()):,} of {len(of_document):,} documents name no teacher, first document "
                f"{int(np.flatnonzero(~is_known)[0])}: give each one in its column (data.columns.teacher)"
            )
        self.teachers, self.num_tokens = tuple(teachers), teachers[0].num_tokens
        self._of_document = torch.from_numpy(np.array(of_document))

    def label(self, batch: Batch) -> SoftTargets:
        """What its own teacher believes at each prediction; a teacher reads the rows alone in which something is its own."""
        device = batch.inputs.device
        counted = batch.counted
        asked = self._of_document.to(device)[batch.documents.clamp_min(0)]
        of_prediction = asked[counted]
        parts = []
        for number, teacher in enumerate(self.teachers):
            is_own = counted & (asked == number)
            rows = is_own.any(1)
            if not rows.any():
                continue
            own = Batch(*(getattr(batch, one.name)[rows] for one in fields(batch)))
            own = replace(own, weights=own.weights * is_own[rows])
            said = parts_of(on_device(teacher.label(own), device))
            parts.append((number, _among(said, of_prediction == number)))
        if len(parts) == 1:
            return parts[0][1]
        weights = torch.stack([of_prediction == number for number, _ in parts], 1) if parts else None
        if weights is None:
            return DenseTargets(torch.zeros(0, 1, device=device), Head(torch.zeros(self.num_tokens, 1, device=device)))
        return MixedTargets(tuple(part for _, part in parts), weights.float())


def is_stored(teacher: Teacher | None) -> bool:
    """Whether all it says is on disk, so that no model is asked."""
    return bool(among := _among_them(teacher)) and all(isinstance(one, StoredTeacher) for one in among)


def stored_among(teacher: Teacher | None) -> bool:
    """Whether some of it is on disk, which marks the text that it is of and no other."""
    return any(isinstance(one, StoredTeacher) for one in _among_them(teacher))


def _among_them(teacher: Teacher | None) -> tuple[Teacher, ...]:
    if isinstance(teacher, MixtureTeacher | RoutedTeacher):
        return teacher.teachers
    return () if teacher is None else (teacher,)


def _among(part: DenseTargets | SparseTargets, where: Tensor) -> DenseTargets | SparseTargets:
    """The same targets at these places among all predictions; zeros elsewhere, where their weight is 0."""

    def spread(values: Tensor, fill: int = 0) -> Tensor:
        out = values.new_full((len(where), *values.shape[1:]), fill)
        out[where] = values
        return out

    if isinstance(part, DenseTargets):
        return DenseTargets(spread(part.rows), part.head)
    rest = None if part.rest is None else spread(part.rest)
    return SparseTargets(spread(part.ids, -1), spread(part.probs), rest, part.temperature)
