"""Which of its teacher's layers a student keeps."""

from __future__ import annotations

from typing import Literal

import numpy as np

from potstill.errors import ModelError
from potstill.students.importance import Importance
from potstill.types import Lineage

LayerChoice = Literal["run", "one_by_one", "perplexity", "even", "first_last"]


def choose_layers(choice: LayerChoice, there: int, stay: int, importance: Importance | None = None) -> tuple[int, ...]:
    """`stay` of the `there` layers of a teacher, ascending. ModelError for a number it hasn't got, or scores that weren't measured.

    run          all but the run of layers that turns the hidden state least
    one_by_one   all but the layers that turn it least, wherever they are
    perplexity   all but the layers without which the loss rises least
    even         at even distances, the first and the last among them (DistilBERT's and DistilGPT-2's 0, 2, 4, 7, 9, 11 of 12)
    first_last   from both ends
    """
    _check_count(there, stay)
    match choice:
        case "even":
            return evenly_spaced(there, stay)
        case "first_last":
            return first_and_last(there, stay)
    if importance is None or len(importance.turns) != there + 1:
        raise ModelError(f"which of {there} layers stay can't be chosen by {choice!r} without their importance scores")
    match choice:
        case "run":
            return without_block(importance, there - stay)
        case "one_by_one":
            return least_influential(importance, there - stay)
        case "perplexity":
            return least_missed(importance, there - stay)


def evenly_spaced(num_teacher_layers: int, num_student_layers: int) -> tuple[int, ...]:
    """Teacher layers at even distances, the first and the last among them: (6, 3) gives (0, 3, 5). One layer is the first."""
    _check_count(num_teacher_layers, num_student_layers)
    if num_student_layers == 1:
        return (0,)
    gaps = num_student_layers - 1
    return tuple((2 * i * (num_teacher_layers - 1) + gaps) // (2 * gaps) for i in range(num_student_layers))


def first_and_last(num_teacher_layers: int, num_student_layers: int) -> tuple[int, ...]:
    """Teacher layers from both ends, the middle ones left out, one more from the front if odd: (6, 3) gives (0, 1, 5)."""
    _check_count(num_teacher_layers, num_student_layers)
    num_last = num_student_layers // 2
    front = range(num_student_layers - num_last)
    return (*front, *range(num_teacher_layers - num_last, num_teacher_layers))


def least_influential(importance: Importance, count: int) -> tuple[int, ...]:
    """The layers that are left when the `count` that turn the hidden state least are gone, wherever they are (ShortGPT)."""
    order = np.argsort(importance.block_influence, kind="stable")
    return tuple(sorted(order[count:].tolist()))


def least_missed(importance: Importance, count: int) -> tuple[int, ...]:
    """The layers that are left when the `count` whose absence alone raises the loss least are gone (Muralidharan et al. 2024)."""
    if len(importance.losses) != len(importance.turns) - 1:
        raise ModelError("the scores say nothing of the loss without a layer: measure them with `with_losses`")
    order = np.argsort(importance.losses, kind="stable")
    return tuple(sorted(order[count:].tolist()))


def without_block(importance: Importance, count: int) -> tuple[int, ...]:
    """The layers that are left when the run of `count` that turns the hidden state least is gone (Gromov et al. 2024); the last layer
    stays: for deep cuts a run is better than the worst layers one by one (Sreenivas et al. 2024)."""
    layers = len(importance.turns) - 1
    if not 0 <= count < layers:
        raise ModelError(f"{count} of {layers} layers can't be left out: choose 0 to {layers - 1}")
    starts = range(layers - count) if count < layers - 1 else range(1)
    first = min(starts, key=lambda start: importance.turns[start, start + count])
    return (*range(first), *range(first + count, layers))


def layers_to_imitate(lineage: Lineage, num_teacher_layers: int) -> tuple[tuple[int, int], ...]:
    """(student layer, teacher layer) such that each student layer answers for its own teacher layer and those left out behind it.

    A student of layers 0, 3, 5 of 6 has (0, 2), (1, 4), (2, 5): its layer 0 stands where 0, 1 and 2 stood.
    """
    ends = (*(layer - 1 for layer in lineage.layers[1:]), num_teacher_layers - 1)
    return tuple((place, max(layer, end)) for place, (layer, end) in enumerate(zip(lineage.layers, ends, strict=True)))


def ends_of_blocks(num_student_layers: int, num_teacher_layers: int) -> tuple[tuple[int, int], ...]:
    """(student layer, teacher layer) such that each student layer has the last of a block of teacher layers, all about as long.

    TinyBERT's g(m) = m · teacher / student: 4 of 12 have (0, 2), (1, 5), (2, 8), (3, 11).
    """
    _check_count(num_teacher_layers, num_student_layers)
    ours, theirs = num_student_layers, num_teacher_layers
    return tuple((m - 1, (2 * m * theirs + ours) // (2 * ours) - 1) for m in range(1, ours + 1))


def last_layers(count: int, num_student_layers: int, num_teacher_layers: int) -> tuple[tuple[int, int], ...]:
    """(student layer, teacher layer) of the last `count` of both, in order."""
    return tuple((num_student_layers - k, num_teacher_layers - k) for k in range(count, 0, -1))


def _check_count(num_teacher_layers: int, num_student_layers: int) -> None:
    if not 0 < num_student_layers <= num_teacher_layers:
        raise ModelError(
            f"a student of {num_student_layers} layers can't be copied from a teacher of {num_teacher_layers}: "
            f"choose 1 to {num_teacher_layers}"
        )
