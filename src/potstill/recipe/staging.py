"""A recipe of stages -> the recipes of its stages, each a whole run whose teachers are the students of earlier ones."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from potstill.errors import RecipeError
from potstill.recipe.schema import LENGTHS_OF_TRAINING, Recipe
from potstill.recipe.stages import OWN, Ensemble, Generations, ListedStages, Progressive
from potstill.recipe.text import Say, sources_of

if TYPE_CHECKING:
    from potstill.runs import Together

DIRECT = "direct"
# Settings of one table of a recipe.
Changes = Mapping[str, object]
# Of a smaller student's own shape an assistant has nothing.
_WHOLE: Changes = dict.fromkeys(("layers", "choose", "ffn", "heads", "kv_heads", "hidden"))
_QUIET: Changes = {"control": False, "control_same_time": False, "smoothing": False, "untouched": False, "speed": False}


@dataclass(frozen=True)
class PlannedStage:
    """One run of a run of runs.

    teachers  who marks: names of earlier stages, or OWN
    changes   tables of the recipe, and what in them differs
    of        what is averaged where there are several teachers
    """

    name: str
    teachers: tuple[str, ...]
    changes: Mapping[str, Changes] = field(default_factory=dict)
    weights: tuple[float, ...] | None = None
    of: Literal["probabilities", "logits"] = "probabilities"


def plan_stages(recipe: Recipe, assistants: int = 0) -> tuple[PlannedStage, ...]:
    """The stages of the recipe, the control last. `assistants`: how many a progressive one has (see `assistants_of`)."""
    match recipe.stages:
        case ListedStages() as listed:
            return _listed(recipe, listed)
        case Generations() as born:
            return _generations(recipe, born)
        case Ensemble() as many:
            return _ensemble(recipe, many)
        case Progressive() as gradual:
            return _progressive(recipe, gradual, assistants)
        case None:
            raise RecipeError("this recipe has no stages: run it with `potstill distill` as it is")


def assistants_of(recipe: Recipe) -> int:
    """How many assistants a progressive recipe has: the fewest that leave no step larger than its gap."""
    from potstill.models import load_shape, size_of
    from potstill.recipe.build import build_shape

    if not isinstance(recipe.stages, Progressive):
        return 0
    if recipe.stages.assistants is not None:
        return recipe.stages.assistants
    teacher = load_shape(recipe.teacher.model)
    large, small = (size_of(one).non_embedding for one in (teacher, build_shape(recipe.student, teacher)))
    return assistants_for(large / max(small, 1), recipe.stages.gap)


def assistants_for(ratio: float, gap: float) -> int:
    """ratio = gap^(assistants + 1), rounded up. Assistants gain less than seeds differ below tenfold gaps, so there the answer is 0."""
    return max(0, math.ceil(math.log(max(ratio, 1.0)) / math.log(gap) - 1e-9) - 1)


def recipe_of_stage(recipe: Recipe, stage: PlannedStage, out: Path) -> Recipe:
    """The whole recipe of one stage, in whose teacher's place stand the students of earlier ones, below `out`. RecipeError for changes
    that no recipe can have."""
    from potstill.recipe.decode import decode

    table: dict[str, object] = {**recipe.model_dump(exclude_none=True, exclude={"stages"}), "name": stage.name}
    for name, changes in stage.changes.items():
        table[name] = _merged(_inner(table, name), changes)
        if name == "training" and (given := [length for length in LENGTHS_OF_TRAINING if length in changes]):
            dropped = set(LENGTHS_OF_TRAINING) - set(given)
            table[name] = {key: value for key, value in _inner(table, name).items() if key not in dropped}
    if stage.teachers != (OWN,):
        if _inner(table, "student")["kind"] != "model":
            table["student"] = {"kind": "model", "model": str(untouched_of(out, stage))}
        table["teacher"] = _teachers(recipe, stage, out)
    return decode(table, source=f"stage {stage.name}")


def _teachers(recipe: Recipe, stage: PlannedStage, out: Path) -> dict[str, object]:
    """[teacher] of a stage that earlier ones teach."""
    models = [recipe.teacher.model if name == OWN else str(student_of(out, name)) for name in stage.teachers]
    if len(models) == 1:
        return {"model": models[0]}
    weights = stage.weights or (1.0,) * len(models)
    others = [
        {"model": model, "name": name, "weight": weight}
        for model, name, weight in zip(models[1:], stage.teachers[1:], weights[1:], strict=True)
    ]
    mixture = {"name": stage.teachers[0], "weight": weights[0], "others": others, "of": stage.of}
    return {"model": models[0], "mixture": mixture}


def check_stages(recipe: Recipe) -> None:
    """RecipeError for a stage that no run could be made of."""
    if recipe.student.kind == "search":
        raise RecipeError('a search (student.kind = "search") has no stages: leave [stages] out')
    if recipe.teacher.mixture is not None or recipe.teacher.average is not None:
        raise RecipeError("stages say who marks, and so do teacher.mixture and teacher.average: leave one out")
    if recipe.teacher.kind != "live":
        raise RecipeError(
            f'stages need a teacher that is asked: set teacher.kind = "live", found "{recipe.teacher.kind}"'
        )
    for stage in plan_stages(recipe):
        if recipe.teacher.correction is not None and OWN in stage.teachers and len(stage.teachers) > 1:
            raise RecipeError(
                f"stage {stage.name}: a corrected teacher marks alone: leave teacher.correction out, or let the stage have one teacher"
            )
        if recipe_of_stage(recipe, stage, Path("runs") / recipe.name).training.int4 is not None:
            raise RecipeError(
                f"stage {stage.name}: students teach one another with the weights behind the grid, and not as they are scored: leave "
                "training.int4 out, and let the student that the stages leave learn through four bits in a run of its own"
            )


def make_untouched(recipe: Recipe, stage: PlannedStage, out: Path, say: Say) -> None:
    """Save the student of the stage as it is before it learns, made from the recipe's own teacher: what marks it has other layers."""
    from potstill.models import load_model, on_this_device, save_model
    from potstill.recipe.build import build_importance, build_student
    from potstill.recipe.job import shared_tokenizer
    from potstill.recipe.labelling import labelled_text

    place = untouched_of(out, stage)
    own = recipe_of_stage(recipe, replace(stage, teachers=(OWN,)), out)
    if stage.teachers == (OWN,) or own.student.kind == "model" or (place / "config.json").exists():
        return
    say(f"making the student of the stage {stage.name}")
    model = load_model(own.teacher.model)
    _, tokenizer = shared_tokenizer(own, model, build_student(own.student, model)[0])
    importance = None
    if own.student.kind == "prune":
        importance = build_importance(
            own.student, on_this_device(model), labelled_text(own, tokenizer), own.training.length
        )
    save_model(build_student(own.student, model, importance)[0].to("cpu"), tokenizer, place)  # type: ignore[arg-type]


