"""Questions with known answers: a user's own measure of whether a model does its job.

One JSON object a line. `prompt` and `answer`, and `choices` where the answer is one of several. How an answer is judged:

exact     what the model writes, up to a line break, is the answer (case and outer space don't count)
choice    of the choices the answer is the one the model finds likeliest, per byte of it (acc_norm of lm-evaluation-harness)
regex     the last match of a pattern in what the model writes (its first group, if it has one) is the answer
python    a function (prompt, answer, written) -> 0 to 1, named as module:function
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from potstill.data import Judging, answer_among, choices_among, judge_of
from potstill.errors import DataError
from potstill.evaluation.harness import HarnessTask, task_scores
from potstill.models import Sampling, complete, ends_of, head_of
from potstill.models.asking import device_of, evaluating

_ROWS = 16


@dataclass(frozen=True)
class Question:
    """What is asked and what is right. `choices` is empty where the model writes freely. DataError for a prompt that asks nothing."""

    prompt: str
    answer: str
    choices: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.prompt.strip():
            raise DataError("its `prompt` is empty, and a model answers what it is asked: give it some text")


@dataclass(frozen=True)
class Questions:
    """Questions and how their answers are judged. `how` is the pattern of "regex", the function of "python"."""

    name: str
    items: tuple[Question, ...]
    judging: Judging
    how: str = ""
    new_tokens: int = 32
    judge: Callable[[str, str, str], float] = field(default=lambda *_: 0.0, compare=False)

    @property
    def fingerprint(self) -> str:
        """Of what is asked and how it is judged."""
        said = repr((self.items, self.judging, self.how, self.new_tokens))
        return f"{self.name} {blake2b(said.encode(), digest_size=16).hexdigest()}"

    def split(self) -> tuple[Questions, Questions]:
        """(a third to choose by, two thirds to judge by), by the hash of the question."""
        chosen_by = tuple(one for one in self.items if blake2b(one.prompt.encode(), digest_size=2).digest()[0] % 3 == 0)
        rest = tuple(one for one in self.items if one not in set(chosen_by))
        if min(len(chosen_by), len(rest)) < 2:
            raise DataError(
                f"{self.name} has {len(self.items)} questions, too few to choose by some and judge by others: some 100 are a beginning"
            )
        return replace(self, items=chosen_by), replace(self, items=rest)


def read_questions(path: Path, *, judging: Judging | None = None, how: str = "", new_tokens: int = 32) -> Questions:
    """The questions of a JSONL file; DataError naming the line that isn't one. Judged as choices where the first has some."""
    items = []
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"the questions {path} can't be read: {error}") from error
    for number, line in enumerate(lines, 1):
        if line.strip():
            items.append(_question(line, f"{path}, line {number}"))
    if len(items) < 3:
        raise DataError(f"{path} has {len(items)} questions, too few to choose by some and judge by others")
    judging = judging or ("choice" if items[0].choices else "regex" if how and ":" not in how else "exact")
    if judging == "choice" and not all(one.choices for one in items):
        raise DataError(
            f"{path}: a question without `choices` can't be judged by choice: judge by exact, regex or python"
        )
    return Questions(path.stem, tuple(items), judging, how, new_tokens, judge_of(judging, how))


def answer_scores(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    questions: Questions | HarnessTask,
    *,
    length: int,
    rows: int = _ROWS,
) -> NDArray[np.float64]:
    """[questions]: how right each answer is, 0 to 1. Written answers are greedy. Prompts keep their last `length` tokens."""
    if isinstance(questions, HarnessTask):
        return task_scores(model, tokenizer, questions, length=length)
    if questions.judging != "choice" and questions.new_tokens >= length:
        raise DataError(
            f"answers of {questions.new_tokens} tokens leave no room for a question in {length}: lower new_tokens"
        )
    with evaluating(model), torch.inference_mode():
        if questions.judging == "choice":
            return np.array([_is_likeliest(model, tokenizer, one, length) for one in questions.items], float)
        found = []
        for start in range(0, len(questions.items), rows):
            items = questions.items[start : start + rows]
            written = _written(model, tokenizer, [one.prompt for one in items], questions.new_tokens, length)
            found += [
                float(questions.judge(one.prompt, one.answer, text)) for one, text in zip(items, written, strict=True)
            ]
    return np.array(found, float)


def _question(line: str, where: str) -> Question:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where} is not JSON: {error}") from error
    if not isinstance(found, Mapping) or not isinstance(found.get("prompt"), str) or "answer" not in found:
        raise DataError(f'{where}: a question is {{"prompt": "...", "answer": "..."}}, found {line[:80]}')
    choices = () if found.get("choices") is None else choices_among(found["choices"], where)
    answer = answer_among(found["answer"], choices, where) if choices else str(found["answer"])
    try:
        return Question(found["prompt"], answer, choices)
    except DataError as error:
        raise DataError(f"{where}: {error}") from error


def _written(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], new_tokens: int, length: int
) -> list[str]:
    """What the model goes on with, greedily."""
    ids = [_ids(tokenizer, prompt)[-(length - new_tokens) :] for prompt in prompts]
    out = complete(
        model,
        [np.array(one, np.int64) for one in ids],
        np.zeros((len(ids), new_tokens), np.float32),
        sampling=Sampling(temperature=0.0),
        ends=ends_of(model, tokenizer),
        size=head_of(model).num_tokens,
        rows=len(ids),
    )
    return [str(tokenizer.decode(row, skip_special_tokens=True)) for row in out]


def _ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """A text with at least one token before whatever follows it."""
    found = list(tokenizer(text)["input_ids"])
    begin = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    return found or [begin if isinstance(begin, int) else 0]


def _is_likeliest(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, question: Question, length: int) -> float:
    """Prompt and choice are read as one text, the space between them as part of the choice: that is how text is tokenised."""
    prompt = question.prompt.rstrip()
    between = question.prompt[len(prompt) :] or (" " if prompt else "")
    before = _ids(tokenizer, prompt)
    best, chosen = -np.inf, ""
    for choice in question.choices:
        whole = _ids(tokenizer, prompt + between + choice)
        tail = whole[len(before) :] or whole[-1:]
        tail = tail[-(length - 1) :]
        ids = torch.tensor([([*before, *tail])[-length:]], device=device_of(model))
        log_q = model(ids).logits[0, -len(tail) - 1 : -1].float().log_softmax(-1)
        found = log_q.gather(-1, ids[0, -len(tail) :, None]).sum().item() / max(1, len(choice.encode()))
        if found > best:
            best, chosen = found, choice
    return float(chosen == question.answer)
