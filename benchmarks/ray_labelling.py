"""Documents a second by one and by two workers of Ray on this machine. `python benchmarks/ray_labelling.py FOLDER_OF_TEXT [predictions]`

Four ways in turns, each with one thread a process: one process without Ray on core 0; two that know nothing of each other, on cores 0 and
1, each with a text and a store of its own: what the cores have to give; one worker; two workers. Speeds are taken while all of them are at
work. Beside the seconds that passed stand the processor's: where others use the cores too, those say what the sharing costs. Makes
ray_labelling.md beside it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from statistics import median

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import psutil

from potstill.recipe import build_labelling, load_recipe
from potstill.recipe.labelling import Labelling
from potstill.soft_labels import begin_store, label
from potstill.workers import Crew, joined, label_with

HERE = Path(__file__).parent
RECIPE = """
[teacher]
model = "pocket"
[student]
kind = "copy_layers"
layers = 2
[data]
source = "{text}"
[training]
steps = 1
length = 128
dtype = "float32"
"""
SHARD = 1024
ROUNDS = 3
WAYS = ("one process", "two processes", "one worker", "two workers")


@dataclass(frozen=True)
class Turn:
    """The time in which all were at work: its seconds, the predictions labelled, the processor's seconds of labelling and of all else."""

    way: str
    seconds: float
    predictions: int
    worked: float
    beside: float
    load: float
    digest: str

    @property
    def speed(self) -> float:
        """Predictions a second."""
        return self.predictions / self.seconds

    @property
    def cost(self) -> float:
        """Processor seconds of labelling for a million predictions."""
        return 1e6 * self.worked / self.predictions


def built_of(scratch: Path, text: Path, predictions: int) -> Labelling:
    """The first documents of the text, in small shards."""
    scratch.mkdir(exist_ok=True)
    recipe = scratch / "recipe.toml"
    recipe.write_text(RECIPE.format(text=text))
    built = build_labelling(load_recipe(recipe), scratch / "begun", say=print, is_marked_here=False)
    sizes = np.cumsum(np.diff(built.corpus.offsets))
    documents = min(int(np.searchsorted(sizes, predictions)) + 1, len(sizes))
    return replace(
        built,
        corpus=built.corpus.select(np.arange(documents)),
        manifest=replace(built.manifest, shard_tokens=SHARD),
    )


def digest_of(folder: Path) -> str:
    return sha256(b"".join(path.read_bytes() for path in sorted(folder.iterdir()))).hexdigest()


def alone(core: int, scratch: Path, text: Path, predictions: int) -> None:
    """One process without Ray: for each name that comes in it labels, and says (clock, predictions, processor seconds) of each pass and a
    digest."""
    os.sched_setaffinity(0, {core})
    built = built_of(scratch, text, predictions)
    print("ready", flush=True)
    for name in sys.stdin:
        folder = scratch / name.strip()
        begin_store(folder, built.manifest, built.corpus)
        passes = label(built.teacher, built.corpus, folder)
        events = [(time.perf_counter(), done.tokens, time.process_time()) for done in passes]
        print(json.dumps([events, digest_of(folder)]), flush=True)


