"""The page of learning curves: how much text soft labels save, what no control has, what the labels hold; and the picture of it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from potstill.evaluation.measuring import written_whole
from potstill.reports.charts import svg_file
from potstill.reports.distillation import environment_of
from potstill.reports.page import Card, Cell, Chart, Curve, Page, Row, Span, Table, number_cell, share_cell
from potstill.runs import GRADIENT_ERROR, LABELS_IN_WORDS, LabelWorth
from potstill.types import Score

_NATS, _ACCURACY = "nats_per_token", "accuracy"


def label_worth_page(name: str, worth: LabelWorth, *, policy: str, recipe: str, manifest: Mapping[str, object]) -> Page:
    """The page for these curves. `policy` says how long each size was learned from, `recipe` is the resolved recipe as text."""
    documents = worth.teacher[_NATS].n
    return Page(
        title=f"{name}: what soft labels are worth",
        lead=verdict(worth),
        cards=_cards(worth),
        tables=(_curve_table(worth), _multiplier_table(worth), _control_table(worth), _held_table(worth)),
        curves=(curve_chart(worth),),
        notes=(
            f"Parts of the text are whole documents, each part in all larger ones; {policy}. Means over "
            f"{worth.seeds} seed{'s' * (worth.seeds > 1)}, each with documents, order and (where it begins fresh) student of its own; all "
            "labels of a seed and size learn from the same text.",
            f"Intervals are 95 %, from 2,000 draws of seeds and of {documents} held-out documents, the same for all labels. With three "
            "seeds, those to which the seeds give most of their width hold the truth about 80 times in 100, not 95.",
            "Between two sizes a curve is straight over the logarithm of the tokens; beyond the last size nothing is said but “more than”.",
        ),
        charts_first=True,
        settings=recipe,
        environment=environment_of(manifest),
    )


def verdict(worth: LabelWorth) -> str:
    """The outcome in two sentences, with how sure it is."""
    found, (best, knowledge) = worth.headline(), worth.knowledge()
    enough = (
        f"What hard labels learn from {_count(found.tokens)}, soft labels learn from {found.in_words()} times less "
        f"({found.in_words(found.low)} to {found.in_words(found.high)})."
        if found.value > 0
        else f"Soft labels on all the text don't reach what hard labels reach on {_count(found.tokens)}."
    )
    gain = -knowledge.value
    if knowledge.high < 0:
        so = "that much is what the teacher knows beyond it"
    elif knowledge.low > 0:
        so = "nothing that the teacher knows beyond it arrived"
    else:
        so = "no clear sign of anything that the teacher knows beyond it"
    return (
        f"{enough} At {_count(worth.tokens[-1])} they are {abs(gain):.3f} nats {'better' if gain > 0 else 'worse'} "
        f"({-knowledge.high:+.3f} to {-knowledge.low:+.3f}) than the best without them, {LABELS_IN_WORDS[best]}: {so}."
    )


def curve_chart(worth: LabelWorth, quality: str = _NATS) -> Chart:
    """Held-out loss over the size of the text, one curve a kind of labels, the saving marked."""
    curves = []
    for labels, found in worth.curves.items():
        scores, sizes = found[quality], worth.tokens[len(worth.tokens) - len(found[quality]) :]
        bounds = ([one.low for one in scores], [one.high for one in scores]) if labels in ("soft", "hard") else ((), ())
        curves.append(
            Curve(LABELS_IN_WORDS[labels], sizes, [one.value for one in scores], labels == "soft", bounds[0], bounds[1])
        )
    spans = []
    for found in worth.multipliers["soft"][quality]:
        # The largest that is known: at the end of the curve, or where it is last not beyond it.
        if 1 < found.value < math.inf:
            spans = [Span(found.level, found.tokens / found.value, found.tokens, f"{found.in_words()}×")]
    return Chart(
        "How much text soft labels save",
        "tokens learned from",
        "held-out loss, nats a token" if quality == _NATS else "share right",
        curves,
        note=(
            "The arrow is the multiplier: how much less text soft labels need. Bands are 95 % intervals of soft and hard labels; most "
            "of their width is the held-out documents', which all curves share."
        ),
        is_x_logarithmic=True,
        spans=spans,
    )


def write_picture(worth: LabelWorth, path: Path) -> Path:
    """The curves as an SVG file; RunDirectoryError when it can't be written."""
    with written_whole(path) as part:
        part.write_text(svg_file(curve_chart(worth)), "utf-8")
    return path


def _cards(worth: LabelWorth) -> tuple[Card, ...]:
    found, right, (best, knowledge) = worth.headline(), worth.headline(quality=_ACCURACY), worth.knowledge()
    return (
        Card(
            "times less text, at equal loss",
            found.in_words(),
            f"{found.in_words(found.low)} to {found.in_words(found.high)}, at {found.level:.3f} nats",
        ),
        Card(
            "times less text, at equal accuracy",
            right.in_words(),
            f"{right.in_words(right.low)} to {right.in_words(right.high)}, at {right.level:.1%}",
        ),
        Card(
            "nats that no control has",
            f"{-knowledge.value:.3f}",
            f"{-knowledge.high:.3f} to {-knowledge.low:.3f}, against {LABELS_IN_WORDS[best]}",
        ),
    )


