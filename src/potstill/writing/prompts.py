"""Prompts: rows with a prompt or a conversation, perhaps with the right answer."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from potstill.data import pattern_of, read_records
from potstill.errors import DataError

Message = Mapping[str, str]
PLACE = "{prompt}"


@dataclass(frozen=True)
class Prompt:
    """What is asked.

    id       of the prompt: its content's hash, and how many equal ones stand before it. It stays when others are added or taken away
    key      of its content alone: what is written for equal prompts is learned from together, or held out together
    sent     what the writer reads: a text, or a conversation
    bare     what stood in the row
    answer   what is right, where it is known
    where    the row
    """

    id: str
    key: str
    sent: str | tuple[Message, ...]
    bare: str | tuple[Message, ...]
    answer: str | None
    where: str


@dataclass(frozen=True)
class Framing:
    """What is put around the prompts of rows.

    template        a text in which `{prompt}` stands for the prompt
    system          what a conversation begins with
    is_chat         prompts become a user's turn
    answer_pattern  its last match (its first group, if it has one) in the answer's column is the answer
    """

    template: str = PLACE
    system: str | None = None
    is_chat: bool = False
    answer_pattern: str | None = None


@dataclass(frozen=True)
class PromptColumns:
    """Which columns hold what."""

    prompt: str = "prompt"
    messages: str = "messages"
    answer: str = "answer"


def read_prompts(
    source: str | Path,
    *,
    framing: Framing | None = None,
    columns: PromptColumns | None = None,
    split: str = "train",
    most: int | None = None,
    without_answers: bool = False,
) -> tuple[Prompt, ...]:
    """The prompts of a .jsonl or .parquet file, a `datasets` folder or a hub name. DataError for a row that has none.

    `without_answers`: of a chat that the assistant has ended, its last turns are left out; otherwise it is refused.
    """
    framing, columns = framing or Framing(), columns or PromptColumns()
    before: Counter[str] = Counter()
    found = []
    for where, row in islice(read_records(source, split=split), most):
        bare = _bare(row, columns, where, without_answers)
        sent = _sent(bare, framing)
        key = hashlib.blake2b(json.dumps(sent, ensure_ascii=True).encode(), digest_size=12).hexdigest()
        identity = key if not before[key] else f"{key}-{before[key]}"
        before[key] += 1
        found.append(Prompt(identity, key, sent, bare, _answer(row, columns, framing, where), where))
    if not found:
        raise DataError(f"{source} holds no prompts: give rows with {columns.prompt!r} or {columns.messages!r}")
    return tuple(found)


def fingerprint_of_prompts(prompts: Sequence[Prompt]) -> str:
    """Of what is sent, in order."""
    digest = hashlib.blake2b(digest_size=16)
    for prompt in prompts:
        digest.update(prompt.id.encode() + b"\n")
    return digest.hexdigest()


def _bare(
    row: Mapping[str, object], columns: PromptColumns, where: str, without_answer: bool
) -> str | tuple[Message, ...]:
    messages, text = row.get(columns.messages), row.get(columns.prompt)
    if messages is not None:
        turns = tuple(_turns(messages, columns.messages, where))
        asked = turns
        while asked and asked[-1]["role"] == "assistant":
            asked = asked[:-1]
        if asked == turns or (without_answer and any(turn["role"] != "system" for turn in asked)):
            return asked
        raise DataError(f"{where}: the last turn is the assistant's already: leave out what is to be written")
    if not isinstance(text, str):
        raise DataError(
            f"{where} has columns {', '.join(map(repr, row)) or 'none'}, and a prompt needs {columns.prompt!r} (a text) or "
            f"{columns.messages!r}. Name the columns so; a recipe (`potstill write`) may say instead which hold what, [prompts.columns]: "
            'prompt = "question"'
        )
    return text


def _turns(messages: object, name: str, where: str) -> Iterator[Message]:
    if not isinstance(messages, Sequence) or isinstance(messages, str) or not messages:
        raise DataError(f"{where}: {name!r} must be a list of turns with a role and content")
    for turn in messages:
        role, content = (turn.get("role"), turn.get("content")) if isinstance(turn, Mapping) else (None, None)
        if not isinstance(role, str) or not isinstance(content, str):
            raise DataError(f"{where}: a turn needs a role and content, both text, found {str(turn)[:80]!r}")
        yield {"role": role, "content": content}


def _sent(bare: str | tuple[Message, ...], framing: Framing) -> str | tuple[Message, ...]:
    system = () if framing.system is None else ({"role": "system", "content": framing.system},)
    if not isinstance(bare, str):
        return (*system, *bare)
    text = framing.template.replace(PLACE, bare)
    return (*system, {"role": "user", "content": text}) if framing.is_chat else text


def _answer(row: Mapping[str, object], columns: PromptColumns, framing: Framing, where: str) -> str | None:
    value = row.get(columns.answer)
    if value is None:
        return None
    if not isinstance(value, str | int | float):
        raise DataError(f"{where}: {columns.answer!r} is {type(value).__name__}, not a text or a number")
    if framing.answer_pattern is None:
        return str(value)
    found = list(pattern_of(framing.answer_pattern).finditer(str(value)))
    if not found:
        raise DataError(f"{where}: {framing.answer_pattern!r} is not found in {columns.answer!r}: {str(value)[:80]!r}")
    return (found[-1][1] if found[-1].re.groups else found[-1][0]) or ""
