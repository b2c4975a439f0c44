"""How many of the student's tokens the teacher would take, from one pass of both over text that the teacher wrote.

Speculative decoding leaves the teacher's distribution as it is, so the text that is checked is the teacher's own, and the prediction is
made on that. A drafted token is accepted with probability

    a_t = Σ_x min(p_t(x), q_t(x)) = 1 - TV(p_t, q_t)

(Leviathan et al. 2022, arXiv:2211.17192, theorem 3.5); greedily, where both find the same token likeliest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from potstill.errors import ModelError, VocabularyError
from potstill.models import Sampling, complete, head_of
from potstill.models.asking import device_of, evaluating

# Prompts that are gone on from at once.
_ROWS = 32


@dataclass(frozen=True)
class Text:
    """A prompt and what the teacher wrote after it, as token ids; `domain`: where it belongs, "" where nothing is said."""

    prompt: NDArray[np.int64]
    written: NDArray[np.int64]
    domain: str = ""


@dataclass(frozen=True)
class Expectation:
    """What drafts of `length` tokens a round are expected to give.

    mean_acceptance_length  tokens a round, the teacher's own included: 1 + accepted / rounds
    draft_acceptance_rate   accepted / drafted
    by_position             of the rounds that drafted a token in place 1, 2, ...: the share in which it was accepted, and so all before
    """

    length: int
    mean_acceptance_length: float
    draft_acceptance_rate: float
    by_position: tuple[float, ...]


def written_by(
    teacher: PreTrainedModel,
    prompts: Sequence[NDArray[np.int64]],
    *,
    temperature: float,
    new_tokens: int,
    ends: Sequence[int],
    size: int,
    seed: int = 0,
    domains: Sequence[str] = (),
) -> list[Text]:
    """What the teacher writes after each prompt, up to one of `ends`. Texts without a token are left out."""
    draws = np.random.default_rng(seed).random((len(prompts), new_tokens), np.float32)
    with torch.no_grad():
        found = complete(teacher, prompts, draws, sampling=Sampling(temperature), ends=ends, size=size, rows=_ROWS)
    names = domains or [""] * len(prompts)
    return [Text(*one) for one in zip(prompts, found, names, strict=True) if len(one[1])]


def acceptance(
    teacher: PreTrainedModel, student: PreTrainedModel, text: Text, *, temperature: float, size: int
) -> NDArray[np.float64]:
    """[written tokens]: the probability that a token which the student drafts there is accepted.

    `temperature` is that of both, 0 = greedy; `size`: only so many tokens of the vocabulary may be written. VocabularyError where one of
    them knows fewer.
    """
    ids = np.concatenate([text.prompt, text.written])
    found = []
    for model in (teacher, student):
        if head_of(model).num_tokens < size:
            raise VocabularyError(
                f"{type(model).__name__} knows {head_of(model).num_tokens:,} tokens and {size:,} are drafted: a draft needs its teacher's "
                "tokenizer"
            )
        with evaluating(model), torch.no_grad():
            inputs = torch.from_numpy(ids[None, :-1]).to(device_of(model))
            logits = model(inputs, logits_to_keep=len(text.written)).logits[0, :, :size].float().cpu()
        found.append(logits)
    if temperature == 0:
        return (found[0].argmax(-1) == found[1].argmax(-1)).double().numpy()
    p, q = ((logits / temperature).double().softmax(-1) for logits in found)
    return torch.minimum(p, q).sum(-1).clamp(max=1.0).numpy()


def expect(texts: Sequence[NDArray[np.float64]], length: int) -> Expectation:
    """Rounds of `length` drafts replayed on acceptance probabilities [written tokens] of each text.

    A round that begins at t accepts t, t + 1, ... until one is refused, where the teacher says its own token, or until all are accepted,
    where it says one more. Easy and hard places come in runs, which one mean probability doesn't know; greedily the replay is exact.
    """
    rounds = accepted = drafted = 0.0
    tried, kept = np.zeros(length), np.zeros(length)
    for a in texts:
        begins = np.zeros(len(a) + 1)
        begins[0] = 1.0
        for t in range(len(a)):
            here = begins[t]
            if here == 0:
                continue
            rounds += here
            some = min(length, len(a) - t - 1)  # the last token is the teacher's own, with nothing left to draft
            drafted += here * some
            reach = here
            for place in range(some):
                tried[place] += here
                begins[t + place + 1] += reach * (1 - a[t + place])
                reach *= a[t + place]
                accepted += reach
                kept[place] += reach
            begins[t + some + 1] += reach
    if rounds == 0:
        raise ModelError("there is no text to expect anything of: the teacher wrote nothing")
    by_position = tuple(float(x) for x in np.divide(kept, tried, out=np.zeros(length), where=tried > 0))
    return Expectation(length, 1 + accepted / rounds, accepted / max(drafted, 1e-12), by_position)


def expect_independent(rate: float, length: int) -> Expectation:
    """The same where every token is accepted with the same probability, whatever came before: (1 - a^(k+1)) / (1 - a) tokens a round
    (Leviathan et al. 2022, equation 1)."""
    by_position = tuple(rate ** (place + 1) for place in range(length))
    return Expectation(length, 1 + sum(by_position), sum(by_position) / length, by_position)
