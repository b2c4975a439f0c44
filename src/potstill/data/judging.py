"""Whether what a model wrote is right: for questions that measure a model, and for text that a teacher wrote.

exact     the first line is the answer (case and outer space don't count)
choice    as exact: which of the choices is likeliest is found elsewhere
regex     the last match of a pattern (its first group, if it has one) is the answer
python    a function (prompt, answer, written) -> 0 to 1, named as module:function
"""

from __future__ import annotations

import importlib
import json
import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import Literal

from potstill.errors import DataError

Judging = Literal["exact", "choice", "regex", "python"]
Judge = Callable[[str, str, str], float]


def judge_of(judging: Judging, how: str = "") -> Judge:
    """(prompt, answer, written) -> how right it is, 0 to 1. `how`: the pattern, or module:function. DataError where it is neither."""
    match judging:
        case "exact" | "choice":
            return lambda _, answer, written: float(plain(written.strip().split("\n")[0]) == plain(answer))
        case "regex":
            pattern = pattern_of(how)
            return lambda _, answer, written: float(plain(_last(pattern, written)) == plain(answer))
        case "python":
            module, _, name = how.partition(":")
            sys.path.insert(0, os.getcwd())
            try:
                return getattr(importlib.import_module(module), name)
            except (ImportError, AttributeError, ValueError, SyntaxError) as error:
                raise DataError(
                    f"no function {how!r} can be imported ({error}): name it as module:function, from where the command runs"
                ) from error
            finally:
                sys.path.remove(os.getcwd())


def answer_among(answer: object, choices: Sequence[str], where: str) -> str:
    """The right one of the choices, given as its text or as its number from 0. DataError for neither, and for what may be either."""
    found = str(answer)
    if isinstance(answer, int) and not isinstance(answer, bool) and 0 <= answer < len(choices):
        found = choices[answer]
        if str(answer) in choices and found != str(answer):
            raise DataError(
                f"{where}: the answer {answer} may be the choice {str(answer)!r} or the number of the choice {found!r}: give it as a "
                f'text, "{answer}" or {json.dumps(found)}'
            )
    if found not in choices:
        raise DataError(f"{where}: the answer {answer!r} is none of the choices, nor the number of one (from 0)")
    return found


def choices_among(listed: object, where: str) -> tuple[str, ...]:
    """What a row lists to choose from, as texts. DataError for what is no list of at least two different ones."""
    choices = tuple(map(str, listed)) if isinstance(listed, list) else ()
    if "" in choices:
        raise DataError(
            f"{where}: one of the `choices` is empty, and nothing can't be answered: give it a text, as none"
        )
    if len(set(choices)) < 2 or len(set(choices)) < len(choices):
        raise DataError(f"{where}: `choices` is a list of at least two different answers, found {str(listed)[:80]}")
    return choices


def pattern_of(text: str) -> re.Pattern[str]:
    """DataError for what is no regular expression."""
    try:
        return re.compile(text)
    except re.error as error:
        raise DataError(f"{text!r} is no regular expression: {error}") from error


def plain(text: str) -> str:
    """Lower case, one space between words, none outside."""
    return " ".join(text.lower().split())


def _last(pattern: re.Pattern[str], text: str) -> str:
    matches = list(pattern.finditer(text))
    return ((matches[-1][1] if pattern.groups else matches[-1][0]) or "") if matches else ""
