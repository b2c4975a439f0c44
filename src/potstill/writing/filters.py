"""What is kept of what was written: each filter looks at one sample, and the first that refuses it is counted."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from potstill.data import Judge, pattern_of
from potstill.errors import DataError
from potstill.writing.prompts import Prompt
from potstill.writing.samples import Sample


@dataclass(frozen=True)
class Candidate:
    """A sample of a prompt, taken apart where a pattern says how.

    answer     what is judged: the answer that the pattern found, or the whole text
    rationale  what the pattern found in front of it
    number     of the sample
    """

    prompt: Prompt
    sample: Sample
    number: int
    answer: str
    rationale: str | None = None


@dataclass(frozen=True)
class Filter:
    """A name that refusals are counted under, and what is kept."""

    name: str
    keeps: Callable[[Candidate], bool]


@dataclass(frozen=True)
class Rationale:
    """How a text is taken apart: a pattern with the groups `rationale` and `answer`, found anywhere in it."""

    pattern: re.Pattern[str]

    @classmethod
    def of(cls, text: str) -> Rationale:
        """DataError for a pattern without the two groups."""
        pattern = pattern_of(text)
        if not {"rationale", "answer"} <= pattern.groupindex.keys():
            raise DataError(
                f"{text!r} needs the groups (?P<rationale>...) and (?P<answer>...), as in "
                r"'(?s)<think>(?P<rationale>.*?)</think>\s*(?P<answer>.*)'"
            )
        return cls(pattern)

    def parts(self, text: str) -> tuple[str, str] | None:
        """(rationale, answer) without outer space; None where the pattern isn't found, or one of them is empty."""
        found = self.pattern.search(text)
        parts = None if found is None else tuple((found[name] or "").strip() for name in ("rationale", "answer"))
        return (parts[0], parts[1]) if parts is not None and all(parts) else None


def judged(name: str, judge: Judge, *, at_least: float = 1.0, whole: bool = False) -> Filter:
    """Keeps what a judge finds right; it is given the answer or, with `whole`, the whole text."""

    def keeps(one: Candidate) -> bool:
        text, written = one.prompt.sent, one.sample.text if whole else one.answer
        asked = text if isinstance(text, str) else text[-1]["content"]
        return float(judge(asked, one.prompt.answer or "", written)) >= at_least

    return Filter(name, keeps)


def found_in(name: str, pattern: re.Pattern[str], *, is_wanted: bool = True) -> Filter:
    """Keeps texts in which a pattern is found; or is not."""
    return Filter(name, lambda one: (pattern.search(one.sample.text) is not None) == is_wanted)


def likely(name: str, at_least: float) -> Filter:
    """Keeps what the writer finds likely: the mean log-probability of its tokens, in nats. DataError where it wasn't said."""

    def keeps(one: Candidate) -> bool:
        if one.sample.mean_logprob is None:
            raise DataError(
                f"the server gave no log-probabilities for {one.prompt.where}: take the filter {name!r} out, or use a server that does"
            )
        return one.sample.mean_logprob >= at_least

    return Filter(name, keeps)


def long_enough(
    name: str, *, tokens: tuple[int | None, int | None], characters: tuple[int | None, int | None]
) -> Filter:
    """Keeps texts of so many tokens and characters, (least, most) each."""

    def keeps(one: Candidate) -> bool:
        found = ((one.sample.tokens, tokens), (len(one.sample.text), characters))
        return all((low is None or n >= low) and (high is None or n <= high) for n, (low, high) in found)

    return Filter(name, keeps)


def refusing(filters: Sequence[Filter], candidate: Candidate) -> str | None:
    """The first filter that refuses it."""
    return next((one.name for one in filters if not one.keeps(candidate)), None)