def _curve_table(worth: LabelWorth) -> Table:
    rows = []
    for labels, found in worth.curves.items():
        for quality, word in ((_NATS, "nats"), (_ACCURACY, "right")):
            cells = [_cell(one, quality) for one in found[quality]]
            missing = len(worth.tokens) - len(cells)
            name = f"{LABELS_IN_WORDS[labels]}, {word}"
            rows.append(Row(name, [*[Cell("")] * missing, *cells], labels == "soft" and quality == _NATS))
    return Table(
        "Learning curves",
        [f"{_count(tokens)}" for tokens in worth.tokens],
        rows,
        "learns by",
        f"The teacher: {worth.teacher[_NATS].value:.3f} nats, {worth.teacher[_ACCURACY].value:.1%} right. Steps: "
        f"{', '.join(f'{steps:,.0f}' for steps in worth.steps)}. Documents: {', '.join(f'{one:,.0f}' for one in worth.documents)}.",
    )


def _multiplier_table(worth: LabelWorth) -> Table:
    rows = []
    for labels, found in worth.multipliers.items():
        for quality, word in ((_NATS, "loss"), (_ACCURACY, "accuracy")):
            cells = [
                Cell(one.in_words(), f"{one.in_words(one.low)} – {one.in_words(one.high)}") for one in found[quality]
            ]
            rows.append(Row(f"{LABELS_IN_WORDS[labels]}, equal {word}", cells, labels == "soft" and quality == _NATS))
    return Table(
        "Times less text than hard labels need",
        [f"as hard labels on {_count(one.tokens)}" for one in worth.multipliers["soft"][_NATS]],
        rows,
        "learns by",
        "n_hard / n_soft at equal held-out quality. “> 2” where the smallest size is better already, “< 1” where the largest is not.",
    )


def _control_table(worth: LabelWorth) -> Table:
    names = {"hard": "the text itself", "argmax": "the teacher's favourite", "smoothed": "the text, and the teacher's mean entropy",
             "permuted": "the teacher's favourite, and how sure it is where"}  # fmt: skip
    rows = [
        Row(
            LABELS_IN_WORDS[labels],
            [
                Cell(names[labels]),
                _cell(worth.curves[labels][_NATS][-1], _NATS),
                number_cell(*_bounds(found[_NATS][-1]), decimals=4),
                share_cell(*_bounds(found[_ACCURACY][-1]), decimals=2),
            ],
            labels == worth.knowledge()[0],
        )
        for labels, found in worth.minus.items()
    ]
    return Table(
        f"Soft labels against what lacks something of theirs, on {_count(worth.tokens[-1])}",
        ["knows", "nats", "soft minus this, nats", "soft minus this, right"],
        rows,
        "learns by",
        "Only what soft labels have over the best of these is knowledge of the teacher's.",
    )


def _held_table(worth: LabelWorth) -> Table:
    words = {
        "entropy_bits": "entropy of the labels, bits a token: what one sampled label hides",
        "nll_bits": "the teacher's surprise at the text, bits a token",
        "gap_bits": "surprise minus entropy, bits a token: 0 when calibrated, above 0 invented",
        "noise": "label noise that a soft label takes out of the gradient, 1 - Σ p²",
    }
    rows = [Row(words[name], [number_cell(*_bounds(found))]) for name, found in worth.held.items()]
    for tokens, found in zip(worth.tokens, worth.equivalents, strict=True):
        name = f"hard labels that give as good a gradient ({GRADIENT_ERROR:.0%} off), student of {_count(tokens)}"
        rows.append(Row(name, [number_cell(*_bounds(found), decimals=0)]))
    return Table(
        "What the teacher's labels hold, on held-out text",
        ["value"],
        rows,
        "",
        "In closed form, at temperature 1. Equivalents are hard labels drawn from the teacher at the same predictions: they grow as the "
        "student comes near its teacher.",
    )


def _bounds(found: Score) -> tuple[float, float, float]:
    return found.value, found.low, found.high


def _cell(found: Score, quality: str) -> Cell:
    return share_cell(*_bounds(found)) if quality == _ACCURACY else number_cell(*_bounds(found))


def _count(tokens: float) -> str:
    """37 k tokens."""
    for least, suffix in ((1e9, " G"), (1e6, " M"), (1e4, " k")):
        if tokens >= least:
            unit = 1e3 if suffix == " k" else least
            return f"{tokens / unit:.3g}{suffix} tokens"
    return f"{tokens:,.0f} tokens"


def rows_in_words(worth: LabelWorth) -> Iterator[Sequence[str]]:
    """(labels, tokens, nats, right, times less text) of each point, as text: for a terminal."""
    for labels, found in worth.curves.items():
        sizes = worth.tokens[len(worth.tokens) - len(found[_NATS]) :]
        saved = worth.multipliers.get(labels, {}).get(_NATS, [])
        for place, tokens in enumerate(sizes):
            nats, right = found[_NATS][place], found[_ACCURACY][place]
            times = saved[place] if saved else None
            yield (
                LABELS_IN_WORDS[labels],
                _count(tokens),
                f"{nats.value:.3f}",
                f"{right.value:.1%}",
                ""
                if times is None
                else f"{times.in_words()} ({times.in_words(times.low)}–{times.in_words(times.high)})",
            )
