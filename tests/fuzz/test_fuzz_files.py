"""Files that other programs, disks and people leave to us: a store of labels, scores, models. What is read is what was written."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from mutating import fuzz
from test_fuzz_text import on_disk, times

sys.path.insert(0, str(Path(__file__).parents[1] / "soft_labels"))
sys.path.insert(0, str(Path(__file__).parents[1] / "models"))

from fake_labels import corpus_of, labelled, manifest_of
from small_tokenizers import byte_level
from tiny_models import FAMILIES, byte_tokenizer, tiny_model

from potstill.data import TokenCorpus
from potstill.export.gguf_file import save_gguf
from potstill.models import load_model, load_tokenizer, save_model
from potstill.soft_labels import Hidden, Sampled, Store, TopK
from potstill.soft_labels.journal import Journal
from potstill.students import Importance
from potstill.types import DenseTargets

CORPUS = corpus_of([40, 3, 17, 90, 2, 33], samples=(2,))


def labels_of(folder: Path) -> list[np.ndarray]:
    """All labels of a store, and what else is read from it."""
    store = Store(folder)
    shards = np.concatenate(
        [np.full(shard.num_tokens, number) for number, shard in enumerate(store.shards)] or [np.zeros(0, np.int64)]
    )
    numbers = np.concatenate([np.arange(shard.num_tokens) for shard in store.shards] or [np.zeros(0, np.int64)])
    found = store.read(shards, numbers, 1.0)
    if isinstance(found, DenseTargets):
        return [found.rows.numpy(), shards, store.sums]
    return [found.ids.numpy(), found.probs.numpy(), shards, store.sums]


@pytest.mark.parametrize("codec", [Sampled(0.1), TopK(20), Hidden(8)], ids=["sampled", "topk", "hidden"])
@times(250, 6_000)
def test_a_store_gives_its_labels_or_none(cases, codec, tmp_path):
    """Whichever of its files is damaged."""
    labelled(tmp_path / "store", CORPUS, manifest_of(codec))
    whole = labels_of(tmp_path / "store")
    files = sorted(path for path in (tmp_path / "store").iterdir() if path.name != "plan.json")
    for number, file in enumerate(files):
        before = file.read_bytes()

        def reads(data: bytes, file: Path = file) -> None:
            file.write_bytes(data)
            found = labels_of(tmp_path / "store")
            assert all(np.array_equal(a, b) for a, b in zip(found, whole, strict=True)), (
                "other labels than were written"
            )

        found = fuzz([before], reads, cases=cases // len(files), first=number * cases)
        assert found.refused > 0
        file.write_bytes(before)


@times(400, 8_000)
def test_a_journal_gives_what_was_whole(cases, tmp_path):
    path = tmp_path / "a.journal"
    records = [{"ids": np.arange(n, dtype=np.int32), "probs": np.full(n, 0.5, np.float32)} for n in (1, 3, 20)]
    with Journal(path) as journal:
        for record in records:
            journal.append(record)

    def reads(data: bytes) -> None:
        path.write_bytes(data)
        with Journal(path) as journal:
            found = list(journal.replay())
        for one, known in zip(found, records, strict=False):
            assert all(np.array_equal(one[name], known[name]) for name in known)

    assert fuzz([path.read_bytes()], reads, cases=cases).read > cases / 4


@times(300, 6_000)
def test_a_corpus_on_disk_is_what_was_written_or_none(cases, tmp_path):
    CORPUS.save(tmp_path / "corpus")
    for number, file in enumerate(sorted((tmp_path / "corpus").iterdir())):
        before = file.read_bytes()

        def reads(data: bytes, file: Path = file) -> None:
            # Another file, not another content: arrays are mapped into memory.
            file.unlink()
            file.write_bytes(data)
            found = TokenCorpus.load(tmp_path / "corpus")
            assert (found.keys, found.domains) == (CORPUS.keys, CORPUS.domains)
            assert np.array_equal(found.ids, CORPUS.ids)
            assert np.array_equal(found.weights, CORPUS.weights)

        fuzz([before], reads, cases=cases // 8, first=number * cases)
        file.unlink()
        file.write_bytes(before)


@times(300, 6_000)
def test_importance(cases, tmp_path):
    """What is read has the shapes that cutting relies on."""
    scores = Importance(np.ones((3, 5)), np.ones((3, 2)), np.ones(7), np.ones((4, 4)), np.ones(1, np.int64), np.ones(3))
    scores.save(tmp_path / "a.safetensors")
    reads = on_disk(tmp_path / "b.safetensors", lambda path: Importance.load(path).block_influence)
    assert fuzz([(tmp_path / "a.safetensors").read_bytes()], reads, cases=cases).refused > cases / 4


@times(60, 2_000)
def test_models(cases, tmp_path):
    """Configurations, weights and tokenizers of others: a model that is read answers."""
    folder = tmp_path / "model"
    save_model(tiny_model("llama"), byte_tokenizer(), folder)
    names = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "generation_config.json"]
    for number, name in enumerate(names):
        before = (folder / name).read_bytes()

        def reads(data: bytes, name: str = name) -> None:
            (folder / name).unlink()
            (folder / name).write_bytes(data)
            (load_tokenizer if name.startswith("tokenizer") else load_model)(folder)

        fuzz([before], reads, cases=cases // len(names), first=number * cases)
        (folder / name).write_bytes(before)


@times(60, 2_000)
def test_gguf(cases, tmp_path):
    save_gguf(
        tiny_model("llama", settings=FAMILIES["llama"] | {"vocab_size": 320}), byte_level(), tmp_path / "a.gguf", "f16"
    )
    before = (tmp_path / "a.gguf").read_bytes()
    # Weights that are damaged are other weights: what matters is the header.
    header, rest = before[:12_000], before[12_000:]

    def reads(data: bytes) -> None:
        path = tmp_path / "b.gguf"
        path.unlink(missing_ok=True)
        path.write_bytes(data + rest)
        load_tokenizer(path)
        load_model(path)

    fuzz([header], reads, cases=cases)
