"""From all that was written to what is kept: filters, the best of several samples, no duplicates."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from potstill.writing.duplicates import Duplicates, Known
from potstill.writing.filters import Candidate, Filter, Rationale, refusing
from potstill.writing.journal import Journal
from potstill.writing.prompts import Prompt
from potstill.writing.samples import Written


@dataclass(frozen=True)
class Selection:
    """What is kept.

    filters     in this order
    duplicates  None: they stay
    rationale   None: a text is an answer and nothing else
    keep        of a prompt's samples that pass: the one the writer finds likeliest (without log-probabilities the first), or all
    cut         whether texts that ended for their length alone are kept. Chats that were cut never are: their template would end them
    """

    filters: tuple[Filter, ...] = ()
    duplicates: Duplicates | None = None
    rationale: Rationale | None = None
    keep: Literal["best", "all"] = "best"
    cut: bool = False


@dataclass(frozen=True)
class Selected:
    """(place of the prompt, number of the sample) of what is kept, and how many samples each filter refused."""

    kept: tuple[tuple[int, int], ...]
    refused: dict[str, int]


def select(prompts: Sequence[Prompt], journal: Journal, selection: Selection) -> Selected:
    """The first of duplicates is kept, in the order of the prompts: the journal's own order, which is chance, decides nothing."""
    refused: Counter[str] = Counter()
    known = _known(prompts, journal, selection)
    kept: list[tuple[int, int]] = []
    for place, prompt in enumerate(prompts):
        if prompt.id not in journal:
            continue
        passing = []
        written = journal.read(prompt.id)
        if not written.samples:
            refused["too long a prompt"] += 1
        for candidate in candidates(prompt, written, selection.rationale):
            reason = _reason(candidate, selection)
            if reason is None and known is not None and known.has(_compared(candidate, selection)):
                reason = "duplicates"
            if reason is not None:
                refused[reason] += 1
                continue
            passing.append(candidate)
            if selection.keep == "all":
                _add(known, candidate, selection)
        if passing and selection.keep == "best":
            refused["not the best"] += len(passing) - 1
            passing = [max(passing, key=_likelihood)]
            _add(known, passing[0], selection)
        kept += [(place, one.number) for one in passing]
    return Selected(tuple(kept), {name: number for name, number in refused.items() if number})


def candidates(prompt: Prompt, written: Written, rationale: Rationale | None) -> Iterator[Candidate]:
    """The samples of a prompt, taken apart. One whose rationale isn't found is an answer without one."""
    for number, sample in enumerate(written.samples):
        parts = None if rationale is None else rationale.parts(sample.text)
        if parts is None:
            yield Candidate(prompt, sample, number, sample.text)
        else:
            yield Candidate(prompt, sample, number, parts[1], parts[0])


def _reason(candidate: Candidate, selection: Selection) -> str | None:
    if candidate.sample.is_cut and not (selection.cut and isinstance(candidate.prompt.sent, str)):
        return "cut"
    if not candidate.sample.text.strip():
        return "empty"
    if selection.rationale is not None and candidate.rationale is None:
        return "no rationale"
    return refusing(selection.filters, candidate)


def _likelihood(candidate: Candidate) -> float:
    found = candidate.sample.mean_logprob
    return float("-inf") if found is None else found


def _known(prompts: Sequence[Prompt], journal: Journal, selection: Selection) -> Known | None:
    if selection.duplicates is None:
        return None
    expected = (
        _compared(one, selection)
        for prompt in prompts
        if prompt.id in journal
        for one in candidates(prompt, journal.read(prompt.id), None)
    )
    return Known(selection.duplicates, expected)


def _compared(candidate: Candidate, selection: Selection) -> str:
    assert selection.duplicates is not None
    if not selection.duplicates.whole:
        return candidate.sample.text
    sent = candidate.prompt.sent
    asked = sent if isinstance(sent, str) else "\n".join(turn["content"] for turn in sent)
    return f"{asked}\n{candidate.sample.text}"


def _add(known: Known | None, candidate: Candidate, selection: Selection) -> None:
    if known is not None:
        known.add(_compared(candidate, selection))
