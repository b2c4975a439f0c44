"""Queries to calibrate on: asked of two models here, or answered and scored elsewhere."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path

import numpy as np
from jaxtyping import Float

from potstill.data import Judge, answer_among, choices_among, read_records
from potstill.errors import DataError
from potstill.routing.signals import SIGNALS, Signals, listed_tokens, signals_of
from potstill.writing import Framing, Prompt, read_prompts

Array = np.ndarray
# Fewer, and not even the signals can be told apart.
LEAST_QUERIES = 50
_ASKED = ("prompt", "messages", "choices")


@dataclass(frozen=True)
class Query:
    """What is asked; `choices` is empty where models write freely, `domain` where rows name none. Prompts know the right answer."""

    prompt: Prompt
    choices: tuple[str, ...] = ()
    domain: str = ""


@dataclass(frozen=True)
class Scored:
    """Queries answered by both and scored, 0 to 1 each; `prompts` is None where rows had none.

    references    whether scores are against right answers; otherwise against the teacher's own, which then count 1
    top_logprobs  likeliest tokens known at each token of the student's answers
    keys          the same for what was asked twice; None where it is not known
    """

    student: Float[Array, " queries"]
    teacher: Float[Array, " queries"]
    signals: tuple[Signals, ...]
    domains: tuple[str, ...]
    prompts: tuple[str, ...] | None
    references: bool
    top_logprobs: int
    fingerprint: str
    keys: tuple[str, ...] | None = None


def read_queries(source: str | Path, *, is_chat: bool = False) -> tuple[Query, ...]:
    """Rows with `prompt` or `messages`, perhaps `answer`, `choices` and `domain`. DataError naming the row that is no query."""
    prompts = read_prompts(source, framing=Framing(is_chat=is_chat))
    queries = [_query(prompt, row, where) for prompt, (where, row) in zip(prompts, read_records(source), strict=True)]
    _check_number(len(queries), source)
    for what, has in (
        ("answer", lambda one: one.prompt.answer is not None),
        ("choices", lambda one: bool(one.choices)),
    ):
        without = [one for one in queries if not has(one)]
        if 0 < len(without) < len(queries):
            raise DataError(
                f"{without[0].prompt.where} has no {what!r}, and others have: give all of them one, or none"
            )
    return tuple(queries)


def read_scored(source: str | Path, judge: Judge) -> Scored:
    """Rows with `student_score` and `teacher_score`, or with `student_answer`, `teacher_answer` and perhaps the right `answer`.

    Signals are `logprobs` (the `content` list of a chat completion) or columns named as SIGNALS. `prompt` and `domain` may be there.
    """
    rows = list(read_records(source))
    _check_number(len(rows), source)
    scores, signals = [], []
    for where, row in rows:
        scores.append(_scores(row, judge, where))
        signals.append(_signals(row, where))
    kinds = {has_reference for _, _, has_reference in scores}
    if len(kinds) > 1:
        raise DataError(f"{source}: some rows have a right answer or scores and others have none: give all of them one")
    prompts = [row.get("prompt") for _, row in rows]
    tops = {len(entry.get("top_logprobs") or ()) for _, row in rows for entry in _listed(row)}
    return Scored(
        np.array([one for one, _, _ in scores]),
        np.array([one for _, one, _ in scores]),
        tuple(signals),
        tuple(str(row.get("domain") or "") for _, row in rows),
        tuple(map(str, prompts)) if all(isinstance(one, str) for one in prompts) else None,
        kinds.pop(),
        max(tops, default=0),
        blake2b(repr([row for _, row in rows]).encode(), digest_size=16).hexdigest(),
        tuple(repr([row.get(name) for name in _ASKED]) if row.keys() & set(_ASKED) else where for where, row in rows),
    )


def is_scored(source: str | Path) -> bool:
    """Whether the first row was answered already."""
    first = next(iter(read_records(source)), None)
    return first is not None and bool({"student_score", "student_answer"} & set(first[1]))


def fingerprint_of_queries(queries: tuple[Query, ...]) -> str:
    """Of what is asked and what is right, in order."""
    said = repr([(one.prompt.id, one.prompt.answer, one.choices, one.domain) for one in queries])
    return blake2b(said.encode(), digest_size=16).hexdigest()


def text_of(prompt: Prompt) -> str:
    """What was asked last."""
    return prompt.sent if isinstance(prompt.sent, str) else prompt.sent[-1]["content"]


def judged(judge: Judge, asked: str, right: str, answer: str, where: str) -> float:
    """What an answer is worth. DataError for a judge that gives something else than 0 to 1: no promise could be made of that."""
    worth = float(judge(asked, right, answer))
    if not 0 <= worth <= 1:
        raise DataError(f"{where}: the judge gives {worth}, and a score is 0 to 1")
    return worth


def _query(prompt: Prompt, row: Mapping[str, object], where: str) -> Query:
    domain, listed, answer = str(row.get("domain") or ""), row.get("choices"), row.get("answer")
    if listed is None:
        return Query(prompt, domain=domain)
    choices = choices_among(listed, where)
    if answer is not None:
        prompt = replace(prompt, answer=answer_among(answer, choices, where))
    # Among other choices it is another question, and its old answers are none.
    of_choices = blake2b(json.dumps(choices).encode(), digest_size=8).hexdigest()
    return Query(replace(prompt, id=f"{prompt.id}-{of_choices}", key=f"{prompt.key}-{of_choices}"), choices, domain)


def _scores(row: Mapping[str, object], judge: Judge, where: str) -> tuple[float, float, bool]:
    """(student's, teacher's, whether against what is right)."""
    if "student_score" in row or "teacher_score" in row:
        return _score(row, "student_score", where), _score(row, "teacher_score", where), True
    student, teacher, right = (row.get(name) for name in ("student_answer", "teacher_answer", "answer"))
    if not isinstance(student, str) or not isinstance(teacher, str):
        raise DataError(
            f"{where} needs `student_score` and `teacher_score`, or `student_answer` and `teacher_answer` as texts, and has "
            f"{', '.join(map(repr, row)) or 'no columns'}"
        )
    asked = str(row.get("prompt") or "")
    if right is None:
        return judged(judge, asked, teacher, student, where), 1.0, False
    return judged(judge, asked, str(right), student, where), judged(judge, asked, str(right), teacher, where), True


def _score(row: Mapping[str, object], name: str, where: str) -> float:
    value = row.get(name)
    if not isinstance(value, int | float) or not 0 <= value <= 1:
        raise DataError(f"{where}: {name!r} is a number from 0 to 1, found {value!r}")
    return float(value)


def _signals(row: Mapping[str, object], where: str) -> Signals:
    if row.get("logprobs") is not None:
        try:
            return signals_of(listed_tokens(_listed(row)))
        except DataError as error:
            raise DataError(f"{where}: {error}") from error
    found = {name: row[name] for name in SIGNALS if row.get(name) is not None}
    for name, value in found.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= sys.float_info.max:
            raise DataError(f"{where}: {name!r} is a finite number, found {value!r}")
    if not found:
        raise DataError(
            f"{where} says nothing of how sure the student was: give `logprobs`, as a server's reply has them, or one of "
            f"{', '.join(SIGNALS)}"
        )
    return Signals(**{name: float(value) for name, value in found.items()})  # type: ignore[arg-type]


def _listed(row: Mapping[str, object]) -> Iterator[Mapping]:
    """The entries of a row's `logprobs`: a list, or a reply's object with `content`."""
    found = row.get("logprobs")
    found = found.get("content") if isinstance(found, Mapping) else found
    yield from found if isinstance(found, list) else ()


def _check_number(number: int, source: str | Path) -> None:
    if number < LEAST_QUERIES:
        raise DataError(
            f"{source} has {number} queries, too few to promise anything: {LEAST_QUERIES} are needed to begin, and a promise of 97 % of "
            "the teacher's quality takes some hundreds"
        )
