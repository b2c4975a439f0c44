"""What is known in the folder of a search: the ladder, how far each candidate has come, what was measured. Reading it changes nothing that
is there; what isn't there yet is measured."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from potstill.errors import ModelError
from potstill.evaluation.measuring import Measurement
from potstill.losses import HARD_LABELS
from potstill.runs import RunFolder
from potstill.search.bar import Bar, Evidence, Verdict, judge, margin, retained
from potstill.search.climbing import Climber
from potstill.search.curves import Point
from potstill.search.job import Rungs, SearchJob, rungs_of
from potstill.search.ladder import Candidate, ladder
from potstill.search.observing import Observer
from potstill.search.smallest import Standing, reach_of, standing
from potstill.search.timing import times_as_fast
from potstill.soft_labels import Store
from potstill.students import Importance, prune
from potstill.teachers import StoredTeacher
from potstill.types import Lineage

# What remains to be gained, as a share of the bar, below which a candidate has stopped improving.
_FLAT = 0.001


@dataclass(frozen=True)
class Known:
    """A job in its folder."""

    job: SearchJob
    folder: RunFolder

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
        found = tuple(one for one in found if self._is_fast_enough(one))
        if not found:
            raise ModelError(
                "no student of the ladder is as fast as that: ask for less, or for smaller shares (student.shares)"
            )
        if not self.job.bars:
            found = tuple(one for one in found if one.level == found[-1].level)
        return found

    def _is_fast_enough(self, one: Candidate) -> bool:
        """Timed once a run: times differ from one to the next, and the ladder must not."""
        limits = self.job.ladder.limits
        if limits is None or limits.times_as_fast is None:
            return True
        timed = self.folder.read_json("timings.json") if (self.path / "timings.json").exists() else {}
        if one.name not in timed:
            timed[one.name] = times_as_fast(self.job.teacher.model, one.shape)
            self.folder.keep_json("timings.json", timed)
        return float(str(timed[one.name])) >= limits.times_as_fast

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
        return self.choosing.evidence(
            self.path / "measurements" / "search", lambda: self.job.teacher.model, is_teacher=True
        )

    @cached_property
    def teacher_judged_by(self) -> Evidence:
        """What the teacher does on held-out text."""
        return self.judging.evidence(
            self.path / "measurements" / "held_out", lambda: self.job.teacher.model, is_teacher=True
        )

    @property
    def bars(self) -> tuple[Bar, ...]:
        """What a student must reach; where nothing was said, anything is enough."""
        return self.job.bars or (Bar("agreement", 0.0),)

    @property
    def rungs(self) -> Rungs:
        """When a candidate is looked at."""
        return rungs_of(self.job.settings.steps)

    @property
    def tokens(self) -> int:
        """What a whole training reads."""
        return self.tokens_of(self.job.settings.steps)

    def tokens_of(self, steps: int) -> int:
        """What so many steps read."""
        return steps * self.job.batches.rows * self.job.length

    def standings(self) -> dict[str, Standing]:
        """How far each candidate has come, from what was measured."""
        inside = [one for one in self.candidates if self.is_in(one)]
        curves = {one.name: self.points(one.name) for one in inside}
        return {one.name: self._standing(one, curves) for one in inside}

    def points(self, name: str) -> dict[str, list[Point]]:
        """The learning curve of a candidate, by bar: looks on the text to choose by, of rungs that are done.

        A search that was killed within a rung must decide as one that wasn't, and that one never saw half a rung.
        """
        found: dict[str, list[Point]] = {str(bar): [] for bar in self.bars}
        done = self.rungs_done(name)
        last = self.steps(done - 1) if done else 0
        looks = sorted(int(path.stem.rpartition("-")[2]) for path in self.of(name).glob("look-*.npz"))
        for steps in (one for one in looks if one <= last):
            evidence = self.look(name, steps)
            for bar in self.bars:
                draws = retained(bar, evidence, self.teacher_chosen_by)
                found[str(bar)].append(Point(self.tokens_of(steps), float(draws.values[0]), draws.error))
        return found

    def verdicts(self, name: str) -> tuple[Verdict, ...]:
        """What held-out text says of a candidate as it is now, bar by bar."""
        evidence = self.judging.evidence(self.held_out_of(name), self.climber(name).student)
        return tuple(judge(bar, evidence, self.teacher_judged_by, looks=self.looks) for bar in self.bars)

    def held_out_of(self, name: str) -> Path:
        """Where it is kept what a candidate did on held-out text, without ending."""
        return self.of(name) / f"held_out-{self.steps_of(name)}"

    def steps_of(self, name: str) -> int:
        """How many steps the candidate as it is now has learned, to an end; 0 for none."""
        of_candidate = RunFolder(self.of(name))
        if not (of_candidate.path / "student.json").exists():
            return 0
        return of_candidate.read_as("student.json", lambda found: int(found["steps"]))

    @property
    def looks(self) -> int:
        """How many candidates may be judged on this text: those of these bars, and those that were judged for other bars before."""
        return int(str(self._looks()["allowed"]))

    def judged_names(self) -> list[str]:
        """The candidates judged for these bars."""
        names = self._looks()["names"]
        assert isinstance(names, list)
        return [str(name) for name in names]

    def count_look(self, name: str) -> None:
        """A candidate is about to be judged."""
        if name not in self.judged_names():
            everything, key = self._all_looks(), self.bars_in_words
            everything[key] = {"allowed": self.looks, "names": [*self.judged_names(), name]}
            self.folder.keep_json("looks.json", everything)

    @property
    def bars_in_words(self) -> str:
        """What is asked, as a name of this search among those of its folder."""
        return "; ".join(str(bar) for bar in self.bars)

    def _all_looks(self) -> dict[str, object]:
        return self.folder.read_json("looks.json") if (self.path / "looks.json").exists() else {}

    def _looks(self) -> dict[str, object]:
        everything = self._all_looks()
        if (known := everything.get(self.bars_in_words)) is not None:
            assert isinstance(known, dict)
            return known
        before = {name for one in everything.values() if isinstance(one, dict) for name in one["names"]}
        return {"allowed": self.job.looks + len(before), "names": []}

    def untrained_kl(self, name: str) -> float:
        """Nats a token from the teacher, before it has learned anything."""
        if not (self.of(name) / "screen.npz").exists():
            return math.nan
        found = Measurement.load(self.of(name) / "screen.npz")
        return float(found.kl.sum() / found.tokens.sum())

    def climber(self, name: str, *, control: bool = False) -> Climber:
        """The candidate, or the same shape learning from hard labels."""
        job = self.job
        folder = RunFolder(self.path / "controls" / "hard_labels" if control else self.of(name))
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

    def of(self, name: str) -> Path:
        """The folder of a candidate."""
        return self.path / "candidates" / name

    def steps(self, rung: int, look: int = -1) -> int:
        """Optimizer steps to a look of a rung, the last one unless told."""
        return max(2, round(self.rungs[rung][look] * self.job.settings.steps))

    def rungs_done(self, name: str) -> int:
        """How many rungs a candidate has come up, all their looks included."""
        return max((rung + 1 for rung in range(len(self.rungs)) if self.has_look(name, self.steps(rung))), default=0)

    def has_look(self, name: str, steps: int) -> bool:
        """Whether a candidate was looked at after so many steps."""
        return (self.of(name) / f"look-{steps}.answers.json").exists()

    def look(self, name: str, steps: int) -> Evidence:
        """What a candidate did on text to choose by after so many steps."""
        return self.choosing.evidence(self.of(name) / f"look-{steps}", self.climber(name).student)

    def is_screened(self, one: Candidate) -> bool:
        """Whether its level has more candidates than may go on."""
        return sum(other.level == one.level for other in self.candidates) > self.job.ladder.screened

    def is_in(self, one: Candidate) -> bool:
        """Whether the screen left it in: among the nearest of its level to the teacher."""
        if not self.is_screened(one):
            return True
        level = [other for other in self.candidates if other.level == one.level]
        nearest = sorted(level, key=lambda other: self.untrained_kl(other.name))
        return one in nearest[: self.job.ladder.screened]

    def _standing(self, one: Candidate, curves: Mapping[str, Mapping[str, list[Point]]]) -> Standing:
        own = curves[one.name]
        was_judged = one.name in self.judged_names()
        judged = all(verdict.holds for verdict in self.verdicts(one.name)) if was_judged else None
        done = self.rungs_done(one.name)
        targets = {str(bar): self._target(bar, own[str(bar)]) for bar in self.bars}
        others = {bar: [found[bar] for name, found in curves.items() if name != one.name] for bar in own}
        found = standing(
            Standing(one.name, one.cut, one.level, done, judged=judged), own, targets, tokens=self.tokens, others=others
        )
        if found.reaches is not None and done and self._is_flat(found, own, targets):
            return replace(found, rungs=len(self.rungs))
        return found

    def _is_flat(
        self, found: Standing, curves: Mapping[str, list[Point]], targets: Mapping[str, tuple[float, bool]]
    ) -> bool:
        if not self.job.until_flat or found.reaches is None:
            return False
        now = min(reach_of(points[-1].value, *targets[bar]) for bar, points in curves.items())
        return found.reaches[0] - now < _FLAT

    def _target(self, bar: Bar, points: list[Point]) -> tuple[float, bool]:
        """(what must be reached on text to choose by, so that the interval on held-out text clears the bar as often as not, whether
        less is better)."""
        less = bar.metric == "bits" and bar.absolute
        if not self.job.bars or not points:
            return bar.least, less
        here, there = (self._size(bar, evidence) for evidence in (self.teacher_chosen_by, self.teacher_judged_by))
        error = points[-1].error * math.sqrt(here / max(1.0, there))
        above = margin(error, looks=self.looks)
        return bar.least + (-above if less else above), less

    @staticmethod
    def _size(bar: Bar, evidence: Evidence) -> float:
        return (
            float(len(evidence.answers[bar.metric]))
            if bar.metric in evidence.answers
            else float(evidence.text.tokens.sum())
        )
