"""What is kept as rows to learn from: a prompt with its completion, a conversation, or the two tasks of distilling step by step."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from potstill.data import Columns, documents_of_records, tokenize
from potstill.errors import DataError, RunDirectoryError
from potstill.writing.filters import Candidate
from potstill.writing.journal import Journal
from potstill.writing.prompts import Prompt
from potstill.writing.selecting import Selected, Selection, candidates

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Row = Mapping[str, object]
_ROWS_AT_ONCE = 1024


@dataclass(frozen=True)
class Steps:
    """Distilling step by step (Hsieh et al. 2023, arXiv:2305.02301): two tasks a prompt, told apart by what stands in front of it.

        L = (1 - share) · L_label + share · L_rationale

    each a mean over its own tokens, as in their code. The loss here is a mean over all tokens, of which rationales have far more, so
    their rows weigh share · (all tokens) / (tokens of rationales), and the labels' likewise. Counted are the tokens that the student
    will learn: with its tokenizer, as `data.tokenize` does. `between` stands between prompt and completion.
    """

    tokenizer: PreTrainedTokenizerBase
    share: float = 0.5
    label: str = "[label] "
    rationale: str = "[rationale] "
    between: str = "\n"


def rows(
    prompts: Sequence[Prompt],
    journal: Journal,
    selected: Selected,
    selection: Selection,
    *,
    sent: bool = True,
    steps: Steps | None = None,
) -> Iterator[Row]:
    """Rows for `data.read_documents`; with `sent`, prompts as they were sent, otherwise as they stood in their own rows."""
    if steps is None:
        for one in kept(prompts, journal, selected, selection):
            yield _row(one, sent) | _about(one)
        return
    weights = _weights(kept(prompts, journal, selected, selection), steps, sent)
    for one in kept(prompts, journal, selected, selection):
        for task, row in _tasks(one, steps, sent).items():
            yield {**row, "loss_weight": weights[task], "split_key": one.prompt.key, "task": task, "id": one.prompt.id}


def answers(prompts: Sequence[Prompt], journal: Journal, selected: Selected, selection: Selection) -> Iterator[Row]:
    """Requests with their replies, as `potstill import-labels` reads them: of what is kept, with what the server listed."""
    for one in kept(prompts, journal, selected, selection):
        if one.sample.listed is not None:
            asked = {"prompt": one.prompt.sent} if isinstance(one.prompt.sent, str) else {"messages": one.prompt.sent}
            yield {**asked, "choices": [{"logprobs": {"content": one.sample.listed}}]}


def kept(prompts: Sequence[Prompt], journal: Journal, selected: Selected, selection: Selection) -> Iterator[Candidate]:
    """The samples themselves, in the order of the prompts."""
    for place, number in selected.kept:
        found = candidates(prompts[place], journal.read(prompts[place].id), selection.rationale)
        yield next(one for one in found if one.number == number)


def write_rows(path: Path, found: Iterable[Row]) -> int:
    """One JSON object a line; all of them or none; how many. RunDirectoryError where it can't be written."""
    part, number = path.with_name(path.name + ".part"), 0
    try:
        with part.open("w", encoding="utf-8") as file:
            for row in found:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
                number += 1
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        raise RunDirectoryError(
            f"can't write {path}: {error.strerror or error}. Start the same command again"
        ) from error
    return number


def _row(one: Candidate, sent: bool) -> dict[str, object]:
    asked = one.prompt.sent if sent else one.prompt.bare
    if isinstance(asked, str):
        return _with_prompt(asked, one.sample.text, is_cut=one.sample.is_cut)
    return {"messages": [*asked, {"role": "assistant", "content": one.sample.text}]}


def _with_prompt(prompt: str, completion: str, *, is_cut: bool) -> dict[str, object]:
    row: dict[str, object] = {"prompt": prompt, "completion": completion}
    return row | {"ends": False} if is_cut else row


def _about(one: Candidate) -> dict[str, object]:
    about: dict[str, object] = {"id": one.prompt.id, "sample": one.number, "split_key": one.prompt.key}
    if one.rationale is not None:
        about |= {"rationale": one.rationale, "answer": one.answer}
    if one.prompt.answer is not None:
        about["expected"] = one.prompt.answer
    about |= {"tokens": one.sample.tokens, "mean_logprob": one.sample.mean_logprob}
    if one.sample.listed is not None:
        about["top_logprobs"] = [
            [[top["token"], top["logprob"]] for top in entry.get("top_logprobs") or [entry]]  # type: ignore[union-attr]
            for entry in one.sample.listed
        ]
    return about


def _text_of(one: Candidate, sent: bool) -> str:
    asked = one.prompt.sent if sent else one.prompt.bare
    if not isinstance(asked, str):
        raise DataError(
            f"{one.prompt.where} is a conversation, and distilling step by step needs prompts that are texts"
        )
    return asked


def _tasks(one: Candidate, steps: Steps, sent: bool) -> dict[str, dict[str, object]]:
    """task -> prompt and completion."""
    assert one.rationale is not None
    learned = {"label": (steps.label, one.answer), "rationale": (steps.rationale, one.rationale)}
    return {
        task: _with_prompt(before + _text_of(one, sent) + steps.between, text, is_cut=False)
        for task, (before, text) in learned.items()
    }


def _weights(found: Iterable[Candidate], steps: Steps, sent: bool) -> dict[str, float]:
    tokens = {"label": 0, "rationale": 0}
    some = iter(found)
    while batch := [_tasks(one, steps, sent) for one in islice(some, _ROWS_AT_ONCE)]:
        for task in tokens:
            records = (("", tasks[task]) for tasks in batch)
            corpus = tokenize(documents_of_records(records, Columns(), None), steps.tokenizer)
            tokens[task] += int((corpus.weights > 0).sum())
    shares = {"label": 1 - steps.share, "rationale": steps.share}
    return {task: shares[task] * sum(tokens.values()) / max(1, number) for task, number in tokens.items()}
