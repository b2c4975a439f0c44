"""Documents a second by one and by two workers of Ray on this machine. `python benchmarks/ray_labelling.py FOLDER_OF_TEXT [predictions]`

One Ray; crews of one and of two in turns, each worker with one thread; the same shards each time, and the same bytes. Beside the
seconds that passed it takes the processor's: where others use the cores too, those alone say what the sharing costs. Makes
ray_labelling.md beside it.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import psutil

from potstill.recipe import build_labelling, load_recipe
from potstill.soft_labels import begin_store
from potstill.workers import joined, label_with

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
"""
SHARD = 8192
TURNS = (1, 2, 2, 1)


@dataclass(frozen=True)
class Turn:
    """One labelling of the whole text: seconds since the first worker had its teacher; the processor's, of workers and of the rest."""

    workers: int
    seconds: float
    worked: float
    beside: float
    load: float
    digest: str


def processor_seconds(seen: dict[int, float]) -> None:
    """Of the workers that this process has begun, by process id; those that are gone keep what they had."""
    for one in psutil.Process().children(recursive=True):
        try:
            if one.cmdline() and one.cmdline()[0].startswith("ray::Worker"):
                times = one.cpu_times()
                seen[one.pid] = times.user + times.system
        except psutil.NoSuchProcess:
            continue


def measured(crew, built, manifest, folder: Path) -> Turn:
    begin_store(folder, manifest, built.corpus)
    begun: dict[int, float] = {}
    seen: dict[int, float] = {}
    started = time.perf_counter()
    mine = time.process_time()
    for done in label_with(crew, built.corpus, folder):
        processor_seconds(seen)
        if done.tokens == 0:  # a worker has its teacher: what that took is not counted
            begun |= {pid: seconds for pid, seconds in seen.items() if pid not in begun}
            started, mine = (time.perf_counter(), time.process_time()) if len(begun) == 1 else (started, mine)
    seconds = time.perf_counter() - started
    worked = sum(seconds - begun.get(pid, seconds) for pid, seconds in seen.items())
    digest = sha256(b"".join(path.read_bytes() for path in sorted(folder.iterdir()))).hexdigest()
    return Turn(crew.count, seconds, worked, time.process_time() - mine, os.getloadavg()[0], digest)


def main(text: Path, predictions: int) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        recipe = Path(scratch) / "recipe.toml"
        recipe.write_text(RECIPE.format(text=text))
        built = build_labelling(load_recipe(recipe), Path(scratch) / "begun", say=print, is_marked_here=False)
        sizes = np.cumsum(np.diff(built.corpus.offsets))
        documents = int(np.searchsorted(sizes, predictions)) + 1
        built = replace(built, corpus=built.corpus.select(np.arange(min(documents, len(sizes)))))
        manifest = replace(built.manifest, shard_tokens=SHARD)
        with joined(None, count=2, model="pocket") as crew:
            turns = []
            for number, count in enumerate(TURNS):
                turns.append(
                    measured(
                        replace(crew, count=count, processors=1, workers=[]),
                        built,
                        manifest,
                        Path(scratch) / str(number),
                    )
                )
                print(turns[-1], flush=True)
    assert len({turn.digest for turn in turns}) == 1
    (HERE / "ray_labelling.md").write_text(page(turns, len(built.corpus), int(sizes[min(documents, len(sizes)) - 1])))


def page(turns: list[Turn], documents: int, tokens: int) -> str:
    means = {
        count: [
            float(np.mean([getattr(turn, what) for turn in turns if turn.workers == count]))
            for what in ("seconds", "worked", "beside")
        ]
        for count in (1, 2)
    }
    lines = [
        "# Labelling by workers of Ray",
        "",
        f"*{datetime.now(UTC):%Y-%m-%d}; `benchmarks/ray_labelling.py`; {psutil.cpu_count()} cores; Ray {version('ray')}, "
        f"torch {version('torch')}; the pocket teacher, {documents} documents of {tokens:,} tokens in shards of {SHARD:,} predictions, one "
        "thread a worker; seconds from the moment the first worker has its teacher.*",
        "",
        "| workers | seconds | documents/s | processor seconds of workers | of the process that writes | load of the machine |",
        "| ---: | ---: | ---: | ---: | ---: | ---: |",
        *(
            f"| {turn.workers} | {turn.seconds:.1f} | {documents / turn.seconds:.2f} | {turn.worked:.1f} | "
            f"{turn.beside:.1f} | {turn.load:.1f} |"
            for turn in turns
        ),
        "",
        f"Two workers against one: **{means[1][0] / means[2][0]:.2f}×** the documents a second. A document took "
        f"{means[1][1] / documents:.3f} s of one worker's processor and {means[2][1] / documents:.3f} s with two, so two workers that have "
        f"a core each do **{2 * means[1][1] / means[2][1]:.2f}×** as much; the process that writes takes "
        f"{means[2][2] / (means[2][1] + means[2][2]):.1%} of all processor time. The files are the same bytes each time.",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute(), int(sys.argv[2]) if len(sys.argv) > 2 else 60_000)
