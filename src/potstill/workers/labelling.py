"""A store labelled by a crew: shards are given out, what comes back is written down here, what was lost is given out again.

Workers send the records of their passes every second, and they go to the journal that one process would have kept. So whoever dies,
a second of work is lost; and whoever goes on, these workers, others, or one process without Ray, goes on from the same files.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from potstill.data import TokenCorpus
from potstill.errors import PotstillError, ServerError
from potstill.soft_labels import Progress, Record, Store
from potstill.soft_labels.journal import Journal, take
from potstill.soft_labels.planning import Planned, check_none_elsewhere, explained, plan_of, write_plan
from potstill.soft_labels.shard import whole_file
from potstill.workers.cluster import Crew
from potstill.workers.worker import Advance, numbering

if TYPE_CHECKING:
    from ray import ObjectRef
    from ray.actor import ActorHandle

_SECONDS = 1.0
_MOST_DEATHS = 3


def label_with(crew: Crew, corpus: TokenCorpus, folder: Path) -> Iterator[Progress]:
    """Label what the store at `folder` (see `begin_store`) has not got of the corpus, with a word whenever a worker sends something.

    Raises what a worker can't mend (its teacher is not there, is another one, gives NaN), ServerError where workers die again and
    again, and StoreError as `label` does.
    """
    store = Store(folder)
    plan = plan_of(corpus, store)
    with explained(folder):
        write_plan(folder, [shard.path.name for shard in store.shards], plan)
    started, done = None, Progress.at_start(plan)
    if plan:
        for records in _Shift(crew, corpus, store, plan).through():
            now = time.perf_counter()
            started = now if started is None else started  # when the first worker had its teacher
            done = done.after(records, now - started)
            yield done
    check_none_elsewhere(folder, plan)


@dataclass(eq=False)
class _Part:
    """A shard in hand, and how often a worker died of it. One is another, whatever is in it."""

    shard: Planned
    journal: Journal
    deaths: int = 0


class _Shift:
    """Who labels what at this moment."""

    def __init__(self, crew: Crew, corpus: TokenCorpus, store: Store, plan: list[Planned]) -> None:
        self._crew, self._corpus, self._store, self._num_shards = crew, corpus, store, len(plan)
        self._untouched, self._lost, self._in_hand, self._is_all_given = iter(plan), list[_Part](), list[_Part](), False
        self._turns: dict[ObjectRef, tuple[ActorHandle, _Part | None]] = {}
        self._deaths_before_work = 0

    def through(self) -> Iterator[list[Record]]:
        """Until every shard is there, or in the hands of others: what was labelled meanwhile."""
        import ray

        try:
            for _ in range(min(self._crew.count, self._num_shards)):
                self._hire()
            while self._in_hand or not self._is_all_given:
                [ready], _ = ray.wait(list(self._turns), num_returns=1)
                yield self._after(ready)
        finally:
            for part in self._in_hand:
                part.journal.close()
            for worker in self._crew.workers[:]:
                self._crew.dismiss(worker)

    def _after(self, ready: ObjectRef) -> list[Record]:
        """Take what a worker has for us, and give it something to do."""
        import ray
        from ray.exceptions import RayError, RayTaskError

        worker, part = self._turns.pop(ready)
        try:
            advance: Advance | None = ray.get(ready)
        except RayTaskError as error:
            if isinstance(error.cause, PotstillError | OSError | MemoryError | RuntimeError):
                raise error.cause from error
            raise
        except RayError as error:
            self._mourn(worker, part, error)
            return []
        if part is None or advance is None:
            self._deaths_before_work = 0
            return self._give(worker)
        with explained(self._store.folder):
            for record in advance.records:
                part.journal.append(record)
        if advance.shard is None:
            self._turns[worker.advance.remote(_SECONDS)] = (worker, part)
            return advance.records
        known = self._give(worker)  # before the disk is waited for
        with explained(self._store.folder), whole_file(self._store.folder / part.shard.name) as file:
            file.write(advance.shard.data)
        part.journal.delete()
        part.journal.close()
        self._in_hand.remove(part)
        return [*advance.records, *known]

    def _hire(self) -> None:
        worker = self._crew.another(self._store)
        self._turns[worker.load.remote(numbering())] = (worker, None)

    def _give(self, worker: ActorHandle) -> list[Record]:
        """The next shard to this worker, or its leave; the records of it that an earlier run left."""
        part = self._lost.pop() if self._lost else self._next()
        if part is None:
            self._is_all_given = True
            self._crew.dismiss(worker)
            return []
        records = list(part.journal.replay())
        text = self._corpus.select(part.shard.documents)
        documents = np.arange(len(part.shard.documents))
        worker.begin.remote(text, Planned(documents, part.shard.keys, part.shard.counts), records)
        self._turns[worker.advance.remote(_SECONDS)] = (worker, part)
        return records if part.deaths == 0 else []

    def _next(self) -> _Part | None:
        for shard in self._untouched:
            with explained(self._store.folder):
                journal = take(self._store.folder / shard.name)
            if journal is not None:
                self._in_hand.append(part := _Part(shard, journal))
                return part
        return None

    def _mourn(self, worker: ActorHandle, part: _Part | None, error: Exception) -> None:
        """Another worker in its place, and its shard to whoever is free next; ServerError where that has not helped before."""
        self._crew.dismiss(worker)
        if part is not None:
            part.deaths += 1
            self._lost.append(part)
        else:
            self._deaths_before_work += 1
        if max(self._deaths_before_work, part.deaths if part is not None else 0) >= _MOST_DEATHS:
            what = (
                "before it had its teacher" if part is None else f"while it labelled the same shard ({part.shard.name})"
            )
            raise ServerError(
                f"a worker died {_MOST_DEATHS} times {what}: {str(error).strip().splitlines()[-1].strip()} Is its machine out of memory, "
                "and is potstill installed there? Ray keeps its logs in session_latest/logs of its temporary folder there"
            ) from None
        self._hire()
