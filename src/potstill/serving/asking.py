"""What a client asks, checked: what can be wrong with a request is found here, and an engine sees no field that isn't known."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from potstill.routing import AnsweredBy
from potstill.serving.limits import Limits
from potstill.serving.refusals import RefusedError, wrong

Endpoint = Literal["/chat/completions", "/completions"]
OWN_NAME = "potstill"
# llama.cpp says nothing of a token where no likeliest ones are asked for.
LEAST_TOP, MOST_TOP_LOGPROBS = 1, 20
_ROLES = ("system", "developer", "user", "assistant", "tool")
_OF_A_MESSAGE = {"role", "content", "name", "tool_calls", "tool_call_id", "refusal", "annotations", "reasoning_content"}
_MOST_STOPS = 16
# Deep enough for any schema, and none that reads it further on runs out of stack.
_MOST_LEVELS = 64


@dataclass(frozen=True)
class Asked:
    """A request that an engine can be sent.

    body          as sent on, but for the model's name
    model         the name that was asked for
    wants         who must answer, where the client says so
    top_logprobs  how many likeliest tokens the client wants to see of each; None: no log-probabilities
    prompt        what was asked last; None where that is not one text
    """

    path: Endpoint
    body: Mapping[str, object]
    model: str
    wants: AnsweredBy | None
    is_stream: bool
    wants_usage: bool
    top_logprobs: int | None
    prompt: str | None


def asked_of(raw: bytes, path: Endpoint, limits: Limits, engines: Collection[AnsweredBy]) -> Asked:
    """RefusedError 400 naming the field that is wrong; 404 for a model that isn't here."""
    found = {name: value for name, value in _decoded(raw).items() if value is not None}
    checks = _COMMON | (_CHAT if path == "/chat/completions" else _COMPLETION)
    for name, value in found.items():
        if name in checks:
            checks[name](name, value)
        elif name not in limits.more_fields:
            raise wrong(f"{name[:60]!r} is no field that is known here (--allow-field passes one on)", name[:60])
    needed = "messages" if path == "/chat/completions" else "prompt"
    if needed not in found:
        raise wrong(f"{needed!r} is missing: what is asked", needed)
    if "stream_options" in found and not found.get("stream"):
        raise wrong("'stream_options' needs \"stream\": true", "stream_options")
    _check_amounts(found, limits)
    model = str(found.pop("model", OWN_NAME))
    options = found.get("stream_options")
    if (top := _top_logprobs(found, path)) == 0:
        found["top_logprobs" if path == "/chat/completions" else "logprobs"] = LEAST_TOP
    asks_usage = isinstance(options, dict) and options.get("include_usage") is True
    return Asked(
        path,
        found,
        model,
        _wanted(model, engines),
        found.get("stream") is True,
        asks_usage,
        top,
        _last_text(found),
    )


