"""Log-probabilities of an answer's tokens: asked for by a policy, shown as the client wished.

Servers say them in one of two shapes. Of a chat, `{"content": [{"token", "logprob", "top_logprobs": [...]}, ...]}`; of a completion,
`{"tokens": [...], "token_logprobs": [...], "top_logprobs": [{token: logprob}, ...], "text_offset": [...]}`. llama.cpp has the first for
both; clients get the one that OpenAI's API has.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from potstill.errors import DataError
from potstill.routing import TokenLogprobs, listed_tokens
from potstill.serving.asking import LEAST_TOP, Asked

Entry = Mapping[str, object]


def asking_for(asked: Asked, top: int) -> dict[str, object]:
    """The request with log-probabilities of at least the `top` likeliest tokens."""
    number = max(top, asked.top_logprobs or 0, LEAST_TOP)
    wished = {"logprobs": number} if asked.path == "/completions" else {"logprobs": True, "top_logprobs": number}
    return {**asked.body, **wished}


def tokens_of(parts: Iterable[Mapping[str, object]], top: int) -> dict[int, tuple[TokenLogprobs, ...]]:
    """Of each choice in an answer's parts: its tokens, each with the `top` likeliest. DataError where there are none of a choice."""
    found: dict[int, list[Entry]] = {}
    said: dict[int, bool] = {}
    for part in parts:
        for choice in _choices(part):
            index = choice.get("index", 0)
            assert isinstance(index, int)
            entries = entries_of(choice.get("logprobs"))
            found.setdefault(index, []).extend({**entry, "top_logprobs": likeliest(entry, top)} for entry in entries)
            said[index] = said.get(index, False) or _says_something(choice)
    if not found or any(said[index] and not entries for index, entries in found.items()):
        raise DataError("the student's server gave no log-probabilities")
    return {index: listed_tokens(entries) for index, entries in found.items()}


def show_(part: dict[str, object], asked: Asked, offsets: dict[int, int]) -> None:
    """Leave what the client wished to see. `offsets`: how many characters of each choice came before; brought up to date."""
    for choice in _choices(part):
        if "logprobs" not in choice:
            continue
        if asked.top_logprobs is None or choice["logprobs"] is None:
            choice["logprobs"] = None  # type: ignore[index]
            continue
        entries, index = entries_of(choice["logprobs"]), choice.get("index", 0)
        assert isinstance(index, int)
        if asked.path == "/completions":
            choice["logprobs"] = _of_a_completion(entries, asked.top_logprobs, offsets.get(index, 0))  # type: ignore[index]
            offsets[index] = offsets.get(index, 0) + sum(len(str(entry.get("token", ""))) for entry in entries)
        else:
            content = [{**entry, "top_logprobs": likeliest(entry, asked.top_logprobs)} for entry in entries]
            choice["logprobs"] = {"content": content, "refusal": None}  # type: ignore[index]


def entries_of(logprobs: object) -> list[Entry]:
    """From either shape; none where there is nothing. DataError for neither."""
    if logprobs is None:
        return []
    if not isinstance(logprobs, Mapping):
        raise DataError(f"log-probabilities are an object, found {str(logprobs)[:60]}")
    content = logprobs.get("content")
    if content is None and "tokens" in logprobs:
        content = _from_a_completion(logprobs)
    if content is None:
        return []
    if not isinstance(content, list) or not all(isinstance(entry, Mapping) for entry in content):
        raise DataError("the log-probabilities of an answer are a list of objects")
    return content


def likeliest(entry: Entry, top: int) -> list[Mapping[str, object]]:
    """The `top` likeliest tokens in an entry's place. DataError for what is no list of tokens."""
    listed = entry.get("top_logprobs") or []
    try:
        return sorted(listed, key=lambda one: -float(one["logprob"]))[:top]  # type: ignore[call-overload, arg-type]
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"likeliest tokens are a list of objects with a logprob: {error!r}") from error


def _choices(part: Mapping[str, object]) -> Sequence[dict[str, object]]:
    choices = part.get("choices")
    return [one for one in choices if isinstance(one, dict)] if isinstance(choices, list) else []


def _says_something(choice: Mapping[str, object]) -> bool:
    said = choice.get("message") or choice.get("delta") or choice
    assert isinstance(said, Mapping)
    return any(said.get(field) for field in ("content", "text", "tool_calls", "reasoning_content"))


def _from_a_completion(logprobs: Mapping[str, object]) -> list[Entry]:
    tokens, values = logprobs["tokens"], logprobs.get("token_logprobs")
    try:
        tops = logprobs.get("top_logprobs") or [{}] * len(tokens)  # type: ignore[arg-type]
        return [
            {
                "token": token,
                "logprob": value,
                "top_logprobs": [{"token": t, "logprob": p} for t, p in (top or {}).items()],
            }
            for token, value, top in zip(tokens, values, tops, strict=True)  # type: ignore[arg-type, call-overload]
        ]
    except (TypeError, ValueError, AttributeError) as error:
        raise DataError(f"log-probabilities of a completion are lists of the same length: {error}") from error


def _of_a_completion(entries: Sequence[Entry], top: int, offset: int) -> dict[str, object]:
    tokens = [str(entry.get("token", "")) for entry in entries]
    places = [offset]
    for token in tokens:
        places.append(places[-1] + len(token))
    return {
        "tokens": tokens,
        "token_logprobs": [entry.get("logprob") for entry in entries],
        "top_logprobs": [
            {str(one.get("token", "")): one["logprob"] for one in likeliest(entry, top)} for entry in entries
        ],
        "text_offset": places[:-1],
    }
