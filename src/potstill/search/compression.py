"""The whole search, step by step: labels, importance, ladder, screen, climbing, judging, control, four bits.

Every step leaves files in the run's folder and is passed over when they are there. What to do next is decided from these files alone,
so the same command goes on where it was killed, and ends with the same result.

measurements/     the teacher on text to choose by and to judge by
soft_labels/      what the teacher says of the text to learn from, said once for all candidates
importance.safetensors  ladder.json       what may be cut, and into what
candidates/NAME/  screen.npz, trunk/, decay-STEPS/, look-STEPS.npz, held_out.npz, student/
controls/         hard labels and the untouched student, of the shape that was chosen
search.json       what was decided, and why
student/  student-int4/
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

from potstill.evaluation import measure
from potstill.evaluation.measuring import Measurement
from potstill.losses import HARD_LABELS
from potstill.models import head_of, on_this_device
from potstill.runs import RunFolder, Stage, held_out_sample
from potstill.search.bar import Bar, Evidence, Verdict, judge, margin, retained
from potstill.search.climbing import Climber
from potstill.search.curves import Point
from potstill.search.job import LOOKS, SearchJob
from potstill.search.kept import Kept
from potstill.search.ladder import Candidate, ladder
from potstill.search.observing import Observer
from potstill.search.smallest import Found, Judge, NoneFound, Standing, Train, next_move, standing
from potstill.soft_labels import Progress, Store, begin_store, label
from potstill.students import Importance, measure_importance, prune
from potstill.teachers import RememberingTeacher, StoredTeacher
from potstill.training import Step
from potstill.types import Lineage

_SCREEN_TOKENS = 6_000
# What remains to be gained, as a share of the bar, below which a candidate has stopped improving.
_FLAT = 0.001


@dataclass(frozen=True)
class Redone:
    """A step is done again, because something it was made from has changed."""

    step: str
    why: str


@dataclass(frozen=True)
class Climbing:
    """A candidate has done an optimizer step on its way to a look."""

    name: str
    step: Step
    of: int


@dataclass(frozen=True)
class Ladder:
    """What there is to choose among, as far as each has come; after every change."""

    candidates: tuple[Candidate, ...]
    standings: Mapping[str, Standing]


@dataclass(frozen=True)
class Decided:
    """Something was decided."""

    what: str


@dataclass(frozen=True)
class Chosen:
    """The end of the search: the student, whether it clears the bars, and the verdicts that say so."""

    candidate: Candidate
    holds: bool
    verdicts: tuple[Verdict, ...]


Event = Stage | Progress | Redone | Climbing | Ladder | Decided | Chosen


@dataclass(frozen=True)
class Search:
    """A job in its folder."""

    job: SearchJob
    folder: RunFolder

    def run(self) -> Iterator[Event]:
        """Do what is left to do; `Chosen` is the last event."""
        yield from self._prepare()
        yield from self._screen()
        decisions: list[dict[str, object]] = []
        while True:
            standings = self.standings()
            yield Ladder(self.candidates, standings)
            move = next_move(list(standings.values()), rungs=len(LOOKS), looks=self.job.looks)
            decisions.append({"move": type(move).__name__, **asdict(move)})
            self._write(decisions, standings)
            match move:
                case Train(names, rungs, why):
                    yield Decided(f"{', '.join(names)}: {why}")
                    for name in names:
                        yield from self._train(name, rungs - 1)
                case Judge(name, _):
                    yield Stage(f"judging {name} on held-out text")
                    verdicts = self.verdicts(name)
                    yield Decided(f"{name} {'clears' if all(one.holds for one in verdicts) else 'misses'} the bar on held-out text")
                case Found(name) | NoneFound(name):
                    yield from self._end(name)
                    verdicts = self.verdicts(name)
                    yield Chosen(self.by_name[name], isinstance(move, Found), verdicts)
                    return

    @property
    def path(self) -> Path:
        """Of the run."""
        return self.folder.path

    @cached_property
    def candidates(self) -> tuple[Candidate, ...]:
        """The ladder, without those the screen took out; the smallest first."""
        wanted = self.job.ladder
        found = ladder(
            self.job.teacher.model, self.importance, shares=wanted.shares, cuts=wanted.cuts, limits=wanted.limits
        )
        if not self.job.bars:
            found = tuple(one for one in found if one.level == found[-1].level)
        return found

    @cached_property
    def by_name(self) -> dict[str, Candidate]:
        """The candidates by name."""
        return {one.name: one for one in self.candidates}

    @cached_property
    def importance(self) -> Importance:
        """Scores of the teacher's parts."""
        return Importance.load(self.path / "importance.safetensors")

    @cached_property
    def choosing(self) -> Observer:
        """Measures on the text to choose by."""
        return Observer.of(self.job, "search")

    @cached_property
    def judging(self) -> Observer:
        """Measures on the text that no choice is made on."""
        return Observer.of(self.job, "held_out")

    @cached_property
    def teacher_chosen_by(self) -> Evidence:
        """What the teacher does on the text to choose by."""
        return self.choosing.evidence(self.path / "measurements" / "search", lambda: self.job.teacher.model, is_teacher=True)

    @cached_property
    def teacher_judged_by(self) -> Evidence:
        """What the teacher does on held-out text."""
        return self.judging.evidence(
            self.path / "measurements" / "held_out", lambda: self.job.teacher.model, is_teacher=True
        )

    @property
    def bars(self) -> tuple[Bar, ...]:
        """What a student must reach; where nothing was said, anything is enough."""
        return self.job.bars or (Bar("accuracy", 0.0),)

    def standings(self) -> dict[str, Standing]:
        """How far each candidate has come, from what was measured."""
        inside = [one for one in self.candidates if self._is_in(one)]
        curves = {one.name: self.points(one.name) for one in inside}
        return {one.name: self._standing(one, curves) for one in inside}

    def points(self, name: str) -> dict[str, list[Point]]:
        """The learning curve of a candidate, by bar: looks on the text to choose by."""
        found: dict[str, list[Point]] = {str(bar): [] for bar in self.bars}
        for steps in sorted(int(path.stem.rpartition("-")[2]) for path in self._of(name).glob("look-*.npz")):
            evidence = self._look(name, steps)
            for bar in self.bars:
                draws = retained(bar, evidence, self.teacher_chosen_by)
                found[str(bar)].append(Point(self._tokens(steps), float(draws.values[0]), draws.error))
        return found

    def verdicts(self, name: str) -> tuple[Verdict, ...]:
        """What held-out text says of a candidate, bar by bar."""
        evidence = self.judging.evidence(self._of(name) / "held_out", self.climber(name).student)
        return tuple(judge(bar, evidence, self.teacher_judged_by, looks=self.job.looks) for bar in self.bars)

    def climber(self, name: str, *, control: bool = False) -> Climber:
        """The candidate, or the same shape learning from hard labels."""
        job = self.job
        folder = RunFolder(self.path / "controls" / "hard_labels" if control else self._of(name))
        folder.path.mkdir(parents=True, exist_ok=True)
        measure = HARD_LABELS if control else job.measure
        store = Store(self.path / "soft_labels")
        marker = StoredTeacher(store, job.texts.learn, tokenizer=job.manifest.tokenizer, measure=job.measure)
        return Climber(
            folder, lambda: self.untouched(name)[0], marker, job.batches, measure, job.settings, job.tokenizer
        )

    def untouched(self, name: str):
        """(the student before training, where its parts come from)."""
        student, lineage = prune(self.job.teacher.model, self.by_name[name].shape, self.importance)
        return student.float().requires_grad_(True), lineage

    def lineage(self, name: str) -> Lineage:
        """Where a candidate's parts come from."""
        return self.untouched(name)[1]

    def _of(self, name: str) -> Path:
        return self.path / "candidates" / name

    def _prepare(self) -> Iterator[Event]:
        """The teacher's scores, its labels, what matters in it."""
        job, kept = self.job, Kept(self.folder)
        on_this_device(job.teacher.model)
        places = {
            "teacher": ("measurements",),
            "labels": ("soft_labels",),
            "importance": ("importance.safetensors",),
            "candidates": ("candidates", "controls", "student", "student-int4"),
            "judging": (),
        }
        for step, names in places.items():
            found = [self.path / name for name in names]
            if step == "judging":  # another held-out text leaves the candidates as they are
                found = [*self.path.glob("candidates/*/held_out.*"), *self.path.glob("controls/*/held_out.*")]
            why = kept.begin(step, job.made_from[step], found)
            if why is not None:
                yield Redone(step, why)
        if not (self.path / "measurements" / "held_out.npz").exists():
            yield Stage("measuring the teacher")
        _ = self.teacher_chosen_by, self.teacher_judged_by
        folder = self.path / "soft_labels"
        begin_store(folder, job.manifest, job.texts.learn, head_of(job.teacher.model))
        yield Stage("the teacher marks the text")
        yield from label(job.teacher, job.texts.learn, folder)
        if not (self.path / "importance.safetensors").exists():
            yield Stage("measuring what matters in the teacher")
            part = self.path / ".importance.part"
            measure_importance(job.teacher.model, job.texts.looked_at, length=job.length).save(part)
            part.replace(self.path / "importance.safetensors")

    def _screen(self) -> Iterator[Event]:
        """Look at every candidate before it learns: of each level the worst are left out, none is chosen by it."""
        sample = held_out_sample(self.job.texts.search, _SCREEN_TOKENS, self.job.length)
        beside = RememberingTeacher(self.job.teacher)
        for one in self.candidates:
            path = self._of(one.name) / "screen.npz"
            if self._needs_screening(one) and not path.exists():
                yield Stage(f"looking at {one.name}, untrained")
                path.parent.mkdir(parents=True, exist_ok=True)
                student = on_this_device(self.untouched(one.name)[0])
                found = measure(
                    student,
                    sample,
                    length=self.job.length,
                    teacher=beside,
                    size=self.job.teacher.num_tokens,
                    dtype=self.job.settings.dtype,
                )
                found.save(path)
        self.folder.write_json("ladder.json", {one.name: asdict(one) | {"stays": self._is_in(one)} for one in self.candidates})

    def _needs_screening(self, one: Candidate) -> bool:
        return sum(other.level == one.level for other in self.candidates) > self.job.ladder.screened

    def _is_in(self, one: Candidate) -> bool:
        """Whether the screen left it in: among the nearest of its level to the teacher."""
        if not self._needs_screening(one):
            return True
        level = [other for other in self.candidates if other.level == one.level]
        nearest = sorted(level, key=lambda other: self.untrained_kl(other.name))
        return one in nearest[: self.job.ladder.screened]

    def untrained_kl(self, name: str) -> float:
        """Nats a token from the teacher, before it has learned anything."""
        if not (self._of(name) / "screen.npz").exists():
            return math.nan
        found = Measurement.load(self._of(name) / "screen.npz")
        return float(found.kl.sum() / found.tokens.sum())

    def _standing(self, one: Candidate, curves: Mapping[str, Mapping[str, list[Point]]]) -> Standing:
        own = curves[one.name]
        held_out = self._of(one.name) / "held_out.answers.json"
        judged = all(verdict.holds for verdict in self.verdicts(one.name)) if held_out.exists() else None
        done = max((rung + 1 for rung in range(len(LOOKS)) if self._has_look(one.name, self._steps(rung))), default=0)
        targets = {str(bar): self._target(bar, own[str(bar)]) for bar in self.bars}
        others = {bar: [found[bar] for name, found in curves.items() if name != one.name] for bar in own}
        found = standing(
            Standing(one.name, one.cut, one.level, done, judged=judged), own, targets, tokens=self.tokens, others=others
        )
        if found.reaches is not None and done >= 2 and self._is_flat(found, own, targets):
            return replace(found, rungs=len(LOOKS))
        return found

    @property
    def tokens(self) -> int:
        """What a whole training reads."""
        return self._tokens(self.job.settings.steps)

    def _tokens(self, steps: int) -> int:
        return steps * self.job.batches.rows * self.job.length

    def _is_flat(self, found: Standing, curves: Mapping[str, list[Point]], targets: Mapping[str, tuple[float, bool]]) -> bool:
        if not self.job.until_flat or found.reaches is None:
            return False
        now = min(
            points[-1].value / targets[bar][0] if not targets[bar][1] else targets[bar][0] / points[-1].value
            for bar, points in curves.items()
            if targets[bar][0]
        )
        return found.reaches[0] - now < _FLAT

    def _target(self, bar: Bar, points: list[Point]) -> tuple[float, bool]:
        """(what must be reached on text to choose by, so that the interval on held-out text clears the bar as often as not, whether
        less is better)."""
        less = bar.metric == "bits" and bar.absolute
        if not self.job.bars or not points:
            return bar.least, less
        here, there = (self._size(bar, evidence) for evidence in (self.teacher_chosen_by, self.teacher_judged_by))
        error = points[-1].error * math.sqrt(here / max(1.0, there))
        above = margin(error, looks=self.job.looks)
        return bar.least + (-above if less else above), less

    @staticmethod
    def _size(bar: Bar, evidence: Evidence) -> float:
        return float(len(evidence.answers[bar.metric])) if bar.metric in evidence.answers else float(evidence.text.tokens.sum())

    def _steps(self, rung: int, look: int = -1) -> int:
        """Optimizer steps to a look of a rung, the last one unless told."""
        return max(2, round(LOOKS[rung][look] * self.job.settings.steps))

    def _has_look(self, name: str, steps: int) -> bool:
        return (self._of(name) / f"look-{steps}.answers.json").exists()

    def _look(self, name: str, steps: int) -> Evidence:
        return self.choosing.evidence(self._of(name) / f"look-{steps}", self.climber(name).student)

    def _train(self, name: str, rung: int) -> Iterator[Event]:
        climber = self.climber(name)
        for share in range(len(LOOKS[rung])):
            steps = self._steps(rung, share)
            if self._has_look(name, steps):
                continue
            for step in climber.climb(steps):
                yield Climbing(name, step, steps)
            self._look(name, steps)

    def _end(self, name: str) -> Iterator[Event]:
        """The control and the untouched student on held-out text, and the student where it is looked for."""
        climber = self.climber(name)
        if self.job.control:
            control = self.climber(name, control=True)
            student = json.loads((climber.folder.path / "student.json").read_text("utf-8"))
            for step in control.climb(int(student["steps"])):
                yield Climbing("hard labels", step, int(student["steps"]))
            self.judging.evidence(control.folder.path / "held_out", control.student)
            control.forget()
        yield Stage("measuring the untouched student")
        self.judging.evidence(
            self.path / "controls" / "untouched" / "held_out", lambda: self.untouched(name)[0]
        )
        kept = Kept(self.folder).begin("student", {"candidate": name}, [self.path / "student", self.path / "student-int4"])
        if kept is not None:
            yield Redone("student", kept)
        if not (self.path / "student" / "config.json").exists():
            part = self.path / ".student-part"
            shutil.rmtree(part, ignore_errors=True)
            shutil.copytree(climber.folder.path / "student", part)
            shutil.rmtree(self.path / "student", ignore_errors=True)
            part.replace(self.path / "student")
        self.folder.write_json("lineage.json", asdict(self.lineage(name)))

    def _write(self, decisions: list[dict[str, object]], standings: Mapping[str, Standing]) -> None:
        self.folder.write_json(
            "search.json",
            {
                "bars": [str(bar) for bar in self.bars],
                "decisions": decisions,
                "standings": {name: asdict(found) for name, found in standings.items()},
            },
        )
