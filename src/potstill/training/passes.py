"""A step's batch in passes: which of its rows this process reads, how many at a time, made ready beside the step before.

Every process reads the whole batch and keeps its own rows: all processes together learn from exactly the tokens that one would.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from zlib import crc32

import torch
from accelerate import Accelerator

from potstill.errors import DataError
from potstill.teachers import is_stored
from potstill.types import Batch, Labels, Teacher

# A step's batch, and its passes: what one of them reads, and its labels where they need no model.
Work = tuple[Batch, list[tuple[Batch, Labels | None]]]


def ahead(work: Iterator[Work]) -> Iterator[Work]:
    """The same work, each step's made ready while the one before is learned from."""
    with ThreadPoolExecutor(max_workers=1) as worker:
        coming = worker.submit(next, work)
        while True:
            ready = coming.result()
            coming = worker.submit(next, work)
            yield ready


def divided(
    batches: Iterator[Batch],
    teacher: Teacher | None,
    micro_rows: int | None,
    *,
    rank: int = 0,
    world: int = 1,
    in_step: bool = False,
) -> Iterator[Work]:
    """The share of process `rank` of `world` of each step, in passes of `micro_rows`. Stored labels are read here.

    `in_step`: all processes make the same number of passes, as they must where each pass gathers weights, or asks a teacher that they
    run together. Raises DataError where there are fewer rows than processes.
    """
    stored = teacher if is_stored(teacher) else None
    for batch in batches:
        rows = len(batch.inputs)
        if rows < world:
            raise DataError(f"a step has {rows} sequences and there are {world} processes: raise training.rows")
        # No process is left without rows: it would not take part in the reduction.
        mine = batch.rows(*[place * rows // world for place in (rank, rank + 1)])
        at_once = micro_rows or math.ceil(rows / world)
        parts = _evenly(mine, _num_passes(rows, world, at_once)) if in_step else mine.split(at_once)
        yield batch, [(part, None if stored is None else stored.label(part)) for part in parts]


def check_begins_alike(processes: Accelerator, step: int, text: Iterator[Batch] | None) -> None:
    """DataError where processes are not at one step, or the next batches of their text are not one: they don't see the same files."""
    if processes.num_processes == 1:
        return
    batch = None if text is None else next(text)
    mark = 0 if batch is None else crc32(batch.weights.numpy().tobytes(), crc32(batch.inputs.numpy().tobytes()))
    seen = processes.gather(torch.tensor([[step, mark]], device=processes.device))
    assert isinstance(seen, torch.Tensor)
    if bool((seen != seen[0]).any()):
        what = "read other text" if len(seen[:, 0].unique()) == 1 else f"go on from steps {seen[:, 0].tolist()}"
        raise DataError(
            f"the {len(seen)} processes of this run {what}: give all of them the same files, the run's folder on one file system"
        )


def _num_passes(rows: int, world: int, at_once: int) -> int:
    """As many as the process with most rows needs, but none without a row: where shares differ and a pass has one row, one has two."""
    return min(math.ceil(math.ceil(rows / world) / at_once), rows // world)


def _evenly(batch: Batch, parts: int) -> Iterator[Batch]:
    rows = len(batch.inputs)
    for part in range(parts):
        yield batch.rows(part * rows // parts, (part + 1) * rows // parts)