def folder_of(out: Path, name: str) -> Path:
    """Where the run of a stage lies."""
    return out / "stages" / name


def student_of(out: Path, name: str) -> Path:
    """Where its student lies."""
    return folder_of(out, name) / "student"


def together_of(stages: Sequence[PlannedStage], out: Path) -> dict[str, Together]:
    """The mixtures that marked, by a name that says of whom."""
    from potstill.runs import Together

    found = {}
    for stage in stages:
        if len(stage.teachers) > 1 and OWN not in stage.teachers:
            paths = tuple(student_of(out, name) for name in stage.teachers)
            weights = stage.weights or (1.0,) * len(paths)
            found[f"{stage.teachers[0]} to {stage.teachers[-1]} together"] = Together(paths, weights, stage.of)
    return found


def untouched_of(out: Path, stage: PlannedStage) -> Path:
    """Where its student lies as it was before it learned."""
    return out / "untouched" / stage.name


def _listed(recipe: Recipe, listed: ListedStages) -> tuple[PlannedStage, ...]:
    stages: list[PlannedStage] = []
    for table in listed.each:
        teachers = table.teachers or ((stages[-1].name,) if stages else (OWN,))
        changes = {name: getattr(table, name) for name in ("student", "data", "loss", "training", "evaluation")}
        stages.append(
            PlannedStage(table.name, teachers, {name: found for name, found in changes.items() if found}, table.weights)
        )
    return (*stages, *(_direct(recipe, stages) if listed.direct else ()))


def _generations(recipe: Recipe, born: Generations) -> tuple[PlannedStage, ...]:
    stages = [_seeded(recipe, PlannedStage("generation-0", (OWN,), _first(born.first)), 0)]
    for number in range(1, born.count + 1):
        changes: dict[str, Changes] = {} if number == born.count else {"evaluation": _QUIET}
        stages.append(
            _seeded(recipe, PlannedStage(f"generation-{number}", (f"generation-{number - 1}",), changes), number)
        )
    return (*stages, *(_direct(recipe, stages, _first(born.first)) if born.direct else ()))


