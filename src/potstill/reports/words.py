"""Held-out passages token by token: where the student says what its teacher says, and where it doesn't."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from potstill.reports.page import MarkedText, Token

_MARKS = {
    "lost": "the teacher is right, the student is not",
    "gained": "the student is right, the teacher is not",
    "wrong": "both are wrong",
}


def word_for_word(found: Mapping[str, Any]) -> MarkedText:
    """The passages of a search's findings."""
    passages = []
    for one in found["breakdown"]["passages"]:
        tokens = []
        for word in one["words"]:
            right, ours = word["teacher"] == word["text"], word["student"] == word["text"]
            mark = "same" if right and ours else "lost" if right else "gained" if ours else "wrong"
            hint = (
                f"teacher: {word['teacher']!r} (true token {word['teacher_probability']:.0%}), "
                f"student: {word['student']!r} ({word['student_probability']:.0%})"
            )
            tokens.append(Token(word["text"], mark, hint))
        passages.append((one["document"], tokens))
    return MarkedText(
        "Word for word",
        passages,
        _MARKS,
        "Held-out documents on which they agree least, middling and most; point at a token to see what each expected.",
    )
