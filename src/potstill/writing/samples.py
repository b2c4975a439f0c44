"""What is asked of a writer, and what comes back."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Protocol, runtime_checkable

from potstill.writing.prompts import Prompt

# One token as OpenAI's API lists it: token, logprob, perhaps bytes and id, and the likeliest ones as top_logprobs.
Listed = Mapping[str, object]


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen.

    temperature     0: the likeliest token, always
    top_k           only the k likeliest; 0: all
    top_p           only the fewest that have this probability together
    min_p           only those at least so likely, as a share of the likeliest
    best_of         samples a prompt
    max_new_tokens  at most so many tokens
    stop            texts before which writing ends
    seed            with a prompt, a sample's number and a place, it decides which token is drawn
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    best_of: int = 1
    max_new_tokens: int = 256
    stop: tuple[str, ...] = ()
    seed: int = 0


@dataclass(frozen=True)
class Sample:
    """One text written for a prompt.

    tokens        written, the end of text among them; 0 where a server doesn't say
    is_cut        it ended because it was as long as it might be
    mean_logprob  of its tokens, in nats: the writer's own likelihood. None where a server doesn't say
    listed        what a server lists of each token
    """

    text: str
    tokens: int
    is_cut: bool
    mean_logprob: float | None = None
    listed: tuple[Listed, ...] | None = None


@dataclass(frozen=True)
class Written:
    """All samples of a prompt; none where the prompt leaves no room in the model's context.

    prompt_tokens  read, over all samples
    requests       to a server, those that failed among them
    seconds        since the one before: of all of them together, how long writing took
    """

    id: str
    samples: tuple[Sample, ...]
    prompt_tokens: int = 0
    requests: int = 0
    seconds: float = 0.0

    @property
    def tokens(self) -> int:
        """Written, in all samples."""
        return sum(sample.tokens for sample in self.samples)

    def to_json(self) -> dict[str, object]:
        """For one line of a journal."""
        return asdict(self)

    @classmethod
    def from_json(cls, found: Mapping) -> Written:
        """The way back. KeyError or TypeError for anything else."""
        samples = tuple(
            Sample(**{**one, "listed": None if one["listed"] is None else tuple(one["listed"])})
            for one in found["samples"]
        )
        return cls(found["id"], samples, found["prompt_tokens"], found["requests"], found["seconds"])


@dataclass(frozen=True)
class Unanswered:
    """A prompt without an answer, and why; it is asked again next time."""

    id: str
    reason: str


@runtime_checkable
class Writer(Protocol):
    """A model here, on a server, or held by many workers."""

    def write(self, prompts: Sequence[Prompt], missing: Container[str]) -> Iterator[Written | Unanswered]:
        """One of the two for each prompt whose id is missing, in any order. The others are there so that what is written beside a prompt
        does not depend on what was written before."""
        ...
