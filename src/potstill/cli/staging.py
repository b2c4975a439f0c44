"""A run made of runs, with a person watching: each stage as `distill` does it, then all students side by side."""

from __future__ import annotations

import shutil
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from potstill.cli.console import next_step
from potstill.cli.running import run_recipe
from potstill.cli.tables import against
from potstill.cli.watching import Watching
from potstill.evaluation import (
    NEEDS_TEACHER,
    Measurement,
    ModelScores,
    compare,
    difference,
    score_table,
    scores_to_json,
)
from potstill.recipe import Recipe, build_job, recipe_toml
from potstill.recipe.schema import LENGTHS_OF_TRAINING
from potstill.recipe.specialists import is_teacher_heard
from potstill.recipe.staging import (
    DIRECT,
    PlannedStage,
    assistants_of,
    folder_of,
    make_untouched,
    plan_stages,
    recipe_of_stage,
    student_of,
    together_of,
)
from potstill.runs import Measured, RunFolder, measure_stages

_OVERVIEW = "overview"
_COLUMNS = {
    "perplexity": ("perplexity", "{:.2f}"),
    "accuracy": ("right", "{:.1%}"),
    "agreement": ("agrees", "{:.1%}"),
    "kl_to_teacher": ("KL, nats", "{:.3f}"),
}


def run_stages(recipe: Recipe, out: Path, console: Console) -> tuple[ModelScores, ...]:
    """Run the stages that are not finished, in their order, measure all students beside the recipe's own teacher, and leave stages.json
    and stages.md. The same call again goes on after a kill."""
    stages = plan_stages(recipe, assistants_of(recipe))
    folder = _begin(recipe, out)
    for number, stage in enumerate(stages, 1):
        taught = "hard labels" if _learns_labels(recipe, stage, out) else " and ".join(stage.teachers)
        console.print(f"\n[bold]stage {number}/{len(stages)}: {stage.name}[/bold], taught by {taught}")
        make_untouched(recipe, stage, out, lambda text: console.print(f"[dim]{escape(text)} …[/dim]"))
        decoded = recipe_of_stage(recipe, stage, out)
        if _is_finished(folder_of(out, stage.name), recipe_toml(decoded)):
            console.print("[dim]finished before[/dim]")
            continue
        shutil.rmtree(out / _OVERVIEW / "measurements", ignore_errors=True)
        run_recipe(decoded, folder_of(out, stage.name), console, is_stage=True)
    found = _overview(recipe, stages, out, console)
    rows = compare(found)
    folder.write_json("stages.json", {"models": scores_to_json(rows), "stages": _described(recipe, stages, out)})
    folder.write_text("stages.md", score_table(rows))
    _print(rows, console)
    last = [stage for stage in stages if stage.name != DIRECT][-1]
    if DIRECT in found:
        one, other = found[last.name], found[DIRECT]
        kl = difference(one, other, "kl_to_teacher") if one.has_teacher and other.has_teacher else None
        perplexity = difference(one, other, "perplexity")
        console.print(against("direct, as long as all stages together", perplexity, kl, who=escape(last.name)))
    console.print(
        f"\nstudent  [bold]{escape(str(student_of(out, last.name)))}[/bold]  (loads with AutoModelForCausalLM.from_pretrained)"
    )
    console.print(f"table    {escape(str(out / 'stages.md'))}  (each stage has its page: stages/NAME/report.html)")
    console.print(escape(next_step(folder_of(out, last.name))), soft_wrap=True)
    return rows


def _begin(recipe: Recipe, out: Path) -> RunFolder:
    """The folder of the whole, which belongs to this recipe; what each stage is of, its own folder knows."""
    return RunFolder.open(out, recipe_toml(recipe), {"stages": str(recipe.stages.kind if recipe.stages else "")})


def _is_finished(folder: Path, recipe: str) -> bool:
    """Whether this very run is done; another in its place is refused where it is opened."""
    done, kept = folder / "scores.json", folder / "recipe.toml"
    return done.exists() and kept.exists() and kept.read_text("utf-8") == recipe


def _overview(recipe: Recipe, stages: tuple[PlannedStage, ...], out: Path, console: Console) -> dict[str, Measurement]:
    own = recipe.model_copy(update={"stages": None, "name": _OVERVIEW})
    own = own.model_copy(update={"teacher": own.teacher.model_copy(update={"kind": "live", "correction": None})})
    built = build_job(own, out / _OVERVIEW, say=lambda text: None)
    students = {stage.name: student_of(out, stage.name) for stage in stages}
    found = {}
    with Watching(console) as watching:
        for event in watching.through(measure_stages(built.job, built.folder, students, together_of(stages, out))):
            if isinstance(event, Measured):
                found[event.name] = event.measurement
    return found


def _learns_labels(recipe: Recipe, stage: PlannedStage, out: Path) -> bool:
    return not is_teacher_heard(recipe_of_stage(recipe, stage, out).loss)


def _described(recipe: Recipe, stages: tuple[PlannedStage, ...], out: Path) -> list[dict[str, object]]:
    """What each stage was: who marked, for how long."""
    found: list[dict[str, object]] = []
    for stage in stages:
        training = recipe_of_stage(recipe, stage, out).training
        length = {unit: value for unit in LENGTHS_OF_TRAINING if (value := getattr(training, unit)) is not None}
        taught = ["labels"] if _learns_labels(recipe, stage, out) else list(stage.teachers)
        found.append({"name": stage.name, "teachers": taught, **length})
    return found


def _print(rows: tuple[ModelScores, ...], console: Console) -> None:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("", no_wrap=True)
    for name, _ in _COLUMNS.values():
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        cells = []
        for metric, (_, form) in _COLUMNS.items():
            score = row.scores.get(metric)
            is_itself = row.name == "teacher" and metric in NEEDS_TEACHER
            cells.append(
                "–"
                if score is None or is_itself
                else f"{form.format(score.value)}\n[dim]{form.format(score.low)}–{form.format(score.high)}[/dim]"
            )
        table.add_row(row.name, *cells)
    console.print()
    console.print(table)
    console.print(
        "[dim]all on the same held-out text, beside the recipe's own teacher; below each value its 95 % interval[/dim]"
    )
