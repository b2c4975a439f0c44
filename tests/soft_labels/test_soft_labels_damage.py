"""Damage to a store is found wherever it is, and a store holds nothing open."""

from __future__ import annotations

import gc
import os
import weakref
from dataclasses import replace
from itertools import islice

import pytest
from fake_labels import CONTEXT, TEACHER, TOKENS, files_of, manifest_of

from potstill.data import PackedBatches
from potstill.errors import NotFiniteError, StoreError
from potstill.losses import ForwardKL, SoftLabelLoss
from potstill.soft_labels import Sampled, Store, begin_store, label
from potstill.teachers import StoredTeacher

KL = SoftLabelLoss(ForwardKL())


def stored(store: Store, corpus, measure: SoftLabelLoss = KL, tokenizer: str = "bytes") -> StoredTeacher:
    return StoredTeacher(store, corpus, tokenizer=tokenizer, measure=measure)


def test_a_flipped_byte_is_found_wherever_it_is(store, corpus):
    [path, *_] = store.folder.glob("*.labels")
    whole = path.read_bytes()
    for place in range(0, len(whole), 3):
        content = bytearray(whole)
        content[place] ^= 0x10
        path.write_bytes(bytes(content))
        with pytest.raises(StoreError, match=r"damaged|version"):
            read_everything(Store(store.folder), corpus)
    for size in (0, 5, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(StoreError, match="damaged"):
            read_everything(Store(store.folder), corpus)
    path.write_bytes(whole)
    read_everything(Store(store.folder), corpus)


def read_everything(store: Store, corpus) -> None:
    teacher = stored(store, corpus)
    batches = PackedBatches(corpus, CONTEXT, 8)
    for batch in islice(batches.from_step(0), int(batches.steps_per_epoch) + 1):
        teacher.label(batch)


def test_a_file_cut_off_while_it_is_read_is_found(store, corpus):
    read_everything(read := Store(store.folder), corpus)
    [path, *_] = store.folder.glob("*.labels")
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(StoreError, match="damaged"):
        read_everything(Store(store.folder), corpus)
    read.shards[0].path.write_bytes(b"")
    with pytest.raises(StoreError, match="page 0 is not what was written"):
        read.shards[0].page(0)


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts open files as Linux does")
def test_a_store_keeps_no_file_open_and_goes_when_nobody_has_it(store, corpus):
    gc.collect()
    before, stores = len(os.listdir("/proc/self/fd")), [Store(store.folder) for _ in range(5)]
    for one in stores:
        read_everything(one, corpus)
    assert len(os.listdir("/proc/self/fd")) == before
    gone = [weakref.ref(one) for one in stores]
    gc.disable()
    try:
        stores.clear()
        del one
        assert [left() for left in gone] == [None] * 5
    finally:
        gc.enable()


@pytest.mark.parametrize("name", ["manifest.json", "tables.safetensors"])
def test_a_changed_manifest_or_table_is_found(name, store):
    whole = (store.folder / name).read_bytes()
    missed = 0
    for place in range(0, len(whole), 5):
        content = bytearray(whole)
        content[place] ^= 0x01
        (store.folder / name).write_bytes(bytes(content))
        try:
            changed = Store(store.folder)
        except StoreError:
            continue
        # White space, or something that says the same: nothing that is read differs.
        assert changed.manifest == store.manifest
        missed += 1
    assert missed < len(whole) / 5 / 4


def test_a_newer_version_is_refused(store):
    path = store.folder / "manifest.json"
    path.write_text(path.read_text().replace('"version": 1', '"version": 2'))
    with pytest.raises(StoreError, match=r"of version 2.*install a newer potstill"):
        Store(store.folder)


def test_a_missing_shard_is_named_and_only_it_is_labelled_again(store, corpus):
    before = files_of(store.folder)
    [path, *_] = store.folder.glob("*.labels")
    path.unlink()
    with pytest.raises(StoreError, match=rf"1 of its files are missing, {path.name}"):
        stored(Store(store.folder), corpus)
    passes = [done.total for done in label(TEACHER, corpus, store.folder)]
    assert passes[0] < store.num_tokens
    assert files_of(store.folder) == before


def test_shards_of_another_store_are_refused(store, new_store):
    other = new_store(manifest_of(Sampled(0.2)))
    [stranger, *_] = other.folder.glob("*.labels")
    (store.folder / stranger.name).write_bytes(stranger.read_bytes())
    with pytest.raises(StoreError, match="belongs to another store"):
        Store(store.folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_labels_that_are_no_numbers_are_not_stored(value, store, corpus, tmp_path):
    """-inf is one: what a model can't say has no probability."""

    class Spoiled:
        num_tokens = TOKENS

        def __init__(self, value: float) -> None:
            self.value = value

        def label(self, batch):
            targets = TEACHER.label(batch)
            rows = targets.rows.clone()
            rows[3, 0] = self.value
            return replace(targets, rows=rows)

    folder = tmp_path / "spoiled"
    begin_store(folder, store.manifest, corpus)
    with pytest.raises(NotFiniteError, match="predictions are NaN or infinite"):
        list(label(Spoiled(value), corpus, folder))
    assert not list(folder.glob("*.labels"))
    assert [done.tokens for done in label(TEACHER, corpus, folder)][-1] == store.num_tokens
    assert {path.name: path.read_bytes() for path in folder.glob("*.labels")} == {
        path.name: path.read_bytes() for path in store.folder.glob("*.labels")
    }
