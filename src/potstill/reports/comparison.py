"""Runs made into pages again, and several runs on one page."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from potstill.errors import DataError, RunDirectoryError
from potstill.evaluation import ModelScores, Speed, load_scores
from potstill.models import Size
from potstill.reports.compression import write_compression
from potstill.reports.distillation import distillation_page
from potstill.reports.html import write_report
from potstill.reports.page import Cell, Interval, IntervalChart, Page, Row, Table, number_cell, share_cell
from potstill.runs import RunFolder, RunScores, Worth

_BOTH = ("teacher", "distilled")
_SHOWN = ("distilled", "hard_labels")


def rebuilt(run: Path) -> Path:
    """report.html of a run, from the files in its folder; DataError where there is no run, RunDirectoryError for damaged facts."""
    found = _scores(run)
    if found.get("kind") == "compress":
        return write_compression(run)
    models = _models(run)
    scores = RunFolder(run).read_as("scores.json", lambda found: _run_scores(found, models))
    steps = {model.name: RunFolder(run).steps(model.name) for model in models}
    recipe = (run / "recipe.toml").read_text("utf-8")
    manifest = RunFolder(run).read_json("manifest.json")
    return write_report(distillation_page(run.name, scores, steps, recipe, manifest), run / "report.html")


def compared(runs: Sequence[Path]) -> Page:
    """Students of several runs side by side, with their controls. Runs of other text are shown, and said to be."""
    rows, intervals, sizes = [], [], []
    tokens = set()
    for run in runs:
        _scores(run)  # is there a run?
        models = {model.name: model for model in _models(run)}
        for name in _SHOWN:
            if name in models:
                rows.append(_row(run, models[name], name))
        # A teacher of other tokens has no accuracy to keep.
        if (kept := models["distilled"].kept.get("accuracy")) is not None:
            intervals.append(Interval(run.name, kept.value, kept.low, kept.high))
        tokens.add(models["distilled"].scores["accuracy"].n)
        student, teacher = RunFolder(run).read_as("scores.json", _non_embedding)
        sizes.append(Row(run.name, [Cell(f"{student / 1e6:,.2f} M"), Cell(f"{student / teacher:.0%}")]))
    return Page(
        title="Runs compared",
        lead=f"{len(runs)} runs: {', '.join(run.name for run in runs)}.",
        tables=(
            Table("On held-out text", ["right", "accuracy kept", "perplexity", "agrees with teacher"], rows, "student"),
            Table("Size", ["not embeddings", "of the teacher"], sizes, "run"),
        ),
        curves=(IntervalChart("Accuracy kept", "share of the teacher's", intervals),) if intervals else (),
        notes=()
        if len(tokens) == 1
        else ("These runs were scored on different numbers of documents: compare what each keeps of its own teacher.",),
    )


def _models(run: Path) -> tuple[ModelScores, ...]:
    """Those in scores.json; DataError where the student is not among them."""
    found = load_scores(run / "scores.json")
    if not any(model.name == "distilled" and "accuracy" in model.scores for model in found):
        raise DataError(f"{run / 'scores.json'} has no scores of a distilled student: delete it and run again")
    return found


def _run_scores(found: Mapping[str, Any], models: tuple[ModelScores, ...]) -> RunScores:
    sizes = {name: Size(**found["sizes"][name]) for name in _BOTH}
    worth = None if found.get("worth") is None else Worth.from_json(found["worth"])
    speeds = {name: Speed(**found["speeds"][name]) for name in _BOTH} if found["speeds"] else {}
    return RunScores(models, sizes, speeds, worth)


def _non_embedding(found: Mapping[str, Any]) -> tuple[int, int]:
    """Parameters of student and teacher."""
    teacher, student = (int(found["sizes"][name]["non_embedding"]) for name in _BOTH)
    return student, teacher


def _row(run: Path, model: ModelScores, name: str) -> Row:
    right, kept, perplexity, agrees = (
        group.get(metric)
        for group, metric in (
            (model.scores, "accuracy"),
            (model.kept, "accuracy"),
            (model.scores, "perplexity"),
            (model.scores, "agreement"),
        )
    )
    cells = [share_cell(one.value, one.low, one.high) if one else Cell("–") for one in (right, kept)]
    cells.append(
        number_cell(perplexity.value, perplexity.low, perplexity.high, decimals=2) if perplexity else Cell("–")
    )
    cells.append(share_cell(agrees.value, agrees.low, agrees.high) if agrees else Cell("–"))
    return Row(f"{run.name}, {name.replace('_', ' ')}", cells, name == "distilled")


def _scores(run: Path) -> Mapping[str, Any]:
    if (run / "stages.json").is_file():
        raise DataError(
            f"{run} is a run of stages, whose table is {run / 'stages.md'}: give stages for a page, "
            f"`potstill report {' '.join(_stages_of(run))}`"
        )
    try:
        return RunFolder(run).read_json("scores.json")
    except RunDirectoryError as error:
        raise DataError(
            f"{run} holds no finished run ({error}): give the folder of `potstill compress`, `distill` or `demo`; of a run "
            "of stages, one of its stages/NAME"
        ) from error


def _stages_of(run: Path) -> list[str]:
    """The folders of its stages, in their order."""
    return RunFolder(run).read_as(
        "stages.json", lambda found: [shlex.quote(str(run / "stages" / one["name"])) for one in found["stages"]]
    )
