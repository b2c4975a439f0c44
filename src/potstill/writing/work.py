"""Writing from beginning to end: each prompt once, however often it is interrupted."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from potstill.writing.journal import Journal
from potstill.writing.prompts import Prompt
from potstill.writing.samples import Unanswered, Writer, Written


@dataclass(frozen=True)
class Progress:
    """What this call has done so far.

    total      prompts that had nothing written when it began
    done       of them
    unanswered of them: they stay to be done; `reason` is the last one's
    tokens     written
    """

    total: int
    done: int = 0
    unanswered: int = 0
    tokens: int = 0
    seconds: float = 0.0
    reason: str = ""


def write(prompts: Sequence[Prompt], writer: Writer, journal: Journal) -> Iterator[Progress]:
    """Write what the journal has not got; yields at the beginning and after each prompt."""
    missing = {prompt.id for prompt in prompts if prompt.id not in journal}
    begun, done, unanswered, tokens, reason = time.perf_counter(), 0, 0, 0, ""
    last = begun
    yield Progress(len(missing))
    if not missing:
        return
    for outcome in writer.write(prompts, missing):
        match outcome:
            case Written():
                now = time.perf_counter()
                journal.append(replace(outcome, seconds=round(now - last, 3)))
                last = now
                done += 1
                tokens += outcome.tokens
            case Unanswered():
                unanswered += 1
                reason = outcome.reason
        yield Progress(len(missing), done, unanswered, tokens, time.perf_counter() - begun, reason)


@dataclass(frozen=True)
class Price:
    """What a server takes for a million tokens."""

    read: float = 0.0
    written: float = 0.0


@dataclass(frozen=True)
class Totals:
    """All that was ever written for these prompts."""

    prompts: int
    written: int
    samples: int
    prompt_tokens: int
    tokens: int
    requests: int
    seconds: float

    def cost(self, price: Price) -> float:
        """In the price's currency."""
        return (self.prompt_tokens * price.read + self.tokens * price.written) / 1e6


def totals(prompts: Sequence[Prompt], journal: Journal) -> Totals:
    """Counted in the journal."""
    found = [journal.read(prompt.id) for prompt in prompts if prompt.id in journal]
    return Totals(
        prompts=len(prompts),
        written=len(found),
        samples=sum(len(one.samples) for one in found),
        prompt_tokens=sum(one.prompt_tokens for one in found),
        tokens=sum(one.tokens for one in found),
        requests=sum(one.requests for one in found),
        seconds=round(sum(one.seconds for one in found), 3),
    )
