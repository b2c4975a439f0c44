"""A student that learns in four bits: through the rounding that `potstill export --to int4` will do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from potstill.recipe.table import Table, mistake

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from potstill.recipe.schema import Recipe


class Int4Table(Table):
    """Quantisation-aware distillation: the student computes with weights of four bits, and learns those behind them.

    It begins best as a student that was distilled already. Scores are of the rounded student; student-int4/ is it, packed.
    """

    group: Literal[128, 64, 32, 16, 8] | None = None
    """Inputs that share a scale: fewer are more exact and larger. Left out: the largest that divides all layers' inputs."""


def check_four_bits(recipe: Recipe) -> None:
    """Raise where four bits don't go with the rest of the recipe."""
    if recipe.training.int4 is None:
        return
    if recipe.training.lora is not None:
        raise mistake(
            "adapters are added to weights that stay, and here these learn to be rounded: leave training.lora or training.int4 out"
        )
    if recipe.stages is not None:
        raise mistake(
            "students teach one another with the weights behind the grid, and not as they are scored: let the stages run in full, and "
            "the student they leave learn through four bits in a run of its own (leave stages or training.int4 out)"
        )
    if recipe.teacher.gate is not None:
        raise mistake(
            "the gate's student learns in full, and says nothing of one in four bits: leave teacher.gate or training.int4 out"
        )
    if recipe.student.kind == "search":
        raise mistake("a search ends with four bits by itself: leave training.int4 out")
    if recipe.teacher.average is not None:
        raise mistake(
            "the student's average is not on the grid of four bits: leave teacher.average or training.int4 out"
        )


def group_of_run(recipe: Recipe, student: PreTrainedModel) -> int | None:
    """Inputs a scale, None without [training.int4]. ModelError where the student's layers can't be cut into such groups."""
    from potstill.export import checked_group

    wanted = recipe.training.int4
    return None if wanted is None else checked_group(student, wanted.group)