def _ensemble(recipe: Recipe, many: Ensemble) -> tuple[PlannedStage, ...]:
    copies = [
        _seeded(recipe, PlannedStage(f"copy-{number + 1}", (OWN,), _first(many.first)), number)
        for number in range(many.copies)
    ]
    changes: dict[str, Changes] = {}
    if many.text:
        changes["data"] = {"source": [*sources_of(recipe.data), *many.text]}
    if many.longer != 1:
        changes["training"] = _scaled(recipe, many.longer)
    student = PlannedStage("student", tuple(copy.name for copy in copies), changes, of=many.of)
    stages = [*copies, _seeded(recipe, student, many.copies)]
    return (*stages, *(_direct(recipe, stages, _first(many.first)) if many.direct else ()))


def _progressive(recipe: Recipe, gradual: Progressive, assistants: int) -> tuple[PlannedStage, ...]:
    """All stages together take as long as the recipe says, so the direct way is the recipe itself."""
    share = 1 / (assistants + 1)
    stages: list[PlannedStage] = []
    for number in range(1, assistants + 1):
        to = _share_of_student(recipe) ** (number * share)
        changes: dict[str, Changes] = {
            "student": {"kind": "prune", "to": to, **_WHOLE},
            "training": _scaled(recipe, share),
            "evaluation": _QUIET,
        }
        stages.append(PlannedStage(f"assistant-{number}", _before(stages, gradual), changes))
    training: dict[str, Changes] = {"training": _scaled(recipe, share)} if assistants else {}
    stages.append(PlannedStage("student", _before(stages, gradual), training))
    if not assistants or not gradual.direct:
        return tuple(stages)
    return (*stages, PlannedStage(DIRECT, (OWN,), {"evaluation": _QUIET}))


def _before(stages: Sequence[PlannedStage], gradual: Progressive) -> tuple[str, ...]:
    if not stages:
        return (OWN,)
    return (stages[-1].name, OWN) if gradual.own_teacher_too else (stages[-1].name,)


def _share_of_student(recipe: Recipe) -> float:
    from potstill.models import load_shape, size_of
    from potstill.recipe.build import build_shape

    teacher = load_shape(recipe.teacher.model)
    return size_of(build_shape(recipe.student, teacher)).non_embedding / size_of(teacher).non_embedding


def _first(kind: str) -> dict[str, Changes]:
    """How those learn who have no earlier stage to learn from."""
    quiet: dict[str, Changes] = {"evaluation": _QUIET}
    return quiet | {"loss": {"alpha": 0.0, "annealing": None}} if kind == "labels" else quiet


def _direct(
    recipe: Recipe, stages: Sequence[PlannedStage], changes: Mapping[str, Changes] | None = None
) -> tuple[PlannedStage]:
    """The last student from the recipe's own teacher (or as `changes` has it), for as long as all stages together."""
    lengths = [recipe_of_stage(recipe, stage, Path("runs") / recipe.name).training for stage in stages]
    units = {unit for one in lengths for unit in LENGTHS_OF_TRAINING if getattr(one, unit) is not None}
    if len(units) != 1:
        raise RecipeError(
            f"stages.direct learns for as long as all stages together, and these are as long as {' and '.join(sorted(units))} say: "
            "give all lengths in one of them, or set stages.direct = false"
        )
    unit = units.pop()
    last = dict(stages[-1].changes)
    last.pop("data", None)
    found: dict[str, Changes] = {**last, **(changes or {}), "evaluation": _QUIET}
    found["training"] = _merged(last.get("training", {}), {unit: sum(getattr(one, unit) for one in lengths)})
    return (PlannedStage(DIRECT, (OWN,), found),)


def _seeded(recipe: Recipe, stage: PlannedStage, number: int) -> PlannedStage:
    """With seeds of its own: of the order of the text, and of the weights where they are random."""
    changes = dict(stage.changes)
    training = {**changes.get("training", {}), "seed": recipe.training.seed + number}
    changes["training"] = training
    if recipe.student.kind == "fresh":
        changes["student"] = {"seed": recipe.student.seed + number}
    return replace(stage, changes=changes)


def _scaled(recipe: Recipe, share: float) -> Changes:
    for unit in LENGTHS_OF_TRAINING:
        if (length := getattr(recipe.training, unit)) is not None:
            return {unit: length * share if unit == "epochs" else max(1, round(length * share))}
    raise AssertionError("a recipe says how long")


def _inner(table: Mapping[str, object], name: str) -> dict[str, object]:
    found = table[name]
    assert isinstance(found, dict)
    return found


def _merged(table: Mapping[str, object], changes: Mapping[str, object]) -> dict[str, object]:
    """The table with the changes in it; a table of another kind takes the place of the old one."""
    if "kind" in changes and changes["kind"] != table.get("kind"):
        return dict(changes)
    found = dict(table)
    for name, value in changes.items():
        old = found.get(name)
        found[name] = _merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return found
