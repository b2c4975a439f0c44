"""The page of a distillation run: what the student keeps, what the teacher was worth, how it went, what it was made with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from potstill.evaluation import Speed
from potstill.reports.page import (
    Card,
    Cell,
    Chart,
    Curve,
    Interval,
    IntervalChart,
    Page,
    Row,
    Table,
    number_cell,
    share_cell,
)
from potstill.reports.sentences import worth_in_words
from potstill.runs import IN_WORDS, OTHER_TOKENS, ModelScores, RunScores
from potstill.types import Score

_METRICS = (
    ("perplexity", "perplexity", 2, False),
    ("accuracy", "right", 1, True),
    ("agreement", "agrees with teacher", 1, True),
    ("kl_to_teacher", "KL to teacher, nats", 3, False),
    ("bits_per_byte", "bits per byte", 3, False),
    ("calibration_error", "calibration error", 3, False),
)
_STUDENT = "distilled"


def distillation_page(
    name: str,
    scores: RunScores,
    steps: Mapping[str, Sequence[Mapping[str, object]]],
    recipe: str,
    manifest: Mapping[str, object],
) -> Page:
    """The page for these scores. `steps` has the logged steps of each arm, `recipe` the resolved recipe as text."""
    by_name = {model.name: model for model in scores.models}
    documents = by_name["teacher"].scores["bits_per_byte" if _has_other_tokens(by_name) else "accuracy"].n
    return Page(
        title=name,
        lead=_lead(by_name, scores),
        cards=_cards(by_name, scores),
        tables=(score_rows(scores, documents), _size_table(scores), *_share_tables(steps.get(_STUDENT, ()))),
        curves=(*_interval_charts(scores), *_learning_curves(steps), *_shares_of_teacher(steps.get(_STUDENT, ()))),
        notes=(
            *([] if scores.worth is None else [worth_in_words(scores.worth)]),
            f"Every score is over the same {documents} held-out documents that no student learned from. Intervals are 95 %, from "
            "2,000 bootstrap draws of documents; differences are paired, on the same draws.",
            "The control learns from the same batches in the same order by cross-entropy on the text itself. "
            "“Same time” is the control given as many seconds as the distilled student took: it asks no teacher, so it reads more.",
            *([OTHER_TOKENS] if _has_other_tokens(by_name) else []),
        ),
        settings=recipe,
        environment=environment_of(manifest),
    )


def _has_other_tokens(models: Mapping[str, ModelScores]) -> bool:
    return "accuracy" not in models["teacher"].scores


def _lead(models: Mapping[str, ModelScores], scores: RunScores) -> str:
    share = scores.sizes[_STUDENT].non_embedding / scores.sizes["teacher"].non_embedding
    lead = f"A student with {share:.0%} of its teacher's non-embedding parameters "
    if _has_other_tokens(models):
        ours, theirs = (models[name].scores["bits_per_byte"].value for name in (_STUDENT, "teacher"))
        lead += f"needs {ours:.3f} bits a byte, and its teacher, which cuts text into other tokens, {theirs:.3f}."
    else:
        lead += f"is right {models[_STUDENT].kept['accuracy'].value:.1%} as often as its teacher."
    control = models.get("hard_labels")
    if control is None:
        return lead
    perplexity = control.distilled_minus_this["perplexity"]
    word = "lower" if perplexity.high < 0 else "higher" if perplexity.low > 0 else "not clearly different"
    size = "" if word.startswith("not") else f" by {abs(perplexity.value):.2f}"
    return f"{lead} Its held-out perplexity is {word}{size} than that of the same student trained on hard labels over the same tokens."


def _cards(models: Mapping[str, ModelScores], scores: RunScores) -> tuple[Card, ...]:
    is_apart = _has_other_tokens(models)
    kept = models[_STUDENT].kept["bits_per_byte" if is_apart else "accuracy"]
    what = "teacher's bits a byte over the student's" if is_apart else "of the teacher's accuracy kept"
    teacher, student = scores.sizes["teacher"], scores.sizes[_STUDENT]
    cards = [
        Card(what, f"{kept.value:.1%}", f"{kept.low:.1%} – {kept.high:.1%}"),
        Card(
            "parameters without embeddings",
            f"{student.non_embedding / teacher.non_embedding:.0%}",
            f"{_millions(student.non_embedding)} of {_millions(teacher.non_embedding)}",
        ),
    ]
    if not is_apart:
        beside = (
            f"hard labels: {models['hard_labels'].scores['agreement'].value:.1%}" if "hard_labels" in models else ""
        )
        cards.append(Card("agrees with the teacher", f"{models[_STUDENT].scores['agreement'].value:.1%}", beside))
    if scores.speeds:
        fast, slow = (_fastest(scores.speeds[name]) for name in (_STUDENT, "teacher"))
        what = "decoding speed" if scores.speeds["teacher"].decode_tokens_per_second else "reading speed"
        cards.append(Card(what, f"{fast / slow:.2f} ×", f"{fast:,.0f} against {slow:,.0f} tokens/s"))
    return tuple(cards)


def _fastest(speed: Speed) -> float:
    """Tokens written a second, or read by a model that doesn't write."""
    return speed.decode_tokens_per_second or speed.prefill_tokens_per_second


