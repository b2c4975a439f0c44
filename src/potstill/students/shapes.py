"""Which shape is so small: counted without memory, or tried; cut evenly."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache

from transformers import PreTrainedModel

from potstill.errors import ModelError
from potstill.models import Size, size_of
from potstill.students.anatomy import Axis, AxisName
from potstill.students.configs import changed_config
from potstill.students.probes import without_memory
from potstill.students.prune import Shape

# Kernels and four-bit formats like widths that divide by this; where that is coarse, a sixteenth of the width.
_STEP = 32
_LEAST_WIDTHS = 8


@dataclass(frozen=True)
class Sizes:
    """Parameters, and the bytes of the key-value cache of one token (in the model's dtype)."""

    model: Size
    cache_bytes: int


def sizes_of(model: PreTrainedModel) -> Sizes:
    """Counted, on any device."""
    return Sizes(size_of(model), cached_values(model) * model.dtype.itemsize)


def cached_values(model: PreTrainedModel) -> int:
    """How many numbers the key-value cache holds of one token."""
    config = model.config
    keys = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return 2 * config.num_hidden_layers * keys * width


def shaped(model: PreTrainedModel, shape: Shape, axes: dict[AxisName, Axis]) -> PreTrainedModel:
    """The model of that shape without memory. ModelError where there can be none."""
    layers = shape.layers if shape.layers is not None else tuple(range(model.config.num_hidden_layers))
    sizes: dict[AxisName, int | None] = {"ffn": shape.ffn, "heads": shape.heads, "hidden": shape.hidden}
    changes = {
        name: value
        for axis, size in sizes.items()
        if size is not None
        for name, value in axes[axis].changes(model.config, size).items()
    }
    if shape.kv_heads is not None:
        changes["num_key_value_heads"] = shape.kv_heads
    try:
        config = changed_config(model.config, layers, changes)
    except (ValueError, TypeError) as error:
        raise ModelError(f"no {model.config.model_type} of that shape can be made: {error}") from error
    return without_memory(type(model), config)


Count = Callable[[Size], int]
# What a budget is of.
NON_EMBEDDING: Count = lambda size: size.non_embedding  # noqa: E731
TOTAL: Count = lambda size: size.total  # noqa: E731


def shape_of_share(
    model: PreTrainedModel, axes: dict[AxisName, Axis], share: float, *, start: Shape | None = None
) -> Shape:
    """The shape with at most this share of the parameters that are not embeddings: see `shape_of_size`."""
    return shape_of_size(model, axes, share * size_of(model).non_embedding, NON_EMBEDDING, start=start)


def shape_of_size(
    model: PreTrainedModel, axes: dict[AxisName, Axis], budget: float, of: Count = TOTAL, *, start: Shape | None = None
) -> Shape:
    """The shape with at most so many parameters, cut evenly from `start`.

    Channels and neurons get narrower by about the same factor (Minitron: width before depth, attention last); where an architecture
    can't say fewer channels, neurons alone do. ModelError where that isn't enough.
    """
    start = start or Shape()

    @cache
    def count(shape: Shape) -> int:
        return of(size_of(shaped(model, shape, axes)))

    if (there := count(start)) <= budget:
        return start
    if "ffn" not in axes:
        raise ModelError(f"the feed-forward layers of {model.config.model_type} can't be cut: choose layers (--layers)")
    candidates = []
    for shape, narrower in _hidden_sizes(model, axes, start):
        if (ffn := _neurons_for(shape, axes["ffn"], budget, count)) is not None:
            candidates.append((abs(math.log(ffn / axes["ffn"].size / narrower)), replace(shape, ffn=ffn)))
    if not candidates:
        raise ModelError(
            f"no {model.config.model_type} with {budget / there:.0%} of these parameters can be had by narrower layers alone: cut layers "
            "as well (--layers), or less"
        )
    return min(candidates, key=lambda one: one[0])[1]


def largest_shape(
    model: PreTrainedModel, axes: dict[AxisName, Axis], fits: Callable[[Shape], bool], *, start: Shape | None = None
) -> Shape:
    """The largest evenly cut shape that fits, in steps of a twentieth: for what must be tried, as latency (some five tries).

    Smaller shapes are taken to fit where a larger one does. ModelError where none does.
    """
    shapes = []
    for twentieths in range(1, 20):
        try:
            shapes.append(shape_of_share(model, axes, twentieths / 20, start=start))
        except ModelError:
            continue  # narrower than can be had
    fitting = bisect_left(shapes, True, key=lambda shape: not fits(shape))
    if not fitting:
        raise ModelError(
            f"no narrower {model.config.model_type} is as fast as that: cut layers as well (--layers), or ask for less"
        )
    return shapes[fitting - 1]


def _hidden_sizes(model: PreTrainedModel, axes: dict[AxisName, Axis], start: Shape) -> Iterator[tuple[Shape, float]]:
    """(shape, share of the channels) for each width that can be."""
    yield start, 1.0
    if "hidden" not in axes or start.hidden is not None:
        return
    size = axes["hidden"].size
    step = _hidden_step(size, start.heads or model.config.num_attention_heads)
    for hidden in range(step, size, step):
        yield replace(start, hidden=hidden), hidden / size


def _neurons_for(shape: Shape, ffn: Axis, budget: float, count: Callable[[Shape], int]) -> int | None:
    """The most neurons within the budget, None for fewer than a step: parameters are linear in them."""
    step = _step(ffn.size)
    least, most = count(replace(shape, ffn=step)), count(replace(shape, ffn=ffn.size))
    if least > budget:
        return None
    each = (most - least) / max(1, ffn.size - step)
    found = ffn.size if each == 0 else min(ffn.size, step + int((budget - least) / each))
    return found if found == ffn.size else max(step, found // step * step)


def _hidden_step(size: int, heads: int) -> int:
    """Families that check it (Llama, Gemma) want a width that their heads divide: as many channels as kernels like, where that leaves at
    least eight widths; else half as many, and so on. SmolLM2's 9 heads and 576 channels have steps of 72."""
    step = _step(size)
    while step > 1 and size // math.lcm(step, heads) < _LEAST_WIDTHS:
        step //= 2
    return math.lcm(step, heads)


def _step(size: int) -> int:
    return max(1, min(_STEP, size // 16))
