"""The chosen student with weights of four bits: whether it still clears the bars; if not, whether it does after learning through the
rounding."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from transformers import PreTrainedModel

from potstill.errors import ModelError
from potstill.export import GRID, bytes_of, group_of, learning_through_, rounded, save_packed
from potstill.models import load_model, save_model
from potstill.runs import Stage
from potstill.search.bar import Verdict, judge
from potstill.search.compression import Climbing, Decided, Event, Redone, Search
from potstill.search.kept import Kept
from potstill.training import Linear, train

# Learning through the rounding: a short while at a low rate, from weights that are nearly right.
_SHARE, _RATE = 0.1, 0.1
# It is looked at on held-out text twice at most, besides the candidates.
_LOOKS = 2


@dataclass(frozen=True)
class FourBits:
    """The student in four bits.

    group      inputs a scale
    bytes      of its weights on disk
    recovered  whether it had to learn through the rounding
    verdicts   what held-out text says of it
    """

    group: int
    bytes: int
    recovered: bool
    verdicts: tuple[Verdict, ...]

    @property
    def holds(self) -> bool:
        """Whether it clears all bars."""
        return all(one.holds for one in self.verdicts)


def in_four_bits(search: Search, name: str) -> Iterator[Event | FourBits]:
    """Round, judge, and where a bar is missed that the student clears, learn through the rounding and judge again."""
    folder = search.of(name) / f"int4-{search.steps_of(name)}-grid-{GRID}"
    student = search.climber(name).student()
    try:
        group = group_of(student)
    except ModelError as error:
        yield Decided(f"no four-bit weights: {error}")
        shutil.rmtree(search.path / "student-int4", ignore_errors=True)
        return
    yield Stage("rounding the student to four bits")
    verdicts = _judged(search, folder / "rounded", student, group)
    full = search.verdicts(name)
    recovered = any(now.holds < before.holds for now, before in zip(verdicts, full, strict=True))
    if recovered:
        yield Decided(
            "rounded to four bits the student misses the bar: it learns through the rounding for a short while"
        )
        if not (folder / "student" / "config.json").exists():
            yield from _learn(search, name, folder, group)
        student = load_model(folder / "student")
        verdicts = _judged(search, folder / "learned", student, group)
    found = FourBits(group, bytes_of(student, group), recovered, verdicts)
    if not found.holds and search.job.bars:
        shutil.rmtree(search.path / "student-int4", ignore_errors=True)
    else:
        yield from _packed(search, name, student, found)
    yield found


def _packed(search: Search, name: str, student: PreTrainedModel, found: FourBits) -> Iterator[Event]:
    """student-int4/, whole or not at all."""
    target, part = search.path / "student-int4", search.path / ".student-int4-part"
    facts = {
        "candidate": name,
        "steps": search.steps_of(name),
        "recovered": found.recovered,
        "group": found.group,
        "grid": GRID,
    }
    if (why := Kept(search.folder).begin("int4", facts, [target])) is not None:
        yield Redone("int4", why)
    if not (target / "config.json").exists():
        shutil.rmtree(part, ignore_errors=True)
        save_packed(student, search.job.tokenizer, part, found.group)
        part.replace(target)


def _judged(search: Search, kept: Path, student: PreTrainedModel, group: int) -> tuple[Verdict, ...]:
    evidence = search.judging.evidence(kept, lambda: rounded(student, group))
    return tuple(judge(bar, evidence, search.teacher_judged_by, looks=search.looks + _LOOKS) for bar in search.bars)


def _learn(search: Search, name: str, folder: Path, group: int) -> Iterator[Event]:
    climber, settings = search.climber(name), search.job.settings
    steps = max(2, round(_SHARE * settings.steps))
    settings = replace(settings, steps=steps, learning_rate=_RATE * settings.learning_rate, schedule=Linear(0.1))
    student = climber.student().requires_grad_(True)
    with learning_through_(student, group):
        for step in train(
            student, climber.marker, search.job.batches, search.job.measure, settings, folder=folder / "checkpoints"
        ):
            yield Climbing("four bits", step, steps)
    save_model(student, search.job.tokenizer, folder / "student")
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)


def facts_of(found: FourBits) -> dict[str, object]:
    """Plain dictionaries, for scores.json."""
    return json.loads(
        json.dumps(
            {
                "group": found.group,
                "bytes": found.bytes,
                "learned_through_rounding": found.recovered,
                "holds": found.holds,
                "verdicts": [plain(one) for one in found.verdicts],
            }
        )
    )


def plain(verdict: Verdict) -> dict[str, object]:
    """A verdict as JSON has it."""
    return {
        "bar": str(verdict.bar),
        "metric": verdict.bar.metric,
        "least": verdict.bar.least,
        "absolute": verdict.bar.absolute,
        "value": verdict.value,
        "low": None if verdict.low != verdict.low else verdict.low,
        "high": None if verdict.high != verdict.high else verdict.high,
        "n": verdict.n,
        "holds": verdict.holds,
    }
