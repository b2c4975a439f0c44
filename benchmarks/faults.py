"""Fifty random kills of `distill` and of `label`, and some that aim at a moment: is what comes out at last what an undisturbed run gives?

    OMP_NUM_THREADS=1 taskset -c 0 .venv/bin/python benchmarks/faults.py          (minutes on one core; writes faults.md here)

The pocket teacher on beginnings of files. Commands are processes of their own, begun as tests/faults begins them: with all imported, so
that kills fall into the work. Each is killed by SIGKILL, and the same command begun again; where one comes to its end, what it left is
compared byte for byte and the next begins from nothing.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent / "tests" / room) for room in ("faults", "cli", "models", "runs")]
from harm import Begin, Ended, zygote  # noqa: E402
from verbs import outcome  # noqa: E402

RECIPE = """
[teacher]
model = "pocket"
[student]
kind = "copy_layers"
layers = 2
[data]
source = "text.jsonl"
[training]
steps = 12
length = 64
rows = 4
checkpoint_every = 2
dtype = "bfloat16"
[evaluation]
speed = false
tokens = 1_000
"""
VERBS = {"distill": ("distill", "recipe.toml", "-o", "run"), "label": ("label", "recipe.toml", "-o", "labels")}
OUT = {"distill": "run", "label": "labels"}
# What a kill can be aimed at: a file that is there for as long as something is being written.
AIMS = {
    "distill": {
        "as the folder begins": "run/recipe.toml",
        "as the text is saved": "run/tokens*/*",
        "at its first score": "run/measurements/teacher.npz",
        "in a checkpoint": "run/checkpoints/*.part-*",
        "as the student is saved": "run/.student-*",
        "in the control's checkpoint": "run/controls/*/checkpoints/*.part-*",
        "at its last score": "run/measurements/hard_labels.npz",
        "at its end": "run/scores.json",
    },
    "label": {
        "as the store begins": "labels/*.part",
        "at its manifest": "labels/manifest.json",
        "in a journal": "labels/*.journal",
        "as a shard is written": "labels/*.labels.part",
        "at its first shard": "labels/*.labels",
    },
}
FILES, CHARACTERS = 40, 1200
SCATTER, TURNS = 0.03, 5
SAMPLES = HERE.parent / "runs/faults.jsonl"


def main() -> None:
    """The verbs, and the page of all that is known."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--kills", type=int, default=50)
    words.add_argument("--aimed", type=int, default=2, help="at each moment")
    words.add_argument("--seed", type=int, default=0)
    words.add_argument(
        "--only", choices=VERBS, action="append", help="default: both; nothing is run for --kills 0 --aimed 0"
    )
    asked, process = words.parse_args(), zygote()
    assert process.stdin is not None
    assert process.stdout is not None
    begin = Begin(process.stdin, process.stdout)
    SAMPLES.parent.mkdir(exist_ok=True)
    for name in (asked.only or VERBS) if asked.kills or asked.aimed else ():
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            (folder / "recipe.toml").write_text(RECIPE)
            write_text(folder / "text.jsonl")
            whole, seconds = undisturbed(begin, folder, name)
            one = Job(begin, folder, name, whole)
            for kill in at_random(asked.seed, asked.kills, seconds):
                until_killed(one, kill)
            once(one, "at random", None)
            for kill in at_moments(name, asked.seed, asked.aimed):
                until_killed(one, kill)
                once(one, "aimed", None)
    (HERE / "faults.md").write_text(page([json.loads(line) for line in SAMPLES.read_text().splitlines()]))


@dataclass(frozen=True)
class Job:
    """A verb in a folder of its own, and what it leaves undisturbed."""

    begin: Begin
    folder: Path
    name: str
    whole: dict[str, object]

    @property
    def out(self) -> Path:
        return self.folder / OUT[self.name]


@dataclass(frozen=True)
class Kill:
    """After so many seconds; or so many after a file is there that `at` names, which is the moment `moment`."""

    after: float
    at: str | None = None
    moment: str | None = None

    @property
    def how(self) -> str:
        return "at random" if self.at is None else "aimed"


def write_text(path: Path) -> None:
    """The beginnings of files of the standard library."""
    files = sorted(Path(random.__file__).parent.glob("*.py"))[:FILES]
    rows = [{"text": file.read_text("utf-8")[:CHARACTERS]} for file in files]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def undisturbed(begin: Begin, folder: Path, name: str) -> tuple[dict[str, object], float]:
    """(what it leaves, seconds), begun twice: the first time it imports."""
    found: list[dict[str, object]] = []
    began = 0.0
    for _ in range(2):
        shutil.rmtree(folder / OUT[name], ignore_errors=True)
        began = time.monotonic()
        ended = begin.command(*VERBS[name], folder=folder)
        assert ended.code == 0, ended.said
        found.append(outcome(folder / OUT[name]))
    assert found[0] == found[1], "two undisturbed runs differ"
    return found[1], time.monotonic() - began


