"""A general teacher for a domain of its own: its share may fall as the student learns, and a gate asks what it is worth there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from potstill.errors import RecipeError
from potstill.recipe.table import Share, Table, mistake

if TYPE_CHECKING:
    from potstill.data import TokenCorpus
    from potstill.models import Task
    from potstill.recipe.schema import LossTable, Recipe
    from potstill.runs import Gate
    from potstill.training import Annealing


class AnnealingTable(Table):
    """`alpha` is that of the first step, and goes in a straight line to another: a student that ends on the text can pass its teacher."""

    to: Share = 0.0
    """alpha at the end; 0 = the text alone."""
    over: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """Share of the steps in which it changes; it stays afterwards."""


class GateTable(Table):
    """Before the run a student of labels alone learns a little: does the teacher know this text better? Measured on the split `search`."""

    then: Literal["warn", "anneal", "refuse"] = "warn"
    """warn: say what was found. anneal: let alpha go to 0 unless the teacher is clearly worth it. refuse: stop where labels are ahead."""
    share: Annotated[float, Field(gt=0.0, le=1.0)] = 0.1
    """Of the run's steps, how many that student learns; a second one, half as long, shows how fast labels gain."""


def is_teacher_alone(loss: LossTable) -> bool:
    """Whether the text itself counts for nothing in any step."""
    return loss.alpha == 1 and (loss.annealing is None or loss.annealing.to == 1)


def is_teacher_heard(loss: LossTable) -> bool:
    """Whether what the teacher says counts in any step."""
    return loss.alpha > 0 or (loss.annealing is not None and loss.annealing.to > 0)


def check_specialist(recipe: Recipe) -> None:
    """Raise where annealing or the gate don't go with the rest of the recipe."""
    loss, teacher, training = recipe.loss, recipe.teacher, recipe.training
    if loss.annealing is not None:
        if training.on_policy is not None:
            raise mistake(
                "what the student writes is no label to learn (training.on_policy), and annealing ends on labels: leave one of them out"
            )
        if recipe.student.kind == "search":
            raise mistake(
                "a search compares students by short runs with one loss: leave loss.annealing out, and give what it finds a run of its own "
                '(student.kind = "model")'
            )
        if training.compile_loss:
            raise mistake("a compiled loss is made for one alpha: leave training.compile_loss or loss.annealing out")
    if teacher.gate is None:
        return
    for is_wrong, what in (
        (recipe.student.kind == "search", "a search has no run of its own to ask for"),
        (recipe.stages is not None, "stages have several teachers"),
        (teacher.kind == "translated", "a teacher of another tokenizer has other predictions"),
        (
            teacher.mixture is not None or teacher.average is not None or teacher.correction is not None,
            "it asks teacher.model as it is, and another marks (teacher.mixture, teacher.average, teacher.correction)",
        ),
        (not is_teacher_heard(loss), "with loss.alpha = 0 no teacher is heard"),
    ):
        if is_wrong:
            raise mistake(f"{what}: leave teacher.gate out")
    if teacher.gate.then == "anneal" and training.on_policy is not None:
        raise mistake(
            'what the student writes is no label to learn (training.on_policy): set teacher.gate.then = "warn"'
        )
    if teacher.gate.then == "anneal" and training.compile_loss:
        raise mistake(
            'a compiled loss is made for one alpha: set teacher.gate.then = "warn", or leave training.compile_loss out'
        )
    if recipe.data.search == 0:
        raise mistake(
            "teacher.gate measures on the split `search`, and data.search = 0 leaves it empty: raise it, to 0.05 as an example"
        )


def build_annealing(loss: LossTable) -> Annealing | None:
    """What [loss.annealing] describes."""
    from potstill.training import Annealing

    return None if loss.annealing is None else Annealing(loss.annealing.to, loss.annealing.over)


def build_gate(recipe: Recipe, corpus: TokenCorpus, task: Task, *, steps: int) -> Gate | None:
    """What [teacher.gate] describes, for a run of so many steps. RecipeError where no document is in the split it measures on."""
    from potstill.runs import Gate, held_out_sample

    wanted = recipe.teacher.gate
    if wanted is None:
        return None
    text = corpus.part("search", held_out=recipe.data.held_out, search=recipe.data.search)
    if len(text) == 0:
        raise RecipeError(
            f"data.search = {recipe.data.search:g} of {len(corpus)} documents leaves none to teacher.gate: raise it, or give more documents"
        )
    if task != "classes":
        text = held_out_sample(text, recipe.evaluation.tokens, recipe.training.length)
    return Gate(text, max(2, round(wanted.share * steps)), wanted.then)
