"""The page of a search for the smallest student, made of the files in its folder alone: scores.json, speeds, steps, recipe, manifest."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from potstill.errors import DataError
from potstill.evaluation import Measurement, load_scores
from potstill.reports.card import write_card
from potstill.reports.costs import cost_table, label_table
from potstill.reports.deployment import deployment_tables
from potstill.reports.distillation import environment_of, score_rows
from potstill.reports.html import write_report
from potstill.reports.markdown import write_markdown
from potstill.reports.page import (
    Card,
    Cell,
    Chart,
    Code,
    Curve,
    Page,
    Row,
    Scatter,
    Spot,
    Strip,
    Table,
)
from potstill.reports.sentences import advice_on, compression_verdict
from potstill.reports.words import word_for_word
from potstill.runs import RunFolder, RunScores
from potstill.runs.folder import SPEEDS
from potstill.search.smallest import OUT

Facts = Mapping[str, Any]
_TOLD = (
    *("teacher", "bars", "looks", "judged", "chosen", "holds", "verdicts", "candidates", "controls", "int4"),
    *("models", "sizes", "cost", "price_per_hour", "labels", "lineage", "breakdown", "habits", "text"),
)
_KINDS = {
    "o": "judged on held-out text",
    "^": "where its learning curve is going",
    "s": "hard labels",
    "x": "untouched",
    "D": "four bits",
}


def write_compression(folder: Path) -> Path:
    """report.html, report.md and the student's model card from what lies in `folder`; DataError where a file is missing or damaged."""
    found = _json(folder / "scores.json")
    if not isinstance(found, Mapping) or found.get("kind") != "compress":
        raise DataError(f"{folder} holds no search: run `potstill compress` there")
    if missing := [name for name in _TOLD if name not in found]:
        raise DataError(
            f"{folder / 'scores.json'} has no {missing[0]!r}: run the search again, it goes on from what is there"
        )
    page = compression_page(folder, found)
    write_markdown(page, folder / "report.md")
    write_card(folder, found)
    return write_report(page, folder / "report.html")


def compression_page(folder: Path, found: Facts) -> Page:
    """The page for these findings."""
    speeds = _speeds(folder)
    recipe = (folder / "recipe.toml").read_text("utf-8")
    manifest = _json(folder / "manifest.json") if (folder / "manifest.json").exists() else {}
    return Page(
        title=f"The smallest student of {Path(str(found['teacher'])).name.removesuffix('.gguf')}",
        lead=compression_verdict(found),
        cards=tuple(_cards(found, speeds)),
        tables=(
            _ladder_table(found),
            _models_table(folder),
            cost_table(found, speeds, price_per_hour=found["price_per_hour"]),
            *_breakdown_tables(found),
            _habits_table(found),
            label_table(found["labels"]),
            *deployment_tables(folder),
        ),
        curves=(*_scatters(found), *_learning(found), *_calibration(folder, found)),
        parts=(_lineage(found), word_for_word(found), _loading(folder, found)),
        notes=tuple(_notes(found)),
        charts_first=True,
        settings=recipe,
        environment=environment_of(manifest),
    )


def _cards(found: Facts, speeds: Facts) -> Iterator[Card]:
    for verdict in found["verdicts"]:
        form = _form(verdict)
        low, high = (_said(form, verdict[end]) for end in ("low", "high"))
        yield Card(
            verdict["bar"], _said(form, verdict["value"]), f"interval {low} – {high}, {verdict['n']:,} documents"
        )
    teacher, student = (found["sizes"][name] for name in ("teacher", "distilled"))
    yield Card(
        "parameters without embeddings",
        f"{student['non_embedding'] / teacher['non_embedding']:.0%}",
        f"{student['non_embedding'] / 1e6:,.2f} M of {teacher['non_embedding'] / 1e6:,.2f} M",
    )
    if speeds:
        fast, slow = (speeds[name]["decode_tokens_per_second"] for name in ("distilled", "teacher"))
        yield Card("writing speed", f"{fast / slow:.2f} ×", f"{fast:,.0f} against {slow:,.0f} tokens/s")
    if found["int4"] is not None:
        four = found["int4"]
        yield Card(
            "in four bits",
            "clears it too" if four["holds"] else "misses the bar",
            f"{four['bytes'] / 1e6:,.1f} MB"
            + (", after learning through the rounding" if four["learned_through_rounding"] else ""),
        )
    yield Card(
        "search",
        f"{found['cost']['multiple']:.2f} ×",
        f"the training of this student alone; {found['cost']['trained']} trained",
    )


