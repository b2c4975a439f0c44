"""More than one teacher, or a teacher that is the student's own past: what a recipe can say of it."""

from __future__ import annotations

from pathlib import PurePath
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from potstill.recipe.specialists import is_teacher_alone, is_teacher_heard
from potstill.recipe.table import FolderName, Table, Text, mistake

if TYPE_CHECKING:
    from potstill.recipe.schema import Recipe, TeacherTable

Weight = Annotated[float, Field(gt=0.0)]


class OtherTeacher(Table):
    """A teacher beside the recipe's own."""

    model: Text
    """A model of the same vocabulary: a folder, a hub name, a .gguf file."""
    name: FolderName | None = None
    """What it is called, in records too; left out: the last part of `model`."""
    weight: Weight = 1.0
    """How much it counts; only the proportions matter."""
    labels: Text | None = None
    """Its labels on disk; left out: it is live."""

    @property
    def called(self) -> str:
        """Its name."""
        return self.name or PurePath(self.model).name


class MixtureTable(Table):
    """Several teachers mark together: teacher.model and these. Scores are beside teacher.model."""

    others: Annotated[tuple[OtherTeacher, ...], Field(strict=False, min_length=1)]
    """The other teachers, each with its `model`."""
    name: FolderName | None = None
    """What teacher.model is called, in records too; left out: the last part of its name."""
    weight: Weight = 1.0
    """How much teacher.model counts."""
    of: Literal["probabilities", "logits"] = "probabilities"
    """probabilities: their arithmetic mean. logits: their geometric mean, for teachers that give whole distributions."""
    by: Literal["weights", "confidence", "cross_entropy", "column"] = "weights"
    """What else weighs: nothing; entropy or cross-entropy of each on the text; column: a record names its own (data.columns.teacher)."""
    one_at_a_time: bool = False
    """Load one teacher, let it label the text into the run's folder, free it, and so on: where they don't fit together."""

    @model_validator(mode="after")
    def _labels_once(self) -> MixtureTable:
        if self.one_at_a_time and any(other.labels is not None for other in self.others):
            raise mistake("one_at_a_time labels the text itself: leave the `labels` of others out, or one_at_a_time")
        if self.by == "column" and self.of == "logits":
            raise mistake('by = "column" asks one teacher a record, so there is no mean to take: leave `of` out')
        if self.by == "column" and {self.weight, *(other.weight for other in self.others)} != {1.0}:
            raise mistake('by = "column" asks one teacher a record, so nothing is weighed: leave `weight` out')
        return self


class AverageTable(Table):
    """The average of the student's own past marks in the teacher's place, which is measured, no more (mean teacher)."""

    decay: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.99
    """What stays of the average each step; 0.99 looks back about a hundred steps."""


def check_ways_of_teaching(teacher: TeacherTable) -> None:
    """Raise where two ways exclude each other, or two teachers have one name."""
    ways = [name for name in ("correction", "mixture", "average") if getattr(teacher, name) is not None]
    if len(ways) > 1:
        raise mistake(f"`{ways[0]}` and `{ways[1]}` each say who marks: keep one")
    if teacher.correction is not None and teacher.kind == "stored":
        raise mistake('stored labels are the uncorrected teacher\'s: leave `correction` out, or set kind to "live"')
    if teacher.average is not None and teacher.kind == "stored":
        raise mistake(
            'an average of the student can\'t be stored beforehand: set kind to "live", or leave `average` out'
        )
    if teacher.mixture is None:
        return
    if teacher.mixture.one_at_a_time and teacher.kind == "stored":
        raise mistake('one_at_a_time labels the text itself: set kind to "live", or leave one_at_a_time out')
    names = names_of(teacher)
    if strange := [name for name in names if name.strip(".") == ""]:
        raise mistake(f"a teacher can't be called {strange[0]!r}: give it a `name`")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise mistake(f"two teachers are called {twice[0]!r}: give each a `name` of its own")


def check_teaching(recipe: Recipe) -> None:
    """Raise for ways of teaching that don't go with the loss, the labels or the controls of the recipe."""
    teacher, loss = recipe.teacher, recipe.loss
    mixture, features = teacher.mixture, " and ".join(loss.features)
    if teacher.average is not None and is_teacher_alone(loss):
        raise mistake(
            "teacher.average begins as the student itself, so with loss.alpha = 1 there is nothing to learn: set it below 1, as 0.5"
        )
    if teacher.average is not None and features:
        raise mistake(f"teacher.average gives no hidden states: leave it or {features} out")
    if recipe.evaluation.smoothing and not is_teacher_heard(loss):
        raise mistake(
            "evaluation.smoothing takes the teacher's place, and with loss.alpha = 0 it has none: leave it out"
        )
    if mixture is None:
        return
    if features:
        raise mistake(f"{features} compares with one teacher's hidden states: leave it out, or learn from one teacher")
    if mixture.one_at_a_time and recipe.labels.tier in ("sampled", "topk"):
        for setting, value in (("by", mixture.by), ("of", mixture.of)):
            if value in ("confidence", "cross_entropy", "logits"):
                raise mistake(
                    f'teacher.mixture.{setting} = "{value}" needs whole distributions, and labels of tier "{recipe.labels.tier}" list a '
                    'few tokens: set labels.tier = "hidden"'
                )


def names_of(teacher: TeacherTable) -> list[str]:
    """What the teachers of a mixture are called, teacher.model first."""
    if teacher.mixture is None:
        return []
    own = teacher.mixture.name or PurePath(teacher.model).name
    return [own, *(other.called for other in teacher.mixture.others)]


def numbers_of_teachers(recipe: Recipe) -> dict[str, int] | None:
    """Name -> number, where each record names its teacher; None elsewhere."""
    mixture = recipe.teacher.mixture
    if mixture is None or mixture.by != "column":
        return None
    return {name: number for number, name in enumerate(names_of(recipe.teacher))}


def sharing(teacher: TeacherTable) -> tuple[OtherTeacher, ...]:
    """The teachers beside the recipe's own."""
    return () if teacher.mixture is None else teacher.mixture.others
