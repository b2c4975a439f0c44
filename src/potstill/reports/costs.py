"""What a model takes to run, and what a teacher's labels hold, as tables for a page."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from potstill.reports.page import Cell, Row, Table

Facts = Mapping[str, Any]
_BYTES = 2  # of a weight or cached number, in the 16 bits that models are served in
_CONTEXT = 4_096
_NAT = 1 / math.log(2)


def cost_table(found: Facts, speeds: Facts, *, price_per_hour: float | None) -> Table:
    """Memory, speed and, from these, the cost of writing; `price_per_hour` of this machine, in whatever currency."""
    names = {"teacher": "teacher", "distilled": "student"}
    rows = []
    for who, name in names.items():
        weights = _BYTES * found["sizes"][who]["total"]
        rows.append(
            Row(
                name,
                list(_cells(found, who, weights, speeds.get(who), price_per_hour)),
                is_highlighted=who == "distilled",
            )
        )
    if found["int4"] is not None:
        rows.append(
            Row("student, four bits", list(_cells(found, "distilled", found["int4"]["bytes"], None, price_per_hour)))
        )
    cost = "hours of this machine" if price_per_hour is None else f"cost, at {price_per_hour:g} an hour"
    return Table(
        "What it takes to run",
        [
            "weights, MB",
            "cache, bytes a token",
            f"both at {_CONTEXT:,} tokens, MB",
            "reads, tokens/s",
            "writes, tokens/s",
            f"{cost}, a million tokens written",
        ],
        rows,
        "model",
        "In 16 bits (two bytes a weight), but for the four-bit student. One text at a time, on this machine; a server that writes many "
        "side by side takes less of it for each. Four-bit weights need a kernel of their own to be faster, and are not timed here.",
    )


def _cells(found: Facts, who: str, weights: int, speed: Facts | None, price: float | None) -> Iterator[Cell]:
    cache = found["cache_values"][who] * _BYTES
    yield Cell(f"{weights / 1e6:,.1f}")
    yield Cell(f"{cache:,}")
    yield Cell(f"{(weights + cache * _CONTEXT) / 1e6:,.1f}")
    if speed is None:
        yield from (Cell("–"), Cell("–"), Cell("–"))
        return
    reads, writes = speed["prefill_tokens_per_second"], speed["decode_tokens_per_second"]
    hours = 1e6 / writes / 3_600
    yield Cell(f"{reads:,.0f}")
    yield Cell(f"{writes:,.0f}")
    yield Cell(f"{hours:,.2f}" if price is None else f"{hours * price:,.2f}")


def label_table(labels: Facts) -> Table:
    """The information in the teacher's labels, a token."""
    rows = [
        ("its entropy: what one hard label drawn from it hides", f"{labels['entropy'] * _NAT:.2f} bits"),
        ("its surprise at the text", f"{labels['nll'] * _NAT:.2f} bits"),
        ("of the entropy, invented: surprise above it (below 0: it could be surer)", _bits_invented(labels)),
        ("noise that a soft label spares: 1 - Σ p²", f"{1 - labels['collision']:.3f}"),
    ]
    if labels["hard_labels"] is not None:
        rows.append(("hard labels drawn from it that tell as much as one stored label", f"{labels['hard_labels']:.1f}"))
    if labels["listed_for_sure"] is not None:
        rows.append(("of its probability, stored with its own value", f"{labels['listed_for_sure']:.1%}"))
    rows.append(("on disk", f"{8 * labels['bytes_per_token']:.0f} bits"))
    return Table(
        "What the teacher's labels hold",
        ["a token"],
        [Row(name, [Cell(value)]) for name, value in rows],
        "of the teacher",
        "Entropy counts as information as far as the teacher is calibrated. A hard label drawn from the teacher estimates its distribution "
        "without bias, with a squared error of 1 - Σ p².",
    )


def _bits_invented(labels: Facts) -> str:
    return f"{(labels['nll'] - labels['entropy']) * _NAT:+.2f} bits"
