"""One way of choosing tokens tried on prompts: predicted for every draft length, measured for some."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedModel

from potstill.drafts.acceptance import Expectation, Text, acceptance, expect, written_by
from potstill.drafts.costs import Costs, best_length, speedup
from potstill.drafts.rounds import Rounds
from potstill.drafts.speculating import plainly, speculate

_DRAWS = 2_000


@dataclass(frozen=True)
class Prompted:
    """What is drafted after: prompts as token ids, their domains, tokens that end a text, tokens written at most, vocabulary."""

    prompts: tuple[NDArray[np.int64], ...]
    domains: tuple[str, ...]
    ends: tuple[int, ...]
    new_tokens: int
    size: int


@dataclass(frozen=True)
class Rate:
    """The mean probability that a drafted token is accepted, over all tokens of the teacher's texts, with its 95 % interval over texts."""

    value: float
    low: float
    high: float
    tokens: int


@dataclass(frozen=True)
class Measured:
    """Drafts of one length, in transformers. `plain_seconds`: of the teacher alone for the same prompts, each in turn with the draft.

    texts  how many were written
    same   of them equal to those of the teacher alone; None where tokens are drawn, so that they are others
    """

    length: int
    rounds: Rounds
    tokens: int
    seconds: float
    plain_tokens: int
    plain_seconds: float
    texts: int
    same: int | None = None

    @property
    def speedup(self) -> float:
        """Tokens a second, against the teacher alone."""
        return (self.tokens / self.seconds) / (self.plain_tokens / self.plain_seconds)


@dataclass(frozen=True)
class Trial:
    """All of one temperature: `expected` of lengths 1, 2, ...; `domains` where more than one is named."""

    temperature: float
    rate: Rate
    expected: tuple[Expectation, ...]
    measured: tuple[Measured, ...]
    domains: Mapping[str, Rate] = field(default_factory=dict)

    def best(self, costs: Costs) -> Expectation | None:
        """The length that should save most time; None where none does."""
        return best_length(self.expected, costs)


def try_draft(
    teacher: PreTrainedModel,
    student: PreTrainedModel,
    prompted: Prompted,
    costs: Costs,
    *,
    temperature: float,
    longest: int,
    lengths: Sequence[int],
) -> Iterator[str | Trial]:
    """Words on what is being done, and at the end the trial. `lengths` are measured besides the one that is predicted to be best."""
    yield "the teacher writes"
    texts = written_by(
        teacher,
        prompted.prompts,
        temperature=temperature,
        new_tokens=prompted.new_tokens,
        ends=prompted.ends,
        size=prompted.size,
        domains=prompted.domains,
    )
    yield "both read what it wrote"
    accepted = [acceptance(teacher, student, text, temperature=temperature, size=prompted.size) for text in texts]
    expected = tuple(expect(accepted, length) for length in range(1, longest + 1))
    best = max(expected, key=lambda one: speedup(one, costs))
    measured = []
    for length in sorted({*lengths, best.length}):
        yield f"drafts of {length} a round"
        measured.append(_measured(teacher, student, prompted, length=length, temperature=temperature))
    yield Trial(temperature, rate_of(accepted), expected, tuple(measured), _by_domain(texts, accepted))


def rate_of(accepted: Sequence[NDArray[np.float64]]) -> Rate:
    """Mean over tokens, interval by a bootstrap over texts; NaN of a single text."""
    sums, counts = (np.array([f(one) for one in accepted], dtype=np.float64) for f in (np.sum, len))
    draws = np.random.default_rng(0).integers(0, len(sums), (_DRAWS, len(sums)))
    means = sums[draws].sum(1) / counts[draws].sum(1)
    low, high = np.quantile(means, (0.025, 0.975)) if len(sums) > 1 else (np.nan, np.nan)
    return Rate(float(sums.sum() / counts.sum()), float(low), float(high), int(counts.sum()))


def _by_domain(texts: Sequence[Text], accepted: Sequence[NDArray[np.float64]]) -> dict[str, Rate]:
    names = dict.fromkeys(text.domain for text in texts)
    if len(names) < 2:
        return {}
    return {
        name: rate_of([one for text, one in zip(texts, accepted, strict=True) if text.domain == name]) for name in names
    }


def _measured(
    teacher: PreTrainedModel, student: PreTrainedModel, prompted: Prompted, *, length: int, temperature: float
) -> Measured:
    how = {"temperature": temperature, "new_tokens": prompted.new_tokens, "ends": prompted.ends}
    speculate(teacher, student, prompted.prompts[0], length=length, **how)  # a first call is slower than others
    plain, drafted = [], []
    for number, prompt in enumerate(prompted.prompts):
        plain.append(plainly(teacher, prompt, seed=number, **how))
        drafted.append(speculate(teacher, student, prompt, length=length, seed=number, **how))
    pairs = zip(plain, drafted, strict=True)
    return Measured(
        length,
        Rounds.joined([one.rounds for one in drafted]),
        sum(len(one.written) for one in drafted),
        sum(one.seconds for one in drafted),
        sum(len(one.written) for one in plain),
        sum(one.seconds for one in plain),
        len(plain),
        None if temperature else sum(np.array_equal(one.written, other.written) for one, other in pairs),
    )
