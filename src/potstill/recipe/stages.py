"""A run made of runs: generations of one's own former self, an ensemble into one, assistants between large and small."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, JsonValue, model_validator

from potstill.recipe.table import Table, Text, mistake

OWN = "teacher"
"""The name of the recipe's own teacher among those of stages."""

Changes = dict[str, JsonValue]


class StageTable(Table):
    """One stage: in what it differs from the recipe around it."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")]
    """Of the stage and its folder: small letters, digits, - and _."""
    teachers: Annotated[tuple[Text, ...], Field(strict=False, min_length=1)] | None = None
    """Who marks, all together: earlier stages by name, and "teacher" for the recipe's own. Left out: the stage before."""
    weights: Annotated[tuple[Annotated[float, Field(gt=0.0)], ...], Field(strict=False)] | None = None
    """How much each of them counts; left out: all alike."""
    student: Changes = Field(default_factory=dict)
    """What differs in [student]; students are made from the recipe's own teacher, whoever marks."""
    data: Changes = Field(default_factory=dict)
    """What differs in [data]."""
    loss: Changes = Field(default_factory=dict)
    """What differs in [loss]."""
    training: Changes = Field(default_factory=dict)
    """What differs in [training]."""
    evaluation: Changes = Field(default_factory=dict)
    """What differs in [evaluation]."""

    @model_validator(mode="after")
    def _one_weight_each(self) -> StageTable:
        if self.weights is not None and len(self.weights) != len(self.teachers or ("",)):
            raise mistake(f"{len(self.weights)} weights for {len(self.teachers or ('',))} teachers: give one for each")
        return self


class ListedStages(Table):
    """Stages one by one: a teacher, its assistant, the student."""

    kind: Literal["listed"]
    """listed: stages as they are written."""
    each: Annotated[tuple[StageTable, ...], Field(strict=False, min_length=1)]
    """The stages, in their order."""
    direct: bool = True
    """The last student also learns from the recipe's own teacher alone, for as long as all stages together."""

    @model_validator(mode="after")
    def _names_are_known(self) -> ListedStages:
        known = [OWN]
        for stage in self.each:
            if stage.name in (*known, "direct"):
                raise mistake(f"two stages (or a stage and what has that name already) are called {stage.name!r}")
            for teacher in stage.teachers or ():
                if teacher not in known:
                    raise mistake(
                        f"the stage {stage.name!r} is to be taught by {teacher!r}, and before it there are {', '.join(known)}"
                    )
            known.append(stage.name)
        return self


class Generations(Table):
    """Born again: a student of the same shape is the next one's teacher (Furlanello et al. 2018, arXiv:1805.04770)."""

    kind: Literal["generations"]
    """generations: each student is the next one's teacher."""
    count: Annotated[int, Field(ge=1, le=100)] = 2
    """How many after the first."""
    first: Literal["labels", "teacher"] = "labels"
    """What the first learns from: hard labels, or the recipe's own teacher."""
    direct: bool = True
    """One student also learns as the first does, for as long as all generations together."""


class Ensemble(Table):
    """Copies trained with different seeds, then one student that learns from all of them together."""

    kind: Literal["ensemble"]
    """ensemble: several seeds into one student."""
    copies: Annotated[int, Field(ge=2, le=100)] = 5
    """How many."""
    first: Literal["labels", "teacher"] = "labels"
    """What the copies learn from: hard labels, or the recipe's own teacher."""
    of: Literal["probabilities", "logits"] = "probabilities"
    """What of them is averaged."""
    text: Annotated[tuple[Text, ...], Field(strict=False)] = ()
    """More text that the student alone reads: where an ensemble is worth most."""
    longer: Annotated[float, Field(ge=1.0)] = 1.0
    """How many times as long the student learns as a copy."""
    direct: bool = True
    """One copy also learns for as long as all copies and the student together."""


class Progressive(Table):
    """Assistants between teacher and student where the gap is large (TAKD, Mirzadeh et al. 2020, arXiv:1902.03393)."""

    kind: Literal["progressive"]
    """progressive: as many assistants as the gap asks for."""
    gap: Annotated[float, Field(gt=1.0)] = 10.0
    """The largest step from one to the next: how many times as many parameters without embeddings. Below it there is no assistant."""
    assistants: Annotated[int, Field(ge=0, le=100)] | None = None
    """How many, whatever the gap; left out: as it asks for. They are cut from the teacher, at even ratios."""
    own_teacher_too: bool = False
    """The recipe's own teacher marks beside each assistant."""
    direct: bool = True
    """The student also learns from the recipe's own teacher alone, for as long as all stages together."""


StagesTable = Annotated[ListedStages | Generations | Ensemble | Progressive, Field(discriminator="kind")]