def at_random(seed: int, kills: int, seconds: float) -> list[Kill]:
    """Over an undisturbed run."""
    draw = random.Random(f"{seed}, at random")
    return [Kill(draw.random() * 0.95 * seconds) for _ in range(kills)]


def at_moments(name: str, seed: int, times: int) -> list[Kill]:
    """At those that are aimed at."""
    draw = random.Random(f"{seed}, aimed")
    return [Kill(draw.random() * SCATTER, where, what) for what, where in AIMS[name].items() for _ in range(times)]


def until_killed(job: Job, kill: Kill) -> None:
    """Begun, and begun anew where it came to its end before; some files are there too shortly to be seen each time."""
    for turn in range(TURNS):
        sooner = kill if kill.at else replace(kill, after=kill.after * 0.8**turn)
        if once(job, kill.how, sooner).code is None:
            return


def once(job: Job, how: str, kill: Kill | None) -> Ended:
    """Begun, or begun again; what comes to its end is compared and thrown away. A line is kept of it."""
    harm = {} if kill is None else {"kill_after": kill.after, "kill_at": kill.at}
    ended = job.begin.command(*VERBS[job.name], folder=job.folder, **harm)
    assert ended.code in (None, 0), ended.said
    row = {"date": f"{datetime.now(UTC):%Y-%m-%d}", "name": job.name, "how": how}
    if kill is not None and ended.code is None:
        row["landed"] = kill.moment or landed(job.name, job.out, ended.said)
    else:
        row["equal"] = outcome(job.out) == job.whole
        shutil.rmtree(job.out)
    with SAMPLES.open("a") as samples:
        samples.write(json.dumps(row) + "\n")
    return ended


def landed(name: str, out: Path, said: str) -> str:
    """In which part of the work: by what was said and what is there."""

    def has(pattern: str) -> bool:
        return next(out.glob(pattern), None) is not None

    if name == "label":
        if not has("manifest.json"):
            return "reading, tokenising" if "reading" in said else "start, loading"
        if has("*.labels.part"):
            return "a shard being written"
        return "teacher's passes" if has("*.journal") else "end"
    if not has("tokens/corpus.json"):
        return "reading, tokenising" if "reading" in said else "start, loading"
    if not has("measurements/teacher.npz"):
        return "checks, teacher's score" if "check" in said else "start, loading"
    if has("scores.json"):
        return "end"
    if has("checkpoints/*.part-*") or has("controls/*/checkpoints/*.part-*"):
        return "a checkpoint being written"
    if has(".student-*") or has("controls/*/.student-*"):
        return "a student being saved"
    if "check" not in said:
        return "start, loading (again)"
    return "scores" if has("student/config.json") and not has("measurements/distilled.npz") else "steps"


def page(rows: list[dict]) -> str:
    """The table."""
    machine = platform.processor() or platform.machine()
    versions = f"torch {version('torch')}, transformers {version('transformers')}"
    known = {(row["name"], row["how"]) for row in rows}
    kinds = [(name, how) for name in VERBS for how in ("at random", "aimed") if (name, how) in known]
    of = {kind: [row for row in rows if (row["name"], row["how"]) == kind] for kind in kinds}
    places = {kind: Counter(row["landed"] for row in found if "landed" in row) for kind, found in of.items()}
    ends = {kind: [row["equal"] for row in found if "equal" in row] for kind, found in of.items()}
    lines = [
        "# Killed, and begun again",
        "",
        f"*{max(row['date'] for row in rows)}; `benchmarks/faults.py`; one thread, {machine}; {versions}.*",
        "",
        f"The pocket teacher on the beginnings of {FILES} files of Python's library: `distill` a student of two layers beside its",
        "control, 12 steps each, a checkpoint every second; `label` the same text. Killed by SIGKILL and begun again by the same command;",
        "what came to its end was compared and begun from nothing.",
        "",
        "| | kills | runs that came to their end | of these byte for byte as undisturbed |",
        "| --- | ---: | ---: | ---: |",
        *(
            f"| `{name}`, {how} | {places[name, how].total()} | {len(ends[name, how])} | {sum(ends[name, how])} |"
            for name, how in kinds
        ),
        "",
        "Where they landed:",
        "",
        "| | |",
        "| --- | --- |",
        *(
            f"| `{name}`, {how} | {', '.join(f'{what} {count}' for what, count in places[name, how].most_common())} |"
            for name, how in kinds
        ),
        "",
        "Compared are the bytes of weights and labels, and what scores.json says. Moments are drawn, from a seed, uniformly over 95 % of",
        f"an undisturbed run; aimed kills come within {SCATTER * 1000:.0f} ms after the file of that moment is there.",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
