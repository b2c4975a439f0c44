"""What was found, in a sentence: the same on the terminal, on the page and in the model card."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from potstill.runs import Worth

# Nats of surprise above the entropy from which mixing in hard labels was better: SmolLM2 on the Linux kernel's documentation has 0.14, the
# pocket teacher on text like its own less than none (benchmarks/prune_ladder_smollm2.md, demo.md).
_TOO_SURE = 0.05


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
        f"{_none(found)} clears the bar. The nearest, {found['chosen']} with {share:.0%} of the teacher's non-embedding "
        f"parameters: {said}. More tokens, more text, larger shares (student.shares) or a lower bar may help."
    )


def _none(found: Mapping[str, Any]) -> str:
    if len(found["judged"]) >= found["looks"]:
        return f"None of the {found['looks']} students that could be judged"
    return "No student on the ladder"


def advice_on(found: Mapping[str, Any]) -> str:
    """What may help where the teacher's labels are not what they could be; empty where nothing is known to."""
    labels = found["labels"]
    if found["alpha"] < 1.0 or labels["nll"] - labels["entropy"] < _TOO_SURE:
        return ""
    return (
        "The teacher is too sure of itself on this text "
        f"(a surprise of {labels['nll']:.2f} nats where it expects {labels['entropy']:.2f}): it may not know text like this well. "
        "Hard labels beside its own (loss.alpha = 0.5) then kept more in our benchmarks."
    )


def worth_in_words(worth: Worth) -> str:
    """What the teacher is worth on this text, and what to do about it: beforehand where `heard` is not known, else afterwards."""
    unit = "nats a prediction" if worth.metric == "nats_per_token" else "bits a byte"
    right = ""
    if worth.teacher_right is not None and worth.labels_right is not None:
        right = f", {worth.teacher_right.value:.1%} right against {worth.labels_right.value:.1%}"
    beside = (
        f"The teacher needs {worth.teacher.value:.3f} {unit} on this text, a student of labels alone {worth.labels.value:.3f} "
        f"(difference {worth.lead.value:+.3f}, {worth.lead.low:+.3f} to {worth.lead.high:+.3f}, over {worth.lead.n} documents{right}): "
    )
    if worth.heard is None:
        return beside + _beforehand(worth)
    judged = {
        "worth": "it is worth hearing here",
        "unclear": "neither clearly knows it better",
        "not": "labels alone know this text better",
    }[worth.verdict]
    helped, harmed = worth.heard.high < 0, worth.heard.low > 0
    came = "hearing it helped" if helped else "hearing it did harm" if harmed else "hearing it made no clear difference"
    joined = ", yet" if (helped and worth.verdict == "not") or (harmed and worth.verdict == "worth") else ", and"
    advice = "" if helped or worth.verdict == "worth" else f". {_ADVICE}"
    return f"{beside}{judged}{joined} {came} ({worth.heard.value:+.3f} {unit}, {worth.heard.low:+.3f} to {worth.heard.high:+.3f}){advice}."


_ADVICE = (
    "Let its share fall as the student learns ([loss.annealing]), let it learn the text first ([teacher.correction]), or learn from "
    "labels alone (loss.alpha = 0)"
)


def _beforehand(worth: Worth) -> str:
    match worth.verdict:
        case "worth":
            return f"it is worth hearing here, also if labels gain {worth.coming:.3f} more until the end of the run."
        case "not":
            return f"labels know this text better already. {_ADVICE}."
        case "unclear":
            return (
                f"labels may pass it before the end of the run (they are expected to gain about {worth.coming:.3f} more). Let its share "
                "fall as the student learns ([loss.annealing])."
            )


def _said(verdict: Mapping[str, Any]) -> str:
    form = "{:.3g}" if verdict["absolute"] else "{:.1%}"
    value = form.format(verdict["value"])
    low, high = ("?" if verdict[end] is None else form.format(verdict[end]) for end in ("low", "high"))
    return f"{value} (interval {low} to {high}) where {verdict['bar']} is asked"