def _decoded(raw: bytes) -> dict[str, object]:
    try:
        # The engine reads the other half of a pair in vain, and answers 500.
        if b"\\ud" in raw or b"\\uD" in raw:
            json.dumps(json.loads(raw.decode("utf-8")), ensure_ascii=False).encode()
        found = json.loads(raw.decode("utf-8"), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise wrong(f"the request is not JSON: {str(error)[:200]}") from None
    if not isinstance(found, dict):
        raise wrong('the request is an object, {"messages": [...]}')
    level: list[object] = [found]
    for _ in range(_MOST_LEVELS):
        level = [one for outer in level for one in _inside(outer)]
        if not level:
            return found
    raise wrong(f"the request has more than {_MOST_LEVELS} levels")


def _inside(value: object) -> Iterable[object]:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")


def _wanted(model: str, engines: Collection[AnsweredBy]) -> AnsweredBy | None:
    if model == OWN_NAME:
        return None
    for engine in engines:
        if model == engine:
            return engine
    names = ", ".join((OWN_NAME, *engines))
    raise RefusedError(
        404, f"there is no model {model[:60]!r} here, but {names}", code="model_not_found", param="model"
    )


def _check_amounts(found: dict[str, object], limits: Limits) -> None:
    """Not more tokens and answers than is allowed; where no number of tokens is asked, it is what is allowed."""
    names = [name for name in ("max_tokens", "max_completion_tokens") if name in found]
    for name in names:
        if found[name] > limits.max_tokens:  # type: ignore[operator]
            raise wrong(f"{name!r} is at most {limits.max_tokens} here, found {found[name]}", name)
    if not names:
        found["max_tokens"] = limits.max_tokens
    prompt = found.get("prompt")
    prompts = len(prompt) if isinstance(prompt, list) and not isinstance(prompt[0], int) else 1
    n = found.get("n", 1)
    assert isinstance(n, int)
    if n * prompts > limits.choices:
        raise wrong(f"at most {limits.choices} answers to one request, found {n * prompts}", "n" if n > 1 else "prompt")


def _top_logprobs(found: Mapping[str, object], path: Endpoint) -> int | None:
    if path == "/completions":
        number = found.get("logprobs")
        return number if isinstance(number, int) else None
    top = found.get("top_logprobs", 0)
    if found.get("logprobs") is not True:
        if top:
            raise wrong("'top_logprobs' needs \"logprobs\": true", "top_logprobs")
        return None
    assert isinstance(top, int)
    return top


def _last_text(found: Mapping[str, object]) -> str | None:
    said = found.get("prompt")
    messages = found.get("messages")
    if isinstance(messages, list):
        said = messages[-1].get("content")
    if isinstance(said, list) and said and all(isinstance(part, dict) for part in said):
        said = "".join(part["text"] for part in said)
    if isinstance(said, list) and len(said) == 1:
        [said] = said
    return said if isinstance(said, str) else None


Check = Callable[[str, object], None]


def _is(kind: type, word: str) -> Check:
    def check(name: str, value: object) -> None:
        if not isinstance(value, kind):
            raise wrong(f"{name!r} is {word}, found {_shown(value)}", name)

    return check


def _number(least: float, most: float) -> Check:
    def check(name: str, value: object) -> None:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not least <= value <= most or not math.isfinite(value):  # type: ignore[operator]
            raise wrong(f"{name!r} is a number from {least:g} to {most:g}, found {_shown(value)}", name)

    return check


def _whole(least: int, most: int) -> Check:
    def check(name: str, value: object) -> None:
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise wrong(f"{name!r} is a whole number from {least} to {most}, found {_shown(value)}", name)

    return check


def _objects(name: str, value: object) -> None:
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise wrong(f"{name!r} is a list of objects, found {_shown(value)}", name)


def _stop(name: str, value: object) -> None:
    texts = value if isinstance(value, list) else [value]
    if len(texts) > _MOST_STOPS or not all(isinstance(text, str) and text for text in texts):
        raise wrong(f"{name!r} is a text, or a list of at most {_MOST_STOPS}, none empty", name)


def _biases(name: str, value: object) -> None:
    if not isinstance(value, dict):
        raise wrong(f"{name!r} is an object of numbers, found {_shown(value)}", name)
    for token, bias in value.items():
        if not token.isascii() or not token.isdigit() or len(token) > 9:
            raise wrong(f"{name!r} goes by a token's number, found {token[:20]!r}", name)
        _number(-100.0, 100.0)(name, bias)


def _choice_of_tool(name: str, value: object) -> None:
    if value not in ("none", "auto", "required") and not isinstance(value, dict):
        raise wrong(f"{name!r} is none, auto, required or an object, found {_shown(value)}", name)


def _messages(name: str, value: object) -> None:
    _objects(name, value)
    if not value:
        raise wrong(f"{name!r} is empty: what is asked", name)
    assert isinstance(value, list)
    for place, message in enumerate(value):
        where = f"{name}[{place}]"
        for field in [field for field, said in message.items() if said is None]:
            del message[field]
        if unknown := sorted(set(message) - _OF_A_MESSAGE):
            raise wrong(f"{where} has a field that is not known here: {unknown[0][:60]!r}", where)
        if message.get("role") not in _ROLES:
            raise wrong(f"{where}.role is one of {', '.join(_ROLES)}, found {_shown(message.get('role'))}", where)
        _content(where, message)


def _content(where: str, message: dict[str, object]) -> None:
    for field in ("name", "tool_call_id", "refusal", "reasoning_content"):
        if field in message:
            _is(str, "a text")(f"{where}.{field}", message[field])
    for field in ("tool_calls", "annotations"):
        if field in message:
            _objects(f"{where}.{field}", message[field])
    content = message.get("content")
    if content is None:
        if message["role"] != "assistant" or not message.get("tool_calls"):
            raise wrong(f"{where}.content is missing", where)
        message["content"] = ""
    elif isinstance(content, list):
        for part in content:
            if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
                raise wrong(
                    f'{where}.content has parts {{"type": "text", "text": ...}} alone: models here read text', where
                )
    elif not isinstance(content, str):
        raise wrong(f"{where}.content is a text, found {_shown(content)}", where)


def _prompt(name: str, value: object) -> None:
    prompts = value if isinstance(value, list) and not (value and isinstance(value[0], int)) else [value]
    if not prompts or not all(isinstance(one, str) or _are_tokens(one) for one in prompts):
        raise wrong(f"{name!r} is a text, a list of texts, or lists of token numbers, found {_shown(value)}", name)


def _are_tokens(value: object) -> bool:
    if not isinstance(value, list) or not value:
        return False
    return all(isinstance(one, int) and not isinstance(one, bool) and 0 <= one < 2**31 for one in value)


def _stream_options(name: str, value: object) -> None:
    if not isinstance(value, dict) or not all(isinstance(one, bool | None) for one in value.values()):
        raise wrong(f'{name!r} is {{"include_usage": true}}, found {_shown(value)}', name)


def _response_format(name: str, value: object) -> None:
    kinds = ("text", "json_object", "json_schema")
    if not isinstance(value, dict) or value.get("type") not in kinds:
        raise wrong(f"{name!r} is an object whose type is one of {', '.join(kinds)}, found {_shown(value)}", name)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:40] + "..."


