"""A recipe -> the learning curves that tell what its soft labels are worth: which documents, how long, from which beginning."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from potstill.errors import RecipeError
from potstill.recipe.build import build_learner, num_steps
from potstill.recipe.job import build_job
from potstill.recipe.kinds import FreshStudent
from potstill.recipe.schema import Recipe
from potstill.recipe.text import Say

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from potstill.runs import Control, Efficiency, RunFolder


@dataclass(frozen=True)
class BuiltEfficiency:
    """What is to be learned how often, its folder, and what was decided on the way to it."""

    efficiency: Efficiency
    folder: RunFolder
    facts: dict[str, object]


def build_efficiency(
    recipe: Recipe,
    out: Path,
    *,
    sizes: int,
    factor: float,
    largest: int | None,
    seeds: int,
    controls: tuple[Control, ...],
    everywhere: bool,
    say: Say,
) -> BuiltEfficiency:
    """Load, check, tokenise. Raises RecipeError for a recipe whose labels have no learning curve of their own, and what `build_job`
    raises."""
    from potstill.runs import Efficiency
    from potstill.students import Importance

    check_has_curves(recipe)
    if recipe.teacher.kind == "stored" and recipe.teacher.labels is None:
        # The labels of the recipe's own run, not of this folder beside it.
        labels = Path("runs") / recipe.name / "soft_labels"
        recipe = recipe.model_copy(update={"teacher": recipe.teacher.model_copy(update={"labels": str(labels)})})
    built = build_job(recipe, out, say=say)
    job, training = built.job, recipe.training
    if "permuted" in controls and job.teacher.num_tokens < 3:
        raise RecipeError(
            f"of {job.teacher.num_tokens} classes one is not the likeliest, and nothing is there to permute: leave this control out, as "
            "--control argmax --control smoothed"
        )
    kept = built.folder.path / "importance.safetensors"
    importance = Importance.load(kept) if kept.exists() else None

    def new_student(seed: int) -> PreTrainedModel:
        student = recipe.student
        if isinstance(student, FreshStudent):
            student = student.model_copy(update={"seed": student.seed + seed})
        return build_learner(recipe.model_copy(update={"student": student}), job.teacher.model, importance)

    def steps_of(steps_per_epoch: float) -> int:
        return num_steps(training, tokens_per_step=training.rows * training.length, steps_per_epoch=steps_per_epoch)

    efficiency = Efficiency(job, new_student, steps_of, sizes, factor, largest, seeds, controls, everywhere)
    return BuiltEfficiency(efficiency, built.folder, built.facts)


def check_has_curves(recipe: Recipe) -> None:
    """RecipeError for a recipe that learns from something else than the labels of a text."""
    others: dict[str, object] = {
        "stages": recipe.stages,
        "training.on_policy": recipe.training.on_policy,
        "training.int4": recipe.training.int4,
        "teacher.translation": recipe.teacher.translation,
        "teacher.correction": recipe.teacher.correction,
        "teacher.average": recipe.teacher.average,
        "teacher.gate": recipe.teacher.gate,
        "loss.annealing": recipe.loss.annealing,
        "teacher.mixture of stored labels": (recipe.teacher.kind == "stored" and recipe.teacher.mixture) or None,
        **dict.fromkeys(recipe.loss.features, True),
    }
    if given := [name for name, table in others.items() if table is not None]:
        raise RecipeError(
            f"what soft labels are worth is told of labels alone, on one text, and the recipe has {' and '.join(given)}: leave it out here"
        )
    if recipe.loss.alpha == 0:
        raise RecipeError(
            "loss.alpha is 0, so the recipe has no soft labels to tell the worth of: raise it (1 = the teacher alone)"
        )