def _ladder_table(found: Facts) -> Table:
    rows = []
    for one in sorted(found["candidates"], key=lambda each: -each["sizes"]["model"]["non_embedding"]):
        looks = max((len(points) for points in one["curves"].values()), default=0)
        last = next(iter(one["curves"].values()))[-1:] if one["curves"] else []
        fate = "left out untrained" if one["screened_out"] else "not needed"
        if looks:
            fate = "out" if (one["chance"] or 0.0) < OUT else "stopped: not needed"
        if one["verdicts"] is not None:
            fate = "clears the bar" if all(verdict["holds"] for verdict in one["verdicts"]) else "misses the bar"
        reaches = "–" if one["predicted"] is None else f"{one['predicted'][0]:.1%} ± {2 * one['predicted'][1]:.1%}"
        cells = [
            f"{one['sizes']['model']['non_embedding'] / 1e6:,.2f} M",
            "–" if one["untrained_kl"] is None else f"{one['untrained_kl']:.2f}",
            f"{last[0]['tokens']:,}" if last else "–",
            reaches,
            fate,
        ]
        rows.append(Row(one["name"], [Cell(cell) for cell in cells], is_highlighted=one["name"] == found["chosen"]))
    return Table(
        "Every candidate",
        [
            "not embeddings",
            "KL untrained, nats",
            "tokens read",
            "predicted, of the bar",
            "fate",
        ],
        rows,
        "candidate",
        "Predicted: where its learning curve on text to choose by is going, as a share of what held-out text asks for, ± 2 standard "
        "deviations.",
    )


def _models_table(folder: Path) -> Table:
    models = load_scores(folder / "scores.json")
    return score_rows(RunScores(models, {}, {}), next(iter(models)).scores["accuracy"].n)


def _breakdown_tables(found: Facts) -> Iterator[Table]:
    groups = found["breakdown"]["groups"]
    rows = [
        Row(
            f"{one['by']} {one['name']}",
            [Cell(f"{one['count']:,}"), *(Cell(f"{one[who]:.1%}") for who in ("teacher", "student", "agree"))],
        )
        for one in groups
    ]
    yield Table(
        "Where they differ",
        ["predictions", "teacher right", "student right", "they agree"],
        rows,
        "predictions where",
        "On the beginning of the held-out text. Tokens by their frequency in it; positions count from the beginning of the context.",
    )


def _habits_table(found: Facts) -> Table:
    names = {"teacher": "teacher", "distilled": "distilled", "hard_labels": "hard labels, same tokens"}
    rows = [
        Row(names[who], [Cell(_said("{:.1%}", one[what])) for what in ("copying", "repetition")], who == "distilled")
        for who, one in found["habits"].items()
    ]
    return Table(
        "Copying and repeating",
        ["random tokens copied", "runs repeated"],
        rows,
        "model",
        "Known blind spots of distilled models. Copied: of random tokens shown twice, those predicted the second time. Repeated: of what "
        "is "
        "written greedily after 16 held-out beginnings, runs of four tokens that were written before.",
    )


def _scatters(found: Facts) -> Iterator[Scatter]:
    for place, verdict in enumerate(found["verdicts"]):
        spots = []
        for one in found["candidates"]:
            size = one["sizes"]["model"]["non_embedding"] / 1e6
            is_chosen = one["name"] == found["chosen"]
            if one["verdicts"] is not None:
                judged = one["verdicts"][place]
                spots.append(_spot(one["name"], size, judged, "o", is_chosen))
            elif one["predicted"] is not None and place == 0 and len(found["verdicts"]) == 1:
                value, error = (part * verdict["least"] for part in one["predicted"])
                spots.append(Spot("", size, value, value - 2 * error, value + 2 * error, "^"))
        size = found["sizes"]["distilled"]["non_embedding"] / 1e6
        for name, mark in (("hard_labels", "s"), ("untouched", "x")):
            if name in found["controls"]:
                spots.append(_spot("", size, found["controls"][name][place], mark, False))
        if found["int4"] is not None:
            spots.append(_spot("", size, found["int4"]["verdicts"][place], "D", False))
        level = verdict["least"] if found["bars"] else None
        yield Scatter(
            "Quality against size",
            "parameters that are not embeddings, millions",
            verdict["metric"] if verdict["absolute"] else f"share of the teacher's {verdict['metric']}",
            spots,
            _KINDS,
            level,
            "the bar" if level is not None else "",
            "Lines are intervals: of what was judged, those the verdict was made by; of predictions, ± 2 standard deviations.",
        )


