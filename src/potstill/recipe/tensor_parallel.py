"""A teacher that the processes of a run share: how many of them, and what it doesn't go with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from potstill.recipe.table import mistake, needs

if TYPE_CHECKING:
    from potstill.recipe.schema import Recipe

Processes = Annotated[
    bool | Annotated[int, Field(ge=2)],
    needs("true (all processes), false, or how many processes run one teacher together, at least 2"),
]


def check_shared_teacher(recipe: Recipe) -> None:
    """Raise where teacher.tensor_parallel divides nothing, or what the processes would not ask in step."""
    teacher, own = recipe.teacher, recipe.training.on_policy
    if not teacher.tensor_parallel:
        return
    mixture = teacher.mixture
    for is_wrong, what in (
        (teacher.kind == "stored", "labels on disk need no teacher while the student learns"),
        (teacher.kind == "translated", "a teacher of another tokenizer reads other rows, which processes don't share"),
        (teacher.average is not None, "the student's average marks (teacher.average), and each process has all of it"),
        (
            mixture is not None and mixture.by == "column",
            'with teacher.mixture.by = "column" each process asks other teachers',
        ),
        (
            mixture is not None and mixture.one_at_a_time,
            "teachers that label one at a time are not there while the student learns",
        ),
        (
            recipe.loss.attention is not None,
            "each process has some of the attention heads, and loss.attention compares them",
        ),
        (
            own is not None and own.teacher_share > 0,
            "a teacher that writes along (training.on_policy.teacher_share) goes on from other text in each process",
        ),
        (recipe.student.kind == "search", "a search is one process's work"),
        (recipe.stages is not None, "a run of stages is one process's work"),
    ):
        if is_wrong:
            raise mistake(f"{what}: leave teacher.tensor_parallel out")
