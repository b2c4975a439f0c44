"""Several models measured on the same text, side by side: rows of scores, as data, as JSON, as a Markdown table."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from potstill.errors import DataError
from potstill.evaluation.measuring import Measurement, written_whole
from potstill.evaluation.scores import METRICS, NEEDS_TEACHER, OF_ANY_TOKENS, difference, retention, score
from potstill.types import Score

RETAINED = ("accuracy", "perplexity", "bits_per_byte")
COMPARED = ("perplexity", "accuracy", "agreement", "kl_to_teacher")

# Title, and how a value is written.
_COLUMNS: Mapping[str, tuple[str, str]] = {
    "perplexity": ("perplexity", "{:.2f}"),
    "accuracy": ("right", "{:.1%}"),
    "agreement": ("agrees with teacher", "{:.1%}"),
    "kl_to_teacher": ("KL to teacher, nats", "{:.3f}"),
    "bits_per_byte": ("bits per byte", "{:.3f}"),
    "calibration_error": ("calibration error", "{:.3f}"),
}


@dataclass(frozen=True)
class ModelScores:
    """One model's scores, what it keeps of the teacher, and how the distilled student differs from it (student - model)."""

    name: str
    scores: Mapping[str, Score]
    kept: Mapping[str, Score]
    distilled_minus_this: Mapping[str, Score]


def compare(measurements: Mapping[str, Measurement]) -> tuple[ModelScores, ...]:
    """A row for each model, in the order given, beside "teacher" and "distilled" where they are among them.

    Metrics that need a teacher are left out of the row of a model that was measured without one. Of a teacher that cuts the text
    into other tokens only bits per byte are given: all else is a matter of tokens. Raises DataError when the models were not
    measured on the same text.
    """
    teacher, distilled = measurements.get("teacher"), measurements.get("distilled")
    rows = []
    for name, found in measurements.items():
        kept, compared = {}, {}
        if teacher is not None and name != "teacher":
            names = _measured((found, teacher), RETAINED)
            kept = {metric: retention(found, teacher, metric) for metric in _comparable(names, found, teacher)}
        if distilled is not None and name not in ("teacher", "distilled"):
            both = _measured((found, distilled), COMPARED)
            compared = {metric: difference(distilled, found, metric) for metric in both}
        beside = found if distilled is None else distilled
        names = _comparable(_measured((found,), METRICS), found, beside)
        scores = {metric: score(found, metric) for metric in names}
        rows.append(ModelScores(name, scores, kept, compared))
    return tuple(rows)


def score_table(rows: Sequence[ModelScores]) -> str:
    """A Markdown table: a line a model, values with their 95 % intervals, and what each keeps of the teacher's accuracy.

    The teacher beside itself is a dash, and so is what was not measured.
    """
    metrics = [metric for metric in _COLUMNS if any(metric in row.scores for row in rows)]
    has_kept = any("accuracy" in row.kept for row in rows)
    titles = ["model", *(_COLUMNS[metric][0] for metric in metrics), *(["accuracy kept"] if has_kept else [])]
    lines = [titles, ["---", *("---:" for _ in titles[1:])]]
    for row in rows:
        itself = NEEDS_TEACHER if row.name == "teacher" else frozenset()
        found = [(None if metric in itself else row.scores.get(metric), _COLUMNS[metric][1]) for metric in metrics]
        found += [(row.kept.get("accuracy"), "{:.1%}")] if has_kept else []
        lines.append([row.name.replace("_", " "), *(_cell(value, form) for value, form in found)])
    counts = sorted({value.n for row in rows for value in row.scores.values()})
    note = f"In brackets 95 % intervals, from a bootstrap over {' or '.join(f'{n:,}' for n in counts)} documents."
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + f"\n\n{note}\n"


def scores_to_json(rows: Iterable[ModelScores]) -> dict[str, object]:
    """Plain dictionaries by model: value, low, high and n a metric. What is not a number is null, which JSON knows."""
    return {
        row.name: {
            group: {metric: _plain(found) for metric, found in getattr(row, group).items()}
            for group in ("scores", "kept", "distilled_minus_this")
        }
        for row in rows
    }


def save_scores(rows: Iterable[ModelScores], path: Path) -> None:
    """Write {"models": rows}, whole or not at all; RunDirectoryError when the file can't be written."""
    with written_whole(path) as part:
        part.write_text(json.dumps({"models": scores_to_json(rows)}, indent=2, allow_nan=False) + "\n", "utf-8")


def load_scores(path: Path) -> tuple[ModelScores, ...]:
    """The rows in a file with "models", a run's scores.json among them; DataError when they can't be read."""
    try:
        models = json.loads(path.read_text("utf-8"))["models"]
        return tuple(
            ModelScores(
                name,
                *(
                    {metric: _score(found) for metric, found in groups[group].items()}
                    for group in ("scores", "kept", "distilled_minus_this")
                ),
            )
            for name, groups in models.items()
        )
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} holds no scores ({error}): delete it and run again") from error


def _measured(measurements: Iterable[Measurement], metrics: Iterable[str]) -> list[str]:
    found = list(measurements)
    has_teacher = all(one.has_teacher for one in found)
    has_text = all(one.bytes.any() for one in found)  # classes are none
    return [
        metric
        for metric in metrics
        if (has_teacher or metric not in NEEDS_TEACHER) and (has_text or metric != "bits_per_byte")
    ]


def _comparable(metrics: Iterable[str], one: Measurement, other: Measurement) -> list[str]:
    """What says the same of both: where they cut one text into different tokens, little."""
    is_cut_alike = np.array_equal(one.tokens, other.tokens) or not np.array_equal(one.bytes, other.bytes)
    return [metric for metric in metrics if is_cut_alike or metric in OF_ANY_TOKENS]


def _cell(found: Score | None, form: str) -> str:
    if found is None or not math.isfinite(found.value):
        return "–"
    value = form.format(found.value)
    if not (math.isfinite(found.low) and math.isfinite(found.high)):
        return value
    return f"{value} ({form.format(found.low)} to {form.format(found.high)})"


def _plain(found: Score) -> dict[str, object]:
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in asdict(found).items()
    }


def _score(found: Mapping[str, object]) -> Score:
    value, low, high = (math.nan if found[key] is None else float(str(found[key])) for key in ("value", "low", "high"))
    return Score(str(found["metric"]), value, low, high, int(str(found["n"])))
