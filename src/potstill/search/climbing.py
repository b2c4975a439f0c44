"""One candidate of a search, rung by rung.

The learning rate stays level along a trunk, and falls in a branch at each look: what is looked at has been trained to an end, and the
trunk goes on as if nobody had looked. A look costs its branch, a fifth of the steps that led to it.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from potstill.data import TextBatches
from potstill.losses import SoftLabelLoss
from potstill.models import load_model, save_model
from potstill.runs import RunFolder
from potstill.runs.folder import STUDENT, line_of
from potstill.search.job import DECAY
from potstill.training import Step, TrainingSettings, WarmupStableDecay, newest_step, train
from potstill.types import Teacher


@dataclass(frozen=True)
class Climber:
    """How a candidate learns, and its folder: trunk/, decay-STEPS/ while a look is prepared, student/ of the last look."""

    folder: RunFolder
    new_student: Callable[[], PreTrainedModel]
    marker: Teacher
    batches: TextBatches
    measure: SoftLabelLoss
    settings: TrainingSettings
    tokenizer: PreTrainedTokenizerBase

    def climb(self, steps: int) -> Iterator[Step]:
        """Train to an end after `steps` steps, from what was trained before; the student is saved. Nothing where that is done."""
        if self.is_at(steps):
            return
        level = max(1, steps - max(1, round(DECAY * steps)))
        rising = max(1, min(round(0.05 * self.settings.steps), level // 2))
        trunk, branch = self._part("trunk"), self._part(f"decay-{steps}")
        goes = replace(self.settings, steps=level, schedule=WarmupStableDecay(rising))
        ends = replace(self.settings, steps=steps, schedule=WarmupStableDecay(rising, level))
        if newest_step(branch.path / "checkpoints") < level:
            if newest_step(trunk.path / "checkpoints") > level and not self._has(trunk, level):
                shutil.rmtree(trunk.path / "checkpoints")
            yield from self._learn(trunk, goes)
            self._copy(trunk, branch, level)
        student = self.new_student()
        yield from self._learn(branch, ends, student)
        if self.folder.is_written_here:
            save_model(student, self.tokenizer, self.folder.path / "student")
            self.folder.keep_json("student.json", {"steps": steps})
            shutil.rmtree(branch.path / "checkpoints", ignore_errors=True)

    def is_at(self, steps: int) -> bool:
        """Whether the saved student has been trained so far, to an end."""
        path = self.folder.path / "student.json"
        return path.exists() and self.folder.read_as("student.json", lambda found: int(found["steps"])) == steps

    def student(self) -> PreTrainedModel:
        """The student of the last look."""
        return load_model(self.folder.path / "student")

    def forget(self) -> None:
        """Delete what it would learn on from; the student stays."""
        for checkpoints in self.folder.path.glob("*/checkpoints"):
            shutil.rmtree(checkpoints, ignore_errors=True)

    def steps_taken(self) -> int:
        """Of trunk and branches together."""
        parts = [self.folder.path / "trunk", *self.folder.path.glob("decay-*")]
        return sum(len(RunFolder(part).steps(STUDENT)) for part in parts)

    def _part(self, name: str) -> RunFolder:
        path = self.folder.path / name
        path.mkdir(parents=True, exist_ok=True)
        return RunFolder(path)

    def _learn(
        self, part: RunFolder, settings: TrainingSettings, student: PreTrainedModel | None = None
    ) -> Iterator[Step]:
        checkpoints = part.path / "checkpoints"
        done = newest_step(checkpoints)
        if student is None and done >= settings.steps:
            return
        student = student if student is not None else self.new_student()
        with part.logging_steps(STUDENT, done) as log:
            for step in train(student, self.marker, self.batches, self.measure, settings, folder=checkpoints):
                log.write(line_of(step))
                log.flush()
                yield step

    @staticmethod
    def _has(trunk: RunFolder, step: int) -> bool:
        return (trunk.path / "checkpoints" / f"step-{step:08d}" / "state.json").exists()

    @staticmethod
    def _copy(trunk: RunFolder, branch: RunFolder, step: int) -> None:
        """The branch begins where the trunk is."""
        name = f"step-{step:08d}"
        target = branch.path / "checkpoints"
        target.mkdir(parents=True, exist_ok=True)
        part = target / f"{name}.part-copy"
        shutil.rmtree(part, ignore_errors=True)
        shutil.copytree(trunk.path / "checkpoints" / name, part)
        part.replace(target / name)