def _spot(label: str, x: float, verdict: Facts, mark: str, is_highlighted: bool) -> Spot:
    nan = float("nan")
    low, high = (nan if verdict[end] is None else verdict[end] for end in ("low", "high"))
    return Spot(label, x, verdict["value"], low, high, mark, is_highlighted)


def _learning(found: Facts) -> Iterator[Chart]:
    for bar in next(iter(found["candidates"]))["curves"]:
        curves = [
            Curve(
                one["name"],
                [point["tokens"] for point in points],
                [point["value"] for point in points],
                one["name"] == found["chosen"],
            )
            for one in found["candidates"]
            if len(points := one["curves"].get(bar, [])) > 1
        ]
        if curves:
            yield Chart(
                "Learning",
                "tokens read",
                bar if len(bar) < 60 else "value of the bar",
                curves,
                "On text to choose by, each look after the learning rate has fallen.",
            )


def _calibration(folder: Path, found: Facts) -> Iterator[Chart]:
    """How sure, against how often right."""
    curves = []
    for who, path in (
        ("teacher", folder / "measurements" / "held_out.npz"),
        ("distilled", _newest(folder / "candidates" / found["chosen"])),
    ):
        measured = Measurement.load(path)
        count, confidence, right = (getattr(measured, name).sum(0) for name in ("count", "confidence", "right"))
        some = count > 20
        curves.append(
            Curve(
                who, (confidence[some] / count[some]).tolist(), (right[some] / count[some]).tolist(), who == "distilled"
            )
        )
    curves.append(Curve("perfect", [0.0, 1.0], [0.0, 1.0]))
    yield Chart(
        "Calibration",
        "how sure of its likeliest token",
        "how often it is right",
        curves,
        "In 15 bins of equal width, those with more than 20 predictions.",
    )


def _newest(candidate: Path) -> Path:
    """What a candidate did on held-out text, as it is now."""
    found = sorted(candidate.glob("held_out-*.npz"), key=lambda path: int(path.stem.rpartition("-")[2]))
    return found[-1] if found else candidate / "held_out.npz"


def _lineage(found: Facts) -> Strip:
    shape = found["shape"]
    kept = set(found["lineage"])
    cut = [f"{name}: {shape[name]}" for name in ("ffn", "heads", "kv_heads", "hidden") if shape[name] is not None]
    widths = f" Of each layer: {', '.join(cut)}." if cut else " Layers are as wide as the teacher's."
    layers = max(kept) + 1 if kept else 0
    return Strip(
        "What was cut",
        [(str(layer), layer in kept) for layer in range(max(layers, int(found.get("teacher_layers", layers))))],
        f"The teacher's layers, those that the student begins as filled.{widths}",
    )


def _loading(folder: Path, found: Facts) -> Code:
    student = (folder / "student").as_posix()
    return Code(
        "How to load it",
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        f'model = AutoModelForCausalLM.from_pretrained("{student}")\n'
        f'tokenizer = AutoTokenizer.from_pretrained("{student}")\n'
        'inputs = tokenizer("def ", return_tensors="pt")\n'
        "print(tokenizer.decode(model.generate(**inputs, max_new_tokens=32)[0]))\n",
    )


def _notes(found: Facts) -> Iterator[str]:
    text = found["text"]
    yield (
        f"The student read {text['read']:,} tokens of {text['documents']:,} documents; candidates were chosen by "
        f"{text['chosen_by']['documents']:,} others, and judged by {text['judged_by']['documents']:,} that nothing was chosen by. At most "
        f"{found['looks']} candidates could be judged, so each interval is as much wider than 95 % as keeps all verdicts together at 95 %."
    )
    if advice := advice_on(found):
        yield advice
    yield "The control learned from the same batches in the same order, by cross-entropy on the text itself."


def _form(verdict: Facts) -> str:
    return "{:.3g}" if verdict["absolute"] else "{:.1%}"


def _said(form: str, value: float | None) -> str:
    return "–" if value is None else form.format(value)


def _speeds(folder: Path) -> Facts:
    if not (folder / SPEEDS).exists():
        return {}
    return {name: asdict(found) for name, found in RunFolder(folder).speeds().items()}


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(
            f"{path} can't be read ({error}): run the search again, it goes on from what is there"
        ) from error