_TEXT, _FLAG, _OBJECT = _is(str, "a text"), _is(bool, "true or false"), _is(dict, "an object")
_COUNT = _whole(1, 2**31 - 1)
_COMMON: dict[str, Check] = {
    "model": _TEXT,
    "stream": _FLAG,
    "stream_options": _stream_options,
    "temperature": _number(0.0, 2.0),
    "top_p": _number(0.0, 1.0),
    "top_k": _whole(-1, 2**31 - 1),
    "min_p": _number(0.0, 1.0),
    "repetition_penalty": _number(0.0, 10.0),
    "repeat_penalty": _number(0.0, 10.0),
    "frequency_penalty": _number(-2.0, 2.0),
    "presence_penalty": _number(-2.0, 2.0),
    "logit_bias": _biases,
    "max_tokens": _COUNT,
    "n": _COUNT,
    "seed": _whole(-1, 2**32 - 1),
    "stop": _stop,
    "user": _TEXT,
    "response_format": _response_format,
}
_CHAT: dict[str, Check] = {
    "messages": _messages,
    "max_completion_tokens": _COUNT,
    "logprobs": _FLAG,
    "top_logprobs": _whole(0, MOST_TOP_LOGPROBS),
    "tools": _objects,
    "tool_choice": _choice_of_tool,
    "parallel_tool_calls": _FLAG,
    "reasoning_effort": _TEXT,
    "chat_template_kwargs": _OBJECT,
    "metadata": _OBJECT,
    "store": _FLAG,
}
_COMPLETION: dict[str, Check] = {"prompt": _prompt, "logprobs": _whole(0, MOST_TOP_LOGPROBS)}