def _decoding(speed: Speed) -> str:
    return "–" if speed.decode_tokens_per_second is None else f"{speed.decode_tokens_per_second:,.0f}"


def score_rows(scores: RunScores, documents: int) -> Table:
    """The models side by side, with intervals."""
    rows = [
        Row(
            IN_WORDS[model.name],
            [_cell(model, metric, decimals, is_share) for metric, _, decimals, is_share in _METRICS],
            is_highlighted=model.name == _STUDENT,
        )
        for model in scores.models
    ]
    return Table(
        caption="On held-out text",
        columns=[title for _, title, _, _ in _METRICS],
        rows=rows,
        names="model",
        note=f"{documents} documents; 95 % intervals below the values",
    )


def _cell(model: ModelScores, metric: str, decimals: int, is_share: bool) -> Cell:
    if metric not in model.scores or (model.name == "teacher" and metric in ("agreement", "kl_to_teacher")):
        return Cell("–")
    found: Score = model.scores[metric]
    make = share_cell if is_share else number_cell
    return make(found.value, found.low, found.high, decimals=decimals)


def _size_table(scores: RunScores) -> Table:
    rows = []
    for name, size in scores.sizes.items():
        speed = scores.speeds.get(name)
        figures = [_millions(size.total), _millions(size.non_embedding), f"{size.bytes / 2**20:.1f} MiB"]
        figures += [f"{speed.prefill_tokens_per_second:,.0f}", _decoding(speed)] if speed else ["–", "–"]
        rows.append(Row(IN_WORDS[name], [Cell(figure) for figure in figures], is_highlighted=name == _STUDENT))
    return Table(
        caption="Size and speed",
        columns=["parameters", "not embeddings", "in memory", "prefill, tokens/s", "decode, tokens/s"],
        rows=rows,
        names="model",
    )


def _share_tables(steps: Sequence[Mapping[str, object]]) -> list[Table]:
    """Who pulled how hard at the student: at the beginning, at the end, and over all steps in which it was measured."""
    measured = [shares for step in steps if isinstance(shares := step.get("shares"), Mapping) and shares]
    if not measured:
        return []
    rows = []
    for name in measured[0]:
        found = [_number(shares[name]) for shares in measured]
        rows.append(Row(name, [Cell(f"{one:.0%}") for one in (found[0], sum(found) / len(found), found[-1])]))
    return [
        Table(
            caption="Each term's share of the gradient",
            columns=["at first", "on average", "at last"],
            rows=rows,
            names="term",
            note=f"by its length at what goes into the student's first layer; measured in {len(measured)} of {len(steps)} steps",
        )
    ]


