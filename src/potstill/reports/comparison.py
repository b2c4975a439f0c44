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

_SHOWN = ("distilled", "hard_labels")


def rebuilt(run: Path) -> Path:
    """report.html of a run, from the files in its folder; DataError where there is no run, RunDirectoryError for damaged facts."""
    found = _scores(run)
    if found.get("kind") == "compress":
        return write_compression(run)
    models = load_scores(run / "scores.json")
    sizes = {name: Size(**size) for name, size in found["sizes"].items()}
    worth = None if found.get("worth") is None else Worth.from_json(found["worth"])
    speeds = {name: Speed(**figures) for name, figures in found["speeds"].items()}
    scores = RunScores(models, sizes, speeds, worth)
    steps = {model.name: RunFolder(run).steps(model.name) for model in models}
    recipe = (run / "recipe.toml").read_text("utf-8")
    manifest = RunFolder(run).read_json("manifest.json")
    return write_report(distillation_page(run.name, scores, steps, recipe, manifest), run / "report.html")


def compared(runs: Sequence[Path]) -> Page:
    """Students of several runs side by side, with their controls. Runs of other text are shown, and said to be."""
    rows, intervals, sizes = [], [], []
    tokens = set()
    for run in runs:
        found, models = _scores(run), {model.name: model for model in load_scores(run / "scores.json")}
        for name in _SHOWN:
            if name in models:
                rows.append(_row(run, models[name], name))
        # A teacher of other tokens has no accuracy to keep.
        if (kept := models["distilled"].kept.get("accuracy")) is not None:
            intervals.append(Interval(run.name, kept.value, kept.low, kept.high))
        tokens.add(models["distilled"].scores["accuracy"].n)
        student, teacher = found["sizes"]["distilled"], found["sizes"]["teacher"]
        share = student["non_embedding"] / teacher["non_embedding"]
        sizes.append(Row(run.name, [Cell(f"{student['non_embedding'] / 1e6:,.2f} M"), Cell(f"{share:.0%}")]))
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
    found: Any = RunFolder(run).read_json("stages.json")
    return [shlex.quote(str(run / "stages" / stage["name"])) for stage in found["stages"]]
