"""A conversation as text, and which characters of it the assistant wrote.

The tokenizer's own template renders it. Where a turn of the assistant begins and ends is found by rendering the conversation
up to before it (with the generation prompt) and up to after it: what the second has more than the first is what the model
must write, its end-of-turn token included, the white space that the template puts behind it not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from jinja2 import TemplateError

from potstill.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def chat_parts(messages: object, tokenizer: PreTrainedTokenizerBase, where: str) -> list[tuple[str, bool]]:
    """(text, counts) stretches of the rendered conversation; only the assistant's turns count.

    Raises DataError for messages that are no conversation, and for templates that render a conversation's beginning
    differently once it goes on (thinking that is dropped from earlier turns, say): labels would be misplaced.
    """
    turns = _turns(messages, where)
    if tokenizer.chat_template is None:
        raise DataError(f"{where} is a chat, and the tokenizer has no chat template: use prompt and completion columns")
    parts: list[tuple[str, bool]] = []
    written = ""
    for index, turn in enumerate(turns):
        if turn["role"] != "assistant":
            continue
        before = _rendered(turns[:index], tokenizer, where, asks=True)
        after = _rendered(turns[: index + 1], tokenizer, where, asks=False)
        if not (before.startswith(written) and after.startswith(before)):
            raise DataError(
                f"{where}: the chat template renders the beginning of this conversation differently once it goes on, so it "
                "can't be said which tokens the assistant wrote: split it into one sample a turn (prompt + completion)"
            )
        answer = after[len(before) :]
        ended = answer.rstrip()
        parts += [(before[len(written) :], False), (ended, True), (answer[len(ended) :], False)]
        written = after
    if not parts:
        parts = [(_rendered(turns, tokenizer, where, asks=False), False)]
    return [(text, counts) for text, counts in parts if text]


def _turns(messages: object, where: str) -> list[dict[str, str]]:
    if not isinstance(messages, Sequence) or isinstance(messages, str) or not messages:
        raise DataError(
            f"{where}: messages must be a list of turns with a role and content, found {type(messages).__name__}"
        )
    for turn in messages:
        if (
            not isinstance(turn, dict)
            or not isinstance(turn.get("role"), str)
            or not isinstance(turn.get("content"), str)
        ):
            raise DataError(f"{where}: a turn needs a role and content, both text, found {str(turn)[:80]!r}")
        check_is_unicode(turn["role"], where)
        check_is_unicode(turn["content"], where)
    if messages[0]["role"] == "assistant":
        raise DataError(
            f"{where}: a conversation begins with a turn of the user or the system, this one with the assistant's"
        )
    return list(messages)


def check_is_unicode(text: str, where: str) -> None:
    """DataError for half a surrogate pair, which JSON can write and no encoding has."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(
            f"{where}: character {error.start} is half a surrogate pair ({text[error.start]!r}): mend or delete that line"
        ) from error


def _rendered(turns: list[dict[str, str]], tokenizer: PreTrainedTokenizerBase, where: str, *, asks: bool) -> str:
    try:
        return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=asks))
    except TemplateError as error:
        raise DataError(f"{where}: the chat template refuses this conversation: {error}") from error
