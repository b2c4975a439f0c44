"""What was found, in a sentence: the same on the terminal, on the page and in the model card."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def compression_verdict(found: Mapping[str, Any]) -> str:
    """The outcome in one sentence."""
    sizes, verdicts = found["sizes"], found["verdicts"]
    share = sizes["distilled"]["non_embedding"] / sizes["teacher"]["non_embedding"]
    if not found["bars"]:
        return f"The best student within the limits is {found['chosen']}, with {share:.0%} of the teacher's non-embedding parameters."
    said = " and ".join(_said(verdict) for verdict in verdicts)
    if found["holds"]:
        return f"{found['chosen']}, with {share:.0%} of the teacher's non-embedding parameters, clears the bar: {said}."
    return (
        f"No student on the ladder clears the bar. The nearest, {found['chosen']} with {share:.0%} of the teacher's non-embedding "
        f"parameters: {said}. More tokens, more text, larger shares (student.shares) or a lower bar may help."
    )


def _said(verdict: Mapping[str, Any]) -> str:
    form = "{:.3g}" if verdict["absolute"] else "{:.1%}"
    value = form.format(verdict["value"])
    low, high = ("?" if verdict[end] is None else form.format(verdict[end]) for end in ("low", "high"))
    return f"{value} (interval {low} to {high}) where {verdict['bar']} is asked"