def _interval_charts(scores: RunScores) -> list[IntervalChart]:
    charts = []
    bits = ("bits_per_byte", "Bits a byte on held-out text", "bits a byte (lower is better)", True)
    for metric, title, label, teacher_too in (
        ("perplexity", "Perplexity on held-out text", "perplexity (lower is better)", True),
        *([bits] if any("accuracy" not in model.scores for model in scores.models) else []),
        ("kl_to_teacher", "Distance to the teacher", "KL(teacher ‖ student), nats a token (lower is better)", False),
    ):
        intervals = [
            Interval(
                IN_WORDS[model.name],
                model.scores[metric].value,
                model.scores[metric].low,
                model.scores[metric].high,
                is_highlighted=model.name == _STUDENT,
            )
            for model in scores.models
            if (teacher_too or model.name != "teacher") and metric in model.scores
        ]
        if not intervals:
            continue
        charts.append(IntervalChart(title, label, intervals, decimals=2, is_logarithmic=metric == "perplexity"))
    return charts


def _learning_curves(steps: Mapping[str, Sequence[Mapping[str, object]]]) -> list[Chart]:
    by_tokens, by_seconds = [], []
    for name, logged in steps.items():
        if not logged:
            continue
        nats = _averaged([_number(step["parts"]["hard"]) for step in logged])  # type: ignore[index]
        tokens, seconds = _running([step["tokens"] for step in logged]), _running([step["seconds"] for step in logged])
        is_highlighted = name == _STUDENT
        by_tokens.append(Curve(IN_WORDS[name], tokens, nats, is_highlighted))
        by_seconds.append(Curve(IN_WORDS[name], seconds, nats, is_highlighted))
    note = "Cross-entropy on the training text for all of them, whatever they learn from; means over the last tenth of the steps."
    return (
        [
            Chart("Learning, by tokens read", "tokens read", "nats a token", by_tokens, note),
            Chart("Learning, by time", "seconds", "nats a token", by_seconds, note),
        ]
        if by_tokens
        else []
    )


def _shares_of_teacher(steps: Sequence[Mapping[str, object]]) -> list[Chart]:
    """Alpha over the run, where it changed."""
    shares = [_number(step["alpha"]) for step in steps if step.get("alpha") is not None]
    if len(set(shares)) < 2:
        return []
    tokens = _running([step["tokens"] for step in steps if step.get("alpha") is not None])
    return [
        Chart(
            "Share of the teacher",
            "tokens read",
            "alpha",
            [Curve(IN_WORDS[_STUDENT], tokens, shares, is_highlighted=True)],
            "1 = the teacher's soft labels alone, 0 = the text alone.",
        )
    ]


def _averaged(values: Sequence[float]) -> list[float]:
    """Each with those before it, as far back as a tenth of them: a step reads few documents, and documents differ."""
    window = max(1, len(values) // 10)
    return [sum(values[max(0, i + 1 - window) : i + 1]) / min(window, i + 1) for i in range(len(values))]


def _running(values: Sequence[object]) -> list[float]:
    total, sums = 0.0, []
    for value in values:
        total += _number(value)
        sums.append(total)
    return sums


def _number(value: object) -> float:
    return float(str(value))


def _millions(count: int) -> str:
    return f"{count / 1e6:,.2f} M"


def environment_of(manifest: Mapping[str, object]) -> dict[str, str]:
    """A manifest as names and values: `run: text.documents` for what lies in tables within tables."""
    flat: dict[str, str] = {}
    for name, value in manifest.items():
        if isinstance(value, Mapping):
            flat |= {f"{name}: {inner}": found for inner, found in _named_values(value)}
        else:
            flat[name] = _in_a_line(value)
    return flat


def _named_values(table: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in table.items():
        if isinstance(value, Mapping):
            yield from _named_values(value, f"{prefix}{name}.")
        else:
            yield prefix + name, _in_a_line(value)


def _in_a_line(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
