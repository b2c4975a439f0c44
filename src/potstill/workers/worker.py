"""One of many that label: it has a teacher, and labels the shard it was given, a little at a time."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from potstill.data import TokenCorpus
from potstill.soft_labels import Labeller, Manifest, Record
from potstill.soft_labels.planning import Planned
from potstill.teachers import LiveTeacher
from potstill.workers.loading import teacher_here


@dataclass(frozen=True)
class Advance:
    """What a worker did since it was last asked: records of passes and, when they are all there, the bytes of the shard."""

    records: list[Record]
    shard: NDArray[np.uint8] | None


class Worker:
    """Runs in a process of its own, on any machine. Nothing it holds is needed by anybody when it dies."""

    def __init__(self, model: str, manifest: Manifest, tokens_of_rank: NDArray[np.int64]) -> None:
        """`model`: the teacher's name, or its folder on the worker's machine. It is loaded by `load`."""
        self._model, self._manifest, self._ranks = model, manifest, np.array(tokens_of_rank)
        self._labeller: Labeller | None = None
        self._steps: Iterator[Advance] = iter(())

    def load(self, expected: Mapping[str, str]) -> None:
        """Load the teacher; `expected`: the versions of whoever writes the labels down (see `numbering`).

        ModelError where it is another teacher than the store's, can't be loaded, or where this machine has other versions.
        """
        known = self._manifest.teacher
        model = teacher_here(self._model, fingerprint=known["fingerprint"], dtype=known["dtype"], expected=expected)
        self._labeller = Labeller.of(LiveTeacher(model, size=self._manifest.num_tokens), self._manifest, self._ranks)

    def begin(self, text: TokenCorpus, shard: Planned, records: list[Record]) -> None:
        """Take a shard whose documents are all of `text`, and the records that are there already."""
        assert self._labeller is not None
        self._steps = _steps(self._labeller, text, shard, list(records))

    def advance(self, seconds: float) -> Advance:
        """Label for so long, or until the shard is whole."""
        started, records = time.perf_counter(), []
        for step in self._steps:
            records += step.records
            if step.shard is not None or time.perf_counter() - started >= seconds:
                return Advance(records, step.shard)
        raise AssertionError("a worker without a shard was asked to go on")


def _steps(labeller: Labeller, text: TokenCorpus, shard: Planned, records: list[Record]) -> Iterator[Advance]:
    """Each pass by itself; the shard's bytes with the last."""
    for record in labeller.passes(text, shard, len(records)):
        records.append(record)
        yield Advance([record], None)
    with TemporaryDirectory() as folder:
        path = Path(folder) / shard.name
        labeller.write(path, records, shard)
        whole = np.fromfile(path, dtype=np.uint8)
    yield Advance([], whole)
