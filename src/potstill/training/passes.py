"""A step's batch in passes: which of its rows this process reads, how many at a time, made ready beside the step before.

Every process reads the whole batch and keeps its own rows: all processes together learn from exactly the tokens that one would.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

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

    `in_step`: all processes make the same number of passes, as they must where each pass gathers weights. Raises DataError where there
    are fewer rows than processes.
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


def _num_passes(rows: int, world: int, at_once: int) -> int:
    """As many as the process with most rows needs, but none without a row: where shares differ and a pass has one row, one has two."""
    return min(math.ceil(math.ceil(rows / world) / at_once), rows // world)


def _evenly(batch: Batch, parts: int) -> Iterator[Batch]:
    rows = len(batch.inputs)
    for part in range(parts):
        yield batch.rows(part * rows // parts, (part + 1) * rows // parts)
