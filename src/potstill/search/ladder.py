"""Students that could be cut from a teacher, by size: what there is to choose among, counted before anything is cut."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from transformers import PreTrainedModel

from potstill.errors import ModelError
from potstill.models import size_of
from potstill.students import (
    Axis,
    AxisName,
    Importance,
    Shape,
    Sizes,
    choose_layers,
    cuttable_axes,
    shape_of_share,
    shaped,
    sizes_of,
)

Cut = Literal["width", "depth", "both"]
CUTS: tuple[Cut, ...] = ("width", "depth", "both")
SHARES = (0.85, 0.70, 0.60, 0.50, 0.40, 0.30, 0.22, 0.15)
# A shape this much smaller or larger than its level stands on another.
_CLOSE = 0.10


@dataclass(frozen=True)
class Candidate:
    """A student that could be: how it is cut, the level of the ladder it stands on (from 0, the smallest), how large it is."""

    name: str
    cut: Cut
    level: int
    shape: Shape
    sizes: Sizes

    @property
    def parameters(self) -> int:
        """What does the computing: parameters that are no embeddings."""
        return self.sizes.model.non_embedding


@dataclass(frozen=True)
class Limits:
    """What a student may be: at most so many parameters, bytes of weights (two a parameter); at least so many times as fast a writer."""

    parameters: int | None = None
    bytes: int | None = None
    times_as_fast: float | None = None

    def allows(self, sizes: Sizes) -> bool:
        """Whether a student of these sizes is within them; how fast it is must be tried."""
        total = sizes.model.total
        if self.parameters is not None and total > self.parameters:
            return False
        return self.bytes is None or 2 * total <= self.bytes


def ladder(
    teacher: PreTrainedModel,
    importance: Importance,
    *,
    shares: Sequence[float] = SHARES,
    cuts: Sequence[Cut] = CUTS,
    limits: Limits | None = None,
) -> tuple[Candidate, ...]:
    """Shapes with about these shares of the teacher's parameters that are not embeddings, the smallest first.

    width: channels and neurons, evenly. depth: a run of layers that matters little. both: as much of the one as of the other. Widths
    are multiples of what kernels like. ModelError where the architecture can't be cut, or nothing is within the limits.
    """
    axes = dict(cuttable_axes(teacher))
    whole = size_of(teacher).non_embedding
    found: list[Candidate] = []
    seen: set[Shape] = set()
    for level, share in enumerate(sorted(shares)):
        for cut in cuts:
            for shape in _shapes(cut, share, teacher, importance, axes):
                sizes = sizes_of(shaped(teacher, shape, axes))
                is_near = abs(sizes.model.non_embedding / whole - share) <= _CLOSE * share
                if shape in seen or not is_near or (limits is not None and not limits.allows(sizes)):
                    continue
                seen.add(shape)
                found.append(Candidate(f"{cut}-{100 * share:.3g}", cut, level, shape, sizes))
    if not found:
        raise ModelError(
            f"no {teacher.config.model_type} of these sizes can be cut from the teacher"
            + (" within the limits: allow more, or let it be smaller (student.shares)" if limits is not None else "")
        )
    return tuple(found)


def _shapes(
    cut: Cut, share: float, teacher: PreTrainedModel, importance: Importance, axes: dict[AxisName, Axis]
) -> Iterator[Shape]:
    """One shape, or none where it can't be."""
    layers = teacher.config.num_hidden_layers
    try:
        match cut:
            case "width":
                yield shape_of_share(teacher, axes, share)
            case "depth":
                stay = _nearest_depth(teacher, importance, axes, share)
                if 0 < stay < layers:
                    yield Shape(choose_layers("run", layers, stay, importance))
            case "both":
                stay = max(1, round(math.sqrt(share) * layers))
                if stay < layers:
                    start = Shape(choose_layers("run", layers, stay, importance))
                    yield shape_of_share(teacher, axes, share, start=start)
    except ModelError:
        return


def _nearest_depth(teacher: PreTrainedModel, importance: Importance, axes: dict[AxisName, Axis], share: float) -> int:
    layers, whole = teacher.config.num_hidden_layers, size_of(teacher).non_embedding

    def away(stay: int) -> float:
        shape = Shape(choose_layers("run", layers, stay, importance))
        return abs(sizes_of(shaped(teacher, shape, axes)).model.non_embedding / whole - share)

    return min(range(1, layers), key=away, default=0)