@contextmanager
def two_processes(scratch: Path, text: Path, predictions: int) -> Iterator[list[subprocess.Popen[str]]]:
    """One on each of two processors, that wait for names."""
    ours = [
        subprocess.Popen(
            [sys.executable, __file__, "--alone", str(core), str(scratch / f"{core}"), str(text), str(predictions)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # a scheduler that shares by sessions gives them what it gives others
        )
        for core in range(2)
    ]
    for one in ours:
        while (line := one.stdout.readline()) != "ready\n":
            assert line, "it ended before it was ready"
    yield ours
    for one in ours:
        one.communicate()


def by_processes(way: str, name: str, ours: list[subprocess.Popen[str]]) -> Turn:
    """Each from its first pass, which finds everything cold, to the moment that one of them has ended."""
    for one in ours:
        one.stdin.write(name + "\n")
        one.stdin.flush()
    found = [json.loads(one.stdout.readline()) for one in ours]
    histories = [np.array(events) for events, _ in found]
    begun, ended = max(events[1, 0] for events in histories), min(events[-1, 0] for events in histories)
    labelled, worked = (
        sum(float(np.diff(np.interp([begun, ended], events[:, 0], events[:, column]))[0]) for events in histories)
        for column in (1, 2)
    )
    [digest] = {digest for _, digest in found}
    return Turn(way, ended - begun, round(labelled), worked, 0.0, os.getloadavg()[0], digest)


def processor_seconds(seen: dict[int, float]) -> float:
    """Of the workers that this process has begun, all together; those that are gone keep what they had."""
    for one in psutil.Process().children(recursive=True):
        try:
            if one.cmdline() and one.cmdline()[0].startswith("ray::Worker"):
                times = one.cpu_times()
                seen[one.pid] = times.user + times.system
        except psutil.NoSuchProcess:
            continue
    return sum(seen.values())


def by_workers(way: str, crew: Crew, built: Labelling, folder: Path) -> Turn:
    """From the word of the last worker that it has its teacher to the moment that there is nothing left for one of them."""
    begin_store(folder, built.manifest, built.corpus)
    seen: dict[int, float] = {}
    events: list[tuple[float, int, float, float]] = []
    ready, last = 0, 0
    for done in label_with(crew, built.corpus, folder):
        ready += done.tokens == last  # nothing was labelled: a worker has its teacher
        last = done.tokens
        if ready >= crew.count == len(crew.workers):
            events.append((time.perf_counter(), done.tokens, processor_seconds(seen), time.process_time()))
    seconds, predictions, worked, beside = np.array(events[-1]) - np.array(events[0])
    digest = digest_of(folder)
    return Turn(way, float(seconds), int(predictions), float(worked), float(beside), os.getloadavg()[0], digest)


def main(text: Path, predictions: int) -> None:
    with tempfile.TemporaryDirectory() as place:
        scratch = Path(place)
        built = built_of(scratch / "built", text, predictions)
        turns: list[Turn] = []
        with two_processes(scratch, text, predictions) as processes, joined(None, count=2, model="pocket") as crew:
            for number in range(ROUNDS):
                for way in WAYS if number % 2 == 0 else reversed(WAYS):
                    count, name = 2 if way.startswith("two") else 1, f"{number} {way}"
                    if "process" in way:
                        turns.append(by_processes(way, name, processes[:count]))
                    else:
                        some = replace(crew, count=count, processors=1, workers=[])
                        turns.append(by_workers(way, some, built, scratch / name))
                    print(turns[-1], flush=True)
    assert len({turn.digest for turn in turns}) == 1
    (HERE / "ray_labelling.md").write_text(page(turns, len(built.corpus), int(built.corpus.offsets[-1])))


def page(turns: list[Turn], documents: int, tokens: int) -> str:
    ordered = sorted(turns, key=lambda turn: WAYS.index(turn.way))
    speeds, costs = (
        {way: median(getattr(turn, what) for turn in turns if turn.way == way) for way in WAYS}
        for what in ("speed", "cost")
    )
    beside = sum(turn.beside for turn in turns if turn.way == "two workers")
    worked = sum(turn.worked for turn in turns if turn.way == "two workers")
    shared, given = (
        speeds[f"two {many}"] / speeds[f"one {one}"] for many, one in (("workers", "worker"), ("processes", "process"))
    )
    lines = [
        "# Labelling by workers of Ray",
        "",
        f"*{datetime.now(UTC):%Y-%m-%d}; `benchmarks/ray_labelling.py`; {psutil.cpu_count()} processors; Ray {version('ray')}, "
        f"torch {version('torch')}; the pocket teacher, {documents} documents of {tokens:,} tokens in shards of {SHARD:,} predictions, one "
        f"thread a process; {ROUNDS} rounds in turns, each taken while all of a way were at work.*",
        "",
        "| | seconds | documents/s | processor seconds, a million predictions | of it busy | load of the machine |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
        *(
            f"| {turn.way} | {turn.seconds:.1f} | {turn.speed * documents / tokens:.2f} | {turn.cost:.0f} | "
            f"{turn.worked / turn.seconds:.2f} | {turn.load:.1f} |"
            for turn in ordered
        ),
        "",
        f"Medians: two workers do **{shared:.2f}×** the documents a second of one worker; two processes that know nothing of each other, "
        f"one on each processor, **{given:.2f}×** of one: Ray's two do {shared / given:.2f} of what is to be had. A million predictions "
        f"take {costs['one process']:.0f} s of the processor in one process and {costs['two processes']:.0f} s in two, "
        f"{costs['one worker']:.0f} s in one worker and {costs['two workers']:.0f} s in two; the process that writes takes "
        f"{beside / (worked + beside):.1%} of the processor's time beside two workers. The files are the same bytes each time.",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    if sys.argv[1] == "--alone":
        alone(int(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4]), int(sys.argv[5]))
    else:
        main(Path(sys.argv[1]).absolute(), int(sys.argv[2]) if len(sys.argv) > 2 else 20_000)
