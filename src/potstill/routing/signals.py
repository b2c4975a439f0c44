"""How sure a student is of its own answer, from what any OpenAI-compatible server says of each token it wrote."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from potstill.errors import DataError

# exp(-30) is nothing; servers say -9999 or minus infinity for less.
_LEAST = -30.0
# How many likeliest tokens are asked for: entropy depends on it, so calibration and serving ask for the same number.
TOP_LOGPROBS = 5


@dataclass(frozen=True)
class TokenLogprobs:
    """The natural log-probability of one token of an answer, and those of the likeliest tokens in its place, in any order."""

    logprob: float
    top: tuple[float, ...] = ()


@dataclass(frozen=True)
class Signals:
    """Numbers that say how sure an answer is; None: not known.

    mean_logprob  a token: the answer's log-probability, length-normalised
    min_logprob   of its least likely token
    sum_logprob   of the whole answer
    entropy       in nats, mean over its tokens; what the list leaves out counts as one other token. Needs a list
    margin        likeliest minus second likeliest probability, mean over its tokens. Needs a list of two
    """

    mean_logprob: float | None = None
    min_logprob: float | None = None
    sum_logprob: float | None = None
    entropy: float | None = None
    margin: float | None = None

    def named(self) -> dict[str, float]:
        """Those that are there."""
        found = {name: getattr(self, name) for name in SIGNALS}
        return {name: value for name, value in found.items() if value is not None}


SIGNALS = ("mean_logprob", "min_logprob", "sum_logprob", "entropy", "margin")
# Of what was asked; for a trained classifier only.
PROMPT_FEATURES = ("prompt_length", "prompt_digits", "prompt_symbols", "prompt_capitals")


def signals_of(tokens: Sequence[TokenLogprobs]) -> Signals:
    """Of an answer, token by token. An answer without tokens is as unsure as can be. DataError for what is no log-probability."""
    if not tokens:
        return Signals(_LEAST, _LEAST, _LEAST, -_LEAST, 0.0)
    logprobs = [_bounded(one.logprob) for one in tokens]
    total = sum(logprobs)
    tops = [sorted(map(_bounded, one.top), reverse=True) for one in tokens]
    has_lists, has_pairs = all(tops), all(len(top) >= 2 for top in tops)
    return Signals(
        mean_logprob=total / len(tokens),
        min_logprob=min(logprobs),
        sum_logprob=total,
        entropy=sum(map(_entropy, tops)) / len(tokens) if has_lists else None,
        margin=sum(math.exp(top[0]) - math.exp(top[1]) for top in tops) / len(tokens) if has_pairs else None,
    )


def listed_tokens(listed: Iterable[Mapping[str, object]]) -> tuple[TokenLogprobs, ...]:
    """From the `content` of a chat completion's logprobs: entries with `logprob` and perhaps `top_logprobs`. DataError otherwise."""
    try:
        return tuple(
            TokenLogprobs(
                float(entry["logprob"]),  # type: ignore[arg-type]
                tuple(float(top["logprob"]) for top in entry.get("top_logprobs") or ()),  # type: ignore[union-attr]
            )
            for entry in listed
        )
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
        raise DataError(
            f'the log-probabilities of an answer are a list of {{"logprob": ..., "top_logprobs": [...]}}: {error!r}'
        ) from error


def prompt_features(prompt: str) -> dict[str, float]:
    """What a prompt looks like: the logarithm of its length, shares of digits, of symbols and of capitals among its characters."""
    size = max(1, len(prompt))
    return {
        "prompt_length": math.log(size),
        "prompt_digits": sum(map(str.isdigit, prompt)) / size,
        "prompt_symbols": sum(not (one.isalnum() or one.isspace()) for one in prompt) / size,
        "prompt_capitals": sum(map(str.isupper, prompt)) / size,
    }


def _bounded(logprob: float) -> float:
    if math.isnan(logprob) or logprob > 0.01:
        raise DataError(f"{logprob} is no log-probability: it must be at most 0")
    return max(_LEAST, min(0.0, logprob))


def _entropy(top: Sequence[float]) -> float:
    rest = 1.0 - sum(map(math.exp, top))
    return -sum(math.exp(one) * one for one in top) - (rest * math.log(rest) if rest > 1e-12 else 0.0)
