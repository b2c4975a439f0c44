"""The folder of one run: what lies where, written whole or not at all.

recipe.toml  identity.json                 what the run is of: another recipe, model or text is refused
manifest.json                              versions, machine, facts about text and models
tokens/                                    the tokenised text
steps.jsonl  checkpoints/  student/        of the distilled student
controls/NAME/                             the same of each control
soft_labels/                               the teacher's, when they were stored (potstill label)
gate.json                                  what the teacher seemed worth before the run (teacher.gate)
four_bits.json  student-int4/              inputs a scale, and the student packed so (training.int4)
measurements/NAME.npz                      what each model did on each held-out document
scores.json  report.html                   the result
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from io import StringIO
from pathlib import Path
from typing import IO, Any, TypeVar

from accelerate import PartialState

from potstill.checks import check_of_json
from potstill.errors import RunDirectoryError
from potstill.evaluation import Measurement, Speed
from potstill.runs.facts import finite
from potstill.training import Step

_RECIPE, _IDENTITY, _LOCK, _CHECK = "recipe.toml", "identity.json", ".lock", "check"
# Stored soft labels may be there before the run is.
_LABELS = "soft_labels"
# Locks hold as long as their file is open: for the rest of the process, so that one may open its own folder again.
_LOCKS: dict[Path, int] = {}
Made = TypeVar("Made")
_MEND = "delete it and run again"
STUDENT, GATE, FOUR_BITS, SPEEDS = "distilled", "gate.json", "four_bits.json", "speeds.json"
_PREPARED = ("tokens", "importance.safetensors", "lineage.json", "dtype.json", "manifest.json", GATE, FOUR_BITS)


@dataclass(frozen=True)
class RunFolder:
    """The folder at `path`, which belongs to one run."""

    path: Path

    @classmethod
    def open(cls, path: Path, recipe: str, identity: Mapping[str, str]) -> RunFolder:
        """Begin the folder, or take up the one begun for the same recipe text and the same fingerprints.

        Of several processes the main one comes first and does all the writing.

        Raises RunDirectoryError where the folder holds something else, belongs to another run, is being written by another
        process, or can't be written.
        """
        folder = cls(path)
        with _explained(path):
            is_begun = folder.refuse_strangers()
            path.mkdir(parents=True, exist_ok=True)
            if not PartialState().is_main_process:
                return folder
            folder.lock()
            if is_begun and folder._has_results():
                folder._check_is_ours(recipe, identity)
                folder._sweep()
                return folder
            # Nothing was trained or measured yet: what was prepared is no loss. It might be of a text that was mended since, to the
            # same number of bytes, which is all that a fingerprint of text tells.
            for name in _PREPARED:
                shutil.rmtree(path / name, ignore_errors=True) if (path / name).is_dir() else (path / name).unlink(
                    missing_ok=True
                )
            folder._sweep()
            folder.keep_json(_IDENTITY, dict(identity))
            folder._write(_RECIPE, recipe)
        return folder

    def leave(self, *begun: str) -> None:
        """Take away what `open` wrote (and `begun` files), and the folder, where nothing else came to it: of a run that is refused nothing
        stays."""
        if not self.is_written_here or self.path.is_symlink():
            return
        where, ours = self.path.resolve(), {self.path / name for name in (_RECIPE, _IDENTITY, _LOCK, *begun)}
        if {file for file in self.path.rglob("*") if file.is_symlink() or not file.is_dir()} - ours:
            return
        with suppress(OSError):  # whoever comes meanwhile keeps what is theirs, and the folder with it
            for file in ours:
                file.unlink(missing_ok=True)
            for place in (*sorted({file.parent for file in ours} - {self.path}), self.path):
                if place.exists():
                    place.rmdir()
        if (lock := _LOCKS.pop(where, None)) is not None:
            os.close(lock)

    def refuse_strangers(self) -> bool:
        """RunDirectoryError where the folder is a file, or holds something that is not a run; whether a run is begun there."""
        if self.path.exists() and not self.path.is_dir():
            raise RunDirectoryError(f"{self.path} is a file: choose another folder for this run (--out)")
        is_begun = (self.path / _RECIPE).exists() and (self.path / _IDENTITY).exists()
        if not is_begun and (stranger := self._first_name()) is not None:
            raise RunDirectoryError(
                f"{self.path} holds something that is not a potstill run ({stranger}): choose another folder (--out)"
            )
        return is_begun

    @property
    def is_written_here(self) -> bool:
        """Whether this process is the one that writes."""
        return PartialState().is_main_process

    def of_arm(self, name: str) -> Path:
        """Where the arm's steps, checkpoints and student lie: the run's own folder for the distilled student."""
        return self.path if name == STUDENT else self.path / "controls" / name

    def write_json(self, name: str, content: Mapping[str, object]) -> None:
        """Write a file of the run, if this process is the one that does; RunDirectoryError when it can't be written."""
        if self.is_written_here:
            self._write(name, json.dumps(content, indent=2, ensure_ascii=False, default=str) + "\n")

    def keep_json(self, name: str, content: Mapping[str, object]) -> None:
        """The same for what the run will go by when it is taken up again: with a check of itself, which `read_json` takes off."""
        self.write_json(name, checked(content))

    def write_text(self, name: str, text: str) -> None:
        """The same for text."""
        if self.is_written_here:
            self._write(name, text)

    def read_json(self, name: str, *, mend: str = _MEND) -> dict[str, object]:
        """A file of the run; RunDirectoryError when it can't be read, or is not what was written. `mend`: what to do about it."""
        try:
            return as_checked((self.path / name).read_text("utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise RunDirectoryError(f"{self.path / name} can't be read ({error}): {mend}") from error

    def read_as(self, name: str, make: Callable[[Any], Made], *, mend: str = _MEND) -> Made:
        """What `make` makes of it; RunDirectoryError too where it lacks what that takes, or has it of another type."""
        found = self.read_json(name, mend=mend)
        try:
            return make(found)
        except KeyError as error:
            what = f"it has no {error.args[0]!r}"
        except (TypeError, ValueError, AttributeError) as error:
            what = str(error)
        raise RunDirectoryError(f"{self.path / name} can't be read ({what}): {mend}")

    def speeds(self) -> dict[str, Speed]:
        """Of teacher and student, once they were measured: as they are written in speeds.json."""
        return self.read_as(SPEEDS, lambda found: {name: _speed(found[name]) for name in ("teacher", STUDENT)})

    def steps(self, name: str) -> list[dict[str, object]]:
        """The logged steps of an arm, in order; none of what was not trained. What follows a line cut off or damaged is left out."""
        path = self.of_arm(name) / "steps.jsonl"
        found = []
        for line in path.read_bytes().splitlines() if path.exists() else []:
            try:
                step = json.loads(line)
            except (ValueError, RecursionError):
                break
            if not isinstance(step, dict) or not isinstance(step.get("index"), int):
                break
            found.append(step)
        return found

    @contextmanager
    def logging_steps(self, name: str, done: int) -> Iterator[IO[str]]:
        """The arm's steps.jsonl, open for more, without steps beyond the `done` ones that a kill threw away.

        Nothing is kept of what a process writes that is not the main one.
        """
        if not self.is_written_here:
            yield StringIO()
            return
        kept = [step for step in self.steps(name) if int(str(step["index"])) <= done]
        path = self.of_arm(name)
        with _explained(path):
            path.mkdir(parents=True, exist_ok=True)
            self._write(str((path / "steps.jsonl").relative_to(self.path)), "".join(f"{json.dumps(s)}\n" for s in kept))
            with (path / "steps.jsonl").open("a", encoding="utf-8") as file:
                yield file

    def measurement(self, name: str) -> Measurement | None:
        """What is known of this model; None when it was not measured yet."""
        path = self._measured(name)
        return Measurement.load(path) if path.exists() else None

    def keep_measurement(self, name: str, found: Measurement) -> None:
        """Write it down."""
        if not self.is_written_here:
            return
        with _explained(self.path):
            self._measured(name).parent.mkdir(exist_ok=True)
        found.save(self._measured(name))

    def forget_checkpoints(self, name: str) -> None:
        """Delete what an arm would have gone on from: its student is saved."""
        if self.is_written_here:
            shutil.rmtree(self.of_arm(name) / "checkpoints", ignore_errors=True)

    def _measured(self, name: str) -> Path:
        return self.path / "measurements" / f"{name}.npz"

    def _write(self, name: str, text: str) -> None:
        path = self.path / name
        part = path.with_name(f".{path.name}.part-{os.getpid()}")
        with _explained(path):
            try:
                part.write_text(text, "utf-8")
                part.replace(path)
            finally:
                part.unlink(missing_ok=True)

    def _first_name(self) -> str | None:
        names = sorted(entry.name for entry in self.path.iterdir()) if self.path.is_dir() else []
        return next((name for name in names if name not in (_IDENTITY, _LOCK, _LABELS)), None)

    def _has_results(self) -> bool:
        return any(
            (self.path / name).exists()
            for name in ("steps.jsonl", "checkpoints", "student", "measurements", "controls", "stages")
        )

    def _sweep(self) -> None:
        """Remove what killed processes had begun to write."""
        for place in (self.path, *(self.path / "controls").glob("*")):
            for left in (*place.glob(".student-*"), *place.glob(".*.part-*"), *place.glob(".part-*")):
                shutil.rmtree(left, ignore_errors=True) if left.is_dir() else left.unlink(missing_ok=True)

    def lock(self) -> None:
        """Keep other processes out for as long as this one lives; RunDirectoryError where one is in already."""
        where = self.path.resolve()
        if where in _LOCKS:
            return
        file = os.open(self.path / _LOCK, os.O_CREAT | os.O_RDWR)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(file)
            raise RunDirectoryError(
                f"another process is writing the run in {self.path}: wait for it, or choose another folder (--out)"
            ) from error
        _LOCKS[where] = file

    def _check_is_ours(self, recipe: str, identity: Mapping[str, str]) -> None:
        theirs = (self.path / _RECIPE).read_text("utf-8")
        if theirs != recipe:
            was, now = _first_difference(theirs, recipe)
            raise RunDirectoryError(
                f"{self.path} belongs to another run: its recipe says `{was}`, this one `{now}`. Give this run a folder of its own "
                "(--out), or delete that one"
            )
        found = self.read_json(_IDENTITY)
        for what, fingerprint in identity.items():
            if found.get(what) != fingerprint:
                raise RunDirectoryError(
                    f"{self.path} was begun with another {what} of the same name (it has changed since): give this run a folder of "
                    "its own (--out), or delete that one"
                )


def _first_difference(theirs: str, ours: str) -> tuple[str, str]:
    was, now = theirs.splitlines(), ours.splitlines()
    for old, new in zip(was, now, strict=False):
        if old != new:
            return old, new
    return "\n".join(was[len(now) :])[:80] or "nothing more", "\n".join(now[len(was) :])[:80] or "nothing more"


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """An OSError in words. Ours are OSErrors too, and say it already."""
    try:
        yield
    except RunDirectoryError:
        raise
    except OSError as error:
        raise RunDirectoryError(
            f"can't write {path}: {error.strerror or error}. Free some space or choose another folder (--out), then start again: it goes "
            "on from what is there"
        ) from error


def checked(content: Mapping[str, object]) -> dict[str, object]:
    """JSON to be kept, with a check of itself."""
    return {**content, _CHECK: check_of_json(content)}


def as_checked(text: str) -> dict[str, object]:
    """What was kept, without its check; ValueError where it is no object, or not what was written. Without a check, anything is."""
    found = json.loads(text)
    if not isinstance(found, dict):
        raise ValueError("it is no object")
    known = found.pop(_CHECK, None)
    if known is not None and known != check_of_json(found):
        raise ValueError("it is not what was written")
    return found


def line_of(step: Step) -> str:
    """A step as a line of steps.jsonl."""
    return json.dumps(finite(asdict(step)), allow_nan=False) + "\n"


def _speed(found: Mapping[str, Any]) -> Speed:
    reads, writes = found["prefill_tokens_per_second"], found["decode_tokens_per_second"]
    return Speed(float(reads), None if writes is None else float(writes))
