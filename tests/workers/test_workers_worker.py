"""A worker by itself, in this process: what it sends, put together, is what one process writes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from small_stores import Small, files_of, small

from potstill.errors import ModelError
from potstill.soft_labels import Store
from potstill.soft_labels.planning import Planned, plan_of
from potstill.workers import Worker
from potstill.workers.loading import numbering


@pytest.fixture
def work(tmp_path: Path) -> Small:
    return small(tmp_path)


def worker_of(work: Small, store: Store) -> Worker:
    worker = Worker(str(work.model), store.manifest, store.tokens_of_rank)
    worker.load(numbering())
    return worker


@pytest.mark.parametrize("known", [0, 1, 2], ids="{} passes known".format)
def test_its_shards_are_those_of_one_process(known, work, tmp_path):
    """Whatever of a shard was labelled by another before it."""
    whole = files_of(work.label(tmp_path / "whole"))
    store = Store(work.begin(tmp_path / "empty"))
    worker, found = worker_of(work, store), {}
    plan = plan_of(work.corpus, store)
    assert len(plan) >= 3
    for shard in plan:
        part = Planned(np.arange(len(shard.documents)), shard.keys, shard.counts)
        text, records, bytes_of_shard = work.corpus.select(shard.documents), [], None
        worker.begin(text, part, [])
        while bytes_of_shard is None:
            if len(records) == known > 0:  # it dies, and another goes on
                worker = worker_of(work, store)
                worker.begin(text, part, list(records))
            advance = worker.advance(0.0)
            records += advance.records
            bytes_of_shard = advance.shard
        assert sum(len(record["offset"]) for record in records) == shard.tokens
        found[shard.name] = bytes_of_shard.tobytes()
    assert found == {name: data for name, data in whole.items() if name.endswith(".labels")}


def test_another_model_at_the_same_place_is_refused(work, tmp_path):
    other = replace(work.manifest, teacher={**work.manifest.teacher, "fingerprint": "0"})
    store = Store(replace(work, manifest=other).begin(tmp_path / "store"))
    with pytest.raises(ModelError, match="another model"):
        worker_of(work, store)


def test_a_machine_with_other_packages_is_refused(work, tmp_path):
    store = Store(work.begin(tmp_path / "store"))
    worker = Worker(str(work.model), store.manifest, store.tokens_of_rank)
    with pytest.raises(ModelError, match=r"torch .*, not 1\.0"):
        worker.load(numbering() | {"torch": "1.0"})
    assert not any("+" in version for version in numbering().values())
