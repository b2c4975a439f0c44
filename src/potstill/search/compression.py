"""The whole search, step by step: labels, importance, ladder, screen, climbing, judging, control, four bits.

Every step leaves files in the run's folder and is passed over when they are there. What to do next is decided from these files alone,
so the same command goes on where it was killed, and ends with the same result.

measurements/     the teacher on text to choose by and to judge by
soft_labels/      what the teacher says of the text to learn from, said once for all candidates
importance.safetensors  ladder.json       what may be cut, and into what
candidates/NAME/  screen.npz, trunk/, decay-STEPS/, look-STEPS.npz, held_out-STEPS.npz, student/
controls/         hard labels and the untouched student, of the shape that was chosen
search.json       what was decided, and why; begun.json: what is being trained
student/  student-int4/
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass

from potstill.evaluation import measure
from potstill.models import head_of, on_this_device
from potstill.runs import Stage, held_out_sample
from potstill.search.bar import Verdict
from potstill.search.kept import Kept
from potstill.search.known import Known
from potstill.search.ladder import Candidate
from potstill.search.smallest import Found, Judge, NoneFound, Standing, Train, next_move
from potstill.soft_labels import Progress, begin_store, label
from potstill.students import measure_importance
from potstill.teachers import RememberingTeacher
from potstill.training import Step

_SCREEN_TOKENS = 6_000
# What `compress --deploy` adds: the student for its engine, tried as a draft, and a policy of what it may answer.
DEPLOYED = ("export-q8_0", "draft", "route")
_BEGUN = "begun.json"


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
class Search(Known):
    """Does what is left to do."""

    def run(self) -> Iterator[Event]:
        """Do what is left to do; `Chosen` is the last event."""
        yield from self._prepare()
        yield from self._screen()
        decisions: list[dict[str, object]] = []
        while True:
            standings = self.standings()
            yield Ladder(self.candidates, standings)
            move = self._begun() or next_move(list(standings.values()), rungs=len(self.rungs), looks=self.looks)
            decisions.append({"move": type(move).__name__, **asdict(move)})
            self._write(decisions, standings)
            match move:
                case Train(names, rungs, why):
                    self.folder.keep_json(_BEGUN, {"bars": self.bars_in_words, **asdict(move)})
                    yield Decided(f"{', '.join(names)}: {why}")
                    for name in names:
                        yield from self._train(name, rungs - 1)
                    (self.path / _BEGUN).unlink(missing_ok=True)
                case Judge(name, _):
                    yield Stage(f"judging {name} on held-out text")
                    self.count_look(name)
                    verdicts = self.verdicts(name)
                    yield Decided(
                        f"{name} {'clears' if all(one.holds for one in verdicts) else 'misses'} the bar on held-out text"
                    )
                case Found(name) | NoneFound(name):
                    yield from self._end(name)
                    verdicts = self.verdicts(name)
                    yield Chosen(self.by_name[name], isinstance(move, Found), verdicts)
                    return

    def _begun(self) -> Train | None:
        """What a search for these bars was training when it was killed: it is ended first, since what to do next was to be decided then."""
        known = self.folder.read_json(_BEGUN) if (self.path / _BEGUN).exists() else {}
        names = known.get("names")
        if known.get("bars") != self.bars_in_words or not isinstance(names, list):
            return None
        return Train(tuple(map(str, names)), int(str(known["rungs"])), str(known["why"]))

    def unsettled(self) -> list[Redone]:
        """What `settle` would do again, and why; nothing is touched."""
        kept = Kept(self.folder)
        found = [(step, kept.difference(step, facts)) for step, facts in self.job.made_from.items() if step != "text"]
        return [Redone(step, why) for step, why in found if why is not None]

    def settle(self) -> list[Redone]:
        """Delete what was made from something else than this job is; the steps that will be done again, and why.

        Nothing the second time.
        """
        self.folder.write_text("recipe.toml", self.job.recipe)
        kept, redone = Kept(self.folder), []
        of_candidates = ("candidates", "controls", "student", "student-int4", "looks.json", _BEGUN, *DEPLOYED)
        candidates = [self.path / name for name in of_candidates]
        deployed = [self.path / name for name in DEPLOYED]
        # Another held-out text leaves the candidates as they are.
        judged = [*self.path.glob("candidates/*/held_out-*"), *self.path.glob("controls/*/held_out.*")]
        for step, places in (
            ("teacher", [self.path / "measurements"]),
            ("labels", [self.path / "soft_labels"]),
            ("importance", [self.path / "importance.safetensors", self.path / "timings.json"]),
            ("candidates", candidates),
            ("judging", [*judged, *self.path.glob("candidates/*/int4-*"), self.path / "looks.json", *deployed]),
        ):
            why = kept.begin(step, self.job.made_from[step], places)
            if why is not None:
                redone.append(Redone(step, why))
        return redone

    def _prepare(self) -> Iterator[Event]:
        """The teacher's scores, its labels, what matters in it."""
        job = self.job
        on_this_device(job.teacher.model)
        yield from self.settle()
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
        for one in self.candidates:
            shape = {"shape": str(one.shape)}
            if (why := Kept(self.folder).begin(f"candidate-{one.name}", shape, [self.of(one.name)])) is not None:
                yield Redone(one.name, why)
        sample = held_out_sample(self.job.texts.search, _SCREEN_TOKENS, self.job.length)
        beside = RememberingTeacher(self.job.teacher)
        for one in self.candidates:
            path = self.of(one.name) / "screen.npz"
            if self.is_screened(one) and not path.exists():
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
        self.folder.write_json(
            "ladder.json", {one.name: asdict(one) | {"stays": self.is_in(one)} for one in self.candidates}
        )

    def _train(self, name: str, rung: int) -> Iterator[Event]:
        climber = self.climber(name)
        for share in range(len(self.rungs[rung])):
            steps = self.steps(rung, share)
            if self.has_look(name, steps):
                continue
            for step in climber.climb(steps):
                yield Climbing(name, step, steps)
            self.look(name, steps)

    def _end(self, name: str) -> Iterator[Event]:
        """The control and the untouched student on held-out text, and the student where it is looked for."""
        climber = self.climber(name)
        of_this = [self.path / place for place in ("student", "student-int4", "controls", "speeds.json", *DEPLOYED)]
        facts = {"candidate": name, "steps": self.steps_of(name)}
        if (why := Kept(self.folder).begin("student", facts, of_this)) is not None:
            yield Redone("student", why)
        if self.job.control:
            control = self.climber(name, control=True)
            for step in control.climb(self.steps_of(name)):
                yield Climbing("hard labels", step, self.steps_of(name))
            self.judging.evidence(control.folder.path / "held_out", control.student)
            control.forget()
        yield Stage("measuring the untouched student")
        self.judging.evidence(self.path / "controls" / "untouched" / "held_out", lambda: self.untouched(name)[0])
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
