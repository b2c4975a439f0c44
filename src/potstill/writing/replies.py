"""What goes to an OpenAI-compatible server, and what its replies say: /chat/completions and /completions, with log-probabilities."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from potstill.errors import DataError
from potstill.writing.drawing import key_of
from potstill.writing.prompts import Prompt
from potstill.writing.samples import Listed, Sample, Sampling

Endpoint = Literal["chat", "completions"]
PATHS: dict[Endpoint, str] = {"chat": "/chat/completions", "completions": "/completions"}


class MalformedError(ValueError):
    """A reply that is none."""


@dataclass(frozen=True)
class Asking:
    """What is asked of a server besides the prompt.

    top_logprobs  how many likeliest tokens are listed for each; 0: the log-probability of the written one alone; None: nothing
    seeds         whether a seed goes along with what is sampled
    limit_name    of the setting that limits an answer's length
    """

    model: str
    sampling: Sampling
    endpoint: Endpoint = "chat"
    top_logprobs: int | None = None
    seeds: bool = True
    limit_name: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"


def body_of(asking: Asking, prompt: Prompt, sample: int) -> dict[str, object]:
    """The request for one sample of a prompt. What is left at its default is left out: not every server knows every setting."""
    sampling = asking.sampling
    body: dict[str, object] = {"model": asking.model, asking.limit_name: sampling.max_new_tokens}
    if asking.endpoint == "chat":
        sent = prompt.sent
        body["messages"] = (
            [{"role": "user", "content": sent}] if isinstance(sent, str) else [dict(turn) for turn in sent]
        )
    elif isinstance(prompt.sent, str):
        body["prompt"] = prompt.sent
    else:
        raise DataError(f'{prompt.where} is a conversation, which goes to the endpoint "chat", not to "completions"')
    body["temperature"] = sampling.temperature
    given = {"top_k": sampling.top_k, "top_p": sampling.top_p, "min_p": sampling.min_p, "stop": list(sampling.stop)}
    defaults = {"top_k": 0, "top_p": 1.0, "min_p": 0.0, "stop": []}
    body |= {name: value for name, value in given.items() if value != defaults[name]}
    if asking.seeds and sampling.temperature > 0:
        # 31 bits: servers read it as a signed number.
        body["seed"] = key_of(f"{sampling.seed} {prompt.id}", sample) >> 33
    if asking.top_logprobs is not None:
        if asking.endpoint == "chat":
            body["logprobs"] = True
            body |= {"top_logprobs": asking.top_logprobs} if asking.top_logprobs else {}
        else:
            body["logprobs"] = max(1, asking.top_logprobs)
    return body


def sample_of(reply: object) -> tuple[Sample, int]:
    """(what was written, tokens of the prompt). MalformedError for what has another form, an error in place of an answer among it."""
    try:
        choice = reply["choices"][0]  # type: ignore[index]
        usage = reply.get("usage") or {}  # type: ignore[union-attr]
        text = _text_of(choice)
        listed = tuple(_listed(choice.get("logprobs")))
        tokens = int(usage.get("completion_tokens") or len(listed))
        logprobs = [float(entry["logprob"]) for entry in listed]  # type: ignore[arg-type]
        sample = Sample(
            text=text,
            tokens=tokens,
            is_cut=choice.get("finish_reason") == "length",
            mean_logprob=sum(logprobs) / len(logprobs) if logprobs else None,
            listed=listed or None,
        )
        return sample, int(usage.get("prompt_tokens") or 0)
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        raise MalformedError(f"{type(error).__name__}: {error}") from error


def _text_of(choice: Mapping) -> str:
    """The text; in front of it, between <think> and </think>, what the server has taken out of it as reasoning."""
    message = choice.get("message")
    if message is None:
        text, reasoning = choice["text"], None
    else:
        reasoning = message.get("reasoning_content") or message.get("reasoning")
        text = message["content"] if reasoning is None else message["content"] or ""
    if not isinstance(text, str):
        raise MalformedError(f"a text is needed, found {type(text).__name__}")
    text = text.encode("utf-8", "replace").decode(
        "utf-8"
    )  # half a surrogate pair, where a text was cut inside a character
    return text if not isinstance(reasoning, str) else f"<think>\n{reasoning.strip()}\n</think>\n\n{text.lstrip()}"


def _listed(logprobs: Mapping | None) -> Iterator[Listed]:
    """Token by token, in the form of chats; completions of the older form are brought into it."""
    if not logprobs:
        return
    if logprobs.get("content") is not None:
        for entry in logprobs["content"]:
            tops = [top for top in entry.get("top_logprobs") or [] if top.get("logprob") is not None]
            yield {**_one(entry), "top_logprobs": [_one(top) for top in tops]}
        return
    tops = logprobs.get("top_logprobs") or [None] * len(logprobs["tokens"])
    for token, logprob, top in zip(logprobs["tokens"], logprobs["token_logprobs"], tops, strict=True):
        likeliest = sorted((top or {}).items(), key=lambda one: -one[1])
        yield {
            "token": token,
            "logprob": logprob,
            "top_logprobs": [{"token": one, "logprob": value} for one, value in likeliest],
        }


def _one(entry: Mapping) -> dict[str, object]:
    """Token, log-probability and bytes. The token's number, where the server gives it, says more than its text."""
    number = entry.get("id")
    token = f"token_id:{number}" if isinstance(number, int) else str(entry["token"])
    found: dict[str, object] = {"token": token, "logprob": float(entry["logprob"])}
    if entry.get("bytes") is not None and not isinstance(number, int):
        found["bytes"] = list(entry["bytes"])
    return found | ({"text": str(entry["token"])} if isinstance(number, int) else {})
