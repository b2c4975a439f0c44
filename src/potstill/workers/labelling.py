"""A store labelled by a crew: shards are given out, and what comes back is written down here.

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
from potstill.soft_labels import Progress, Record, Store
from potstill.soft_labels.journal import Journal, take
from potstill.soft_labels.planning import Planned, check_none_elsewhere, explained, plan_of, write_plan
from potstill.soft_labels.shard import whole_file
from potstill.workers.cluster import Crew
from potstill.workers.sharing import shared
from potstill.workers.worker import Advance, Worker

if TYPE_CHECKING:
    from ray import ObjectRef
    from ray.actor import ActorHandle

_SECONDS = 1.0


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
        labels = _Labels(corpus, store, plan)
        for records in shared(crew, labels, len(plan)):
            now = time.perf_counter()
            started = now if started is None else started  # when the first worker had its teacher
            done = done.known(labels.found_since()).after(records, now - started)
            yield done
    check_none_elsewhere(folder, plan)


@dataclass(frozen=True, eq=False)
class _Taken:
    """A shard whose journal is ours."""

    shard: Planned
    journal: Journal


class _Labels:
    """The shards of a plan."""

    def __init__(self, corpus: TokenCorpus, store: Store, plan: list[Planned]) -> None:
        self._corpus, self._store, self._untouched = corpus, store, iter(plan)
        self._begun, self._found = set[str](), list[Record]()

    def found_since(self) -> list[Record]:
        """What earlier runs left of the shards that were begun since this was asked."""
        found, self._found = self._found, []
        return found

    def hire(self, crew: Crew) -> ActorHandle:
        return crew.another(Worker, self._store.manifest, self._store.tokens_of_rank)

    def take(self) -> _Taken | None:
        for shard in self._untouched:
            with explained(self._store.folder):
                journal = take(self._store.folder / shard.name)
            if journal is not None:
                return _Taken(shard, journal)
        return None

    def begin(self, worker: ActorHandle, part: _Taken) -> None:
        records = list(part.journal.replay())
        if part.shard.name not in self._begun:  # of a worker that died, its records are counted already
            self._begun.add(part.shard.name)
            self._found += records
        text = self._corpus.select(part.shard.documents)
        documents = np.arange(len(part.shard.documents))
        worker.begin.remote(text, Planned(documents, part.shard.keys, part.shard.counts), records)

    def go_on(self, worker: ActorHandle, part: _Taken) -> ObjectRef:
        return worker.advance.remote(_SECONDS)

    def is_whole(self, sent: Advance) -> bool:
        return sent.shard is not None

    def keep(self, part: _Taken, sent: Advance) -> list[Record]:
        with explained(self._store.folder):
            for record in sent.records:
                part.journal.append(record)
            if sent.shard is not None:
                with whole_file(self._store.folder / part.shard.name) as file:
                    file.write(sent.shard.data)
                part.journal.delete()
                part.journal.close()
        return sent.records

    def leave(self, part: _Taken) -> None:
        part.journal.close()

    def name_of(self, part: _Taken) -> str:
        return f"labelled the same shard ({part.shard.name})"
