"""A store gives each prediction its own label, in any packing, after any interruption, or says why not."""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from fake_labels import CONTEXT, TEACHER, TOKENS, corpus_of, files_of, labelled, manifest_of
from torch.utils.data import DataLoader, Dataset

from potstill.data import PackedBatches
from potstill.errors import DataError, LossError, StoreError
from potstill.losses import ForwardKL, JensenShannon, ReverseKL, SoftLabelLoss
from potstill.soft_labels import Dense, Hidden, Sampled, Store, TopK, begin_store, label
from potstill.soft_labels.planning import labelled_counts
from potstill.teachers import StoredTeacher
from potstill.types import DenseTargets, SparseTargets

KL = SoftLabelLoss(ForwardKL())


def dense_of(targets: SparseTargets | DenseTargets) -> torch.Tensor:
    if isinstance(targets, DenseTargets):
        return targets.head.logits(targets.rows).softmax(-1)
    return torch.zeros(len(targets.ids), TOKENS).scatter_add_(1, targets.ids.clamp_min(0), targets.probs)


def stored(store: Store, corpus, measure: SoftLabelLoss = KL, tokenizer: str = "bytes") -> StoredTeacher:
    return StoredTeacher(store, corpus, tokenizer=tokenizer, measure=measure)


@pytest.mark.parametrize(
    ("codec", "tolerance"),
    [
        (Dense(), 1e-6),
        (Hidden(8), 0.02),
        (Hidden(6), 0.1),
        (TopK(TOKENS), 0.02),
        (TopK(40), 0.2),
        (Sampled(0.02), 0.25),
    ],
    ids=str,
)
def test_labels_are_those_of_the_live_teacher(codec, tolerance, new_store, corpus):
    """In every tier, for other packings, orders and epochs; the tolerance is the tier's own, in total variation."""
    teacher = stored(new_store(manifest_of(codec)), corpus)
    for length, rows, pack, seed in ((CONTEXT, 3, True, 0), (CONTEXT, 2, False, 1), (7, 4, True, 2)):
        batches = PackedBatches(corpus, length, rows, seed=seed, pack=pack)
        for batch in islice(batches.from_step(0), round(2 * batches.steps_per_epoch) + 1):
            exact, found = dense_of(TEACHER.label(batch)), dense_of(teacher.label(batch))
            assert found.shape == exact.shape
            distance = (found - exact).abs().sum(-1) / 2
            assert distance.mean() < tolerance
            wrong = (found - exact.roll(1, 0)).abs().sum(-1) / 2
            assert len(found) < 3 or distance.mean() < wrong.mean() / 2


def test_top_k_knows_its_rest_at_each_temperature(new_store, corpus):
    store = new_store(manifest_of(TopK(20, temperatures=(1.0, 2.0)), temperature=2.0))
    batch = next(PackedBatches(corpus, CONTEXT, 4).from_step(0))
    exact = TEACHER.label(batch)
    for temperature in (1.0, 2.0):
        targets = stored(store, corpus, SoftLabelLoss(JensenShannon(0.5), temperature)).label(batch)
        assert isinstance(targets, SparseTargets)
        assert targets.rest is not None
        probs = (exact.head.logits(exact.rows) / temperature).softmax(-1)
        torch.testing.assert_close(targets.rest, 1 - probs.topk(20).values.sum(-1), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(targets.probs.sum(-1) + targets.rest, torch.ones(len(probs)), rtol=0, atol=1e-5)


def test_what_a_store_cannot_serve_is_refused(store, corpus, new_store):
    with pytest.raises(LossError, match=r"serve forward KL alone.*topk.*hidden"):
        stored(store, corpus, SoftLabelLoss(ReverseKL()))
    with pytest.raises(LossError, match=r"of temperature 1 and the loss asks for 2.*hidden"):
        stored(store, corpus, SoftLabelLoss(temperature=2.0))
    with pytest.raises(StoreError, match="another tokenizer"):
        stored(store, corpus, tokenizer="other")
    stored(new_store(manifest_of(Hidden())), corpus, SoftLabelLoss(ReverseKL(), temperature=3.0))


def test_other_text_gets_no_labels(store, corpus):
    other = corpus_of([20, 30], seed=9)
    with pytest.raises(StoreError, match=r"2 of 2 documents of the text have no labels.*label"):
        stored(store, other)
    teacher = stored(store, corpus.select([0, 3]))
    batch = next(PackedBatches(corpus, CONTEXT, 8, pack=False).from_step(0))
    with pytest.raises(DataError, match="not of the text"):
        teacher.label(batch)  # the same documents by number, but of another part of the corpus


def test_a_prompt_with_its_answer_is_labelled_up_to_the_context(new_store):
    corpus = corpus_of([60, 30], samples=(0,))
    store = new_store(manifest_of(Sampled()))
    labelled(store.folder, corpus, store.manifest)
    teacher = stored(Store(store.folder), corpus)
    assert labelled_counts(corpus, CONTEXT)[0] == (corpus.document(0)[1][1 : CONTEXT + 1] > 0).sum()
    teacher.label(next(PackedBatches(corpus, CONTEXT, 4).from_step(0)))
    with pytest.raises(StoreError, match="beyond the 16 tokens of context"):
        teacher.label(next(PackedBatches(corpus, 2 * CONTEXT, 4, pack=False).from_step(0)))


def test_the_bytes_do_not_depend_on_interruptions(store, corpus, tmp_path):
    """Broken off after every pass, begun again each time; once with a record that a kill left half written."""
    folder = tmp_path / "interrupted"
    begin_store(folder, store.manifest, corpus, TEACHER.label(next(PackedBatches(corpus, 8, 1).from_step(0))).head)
    for number in range(1000):
        passes = label(TEACHER, corpus, folder)
        new = [done.tokens for done in islice(passes, 2)]
        passes.close()
        if not new:
            break
        for journal in folder.glob("*.journal"):
            if number % 3 == 1:
                journal.write_bytes(journal.read_bytes()[:-7])
            if number % 7 == 3:
                content = bytearray(journal.read_bytes())
                content[len(content) // 2 : len(content) // 2 + 1] = b"x"
                journal.write_bytes(bytes(content))
    assert number > 5
    assert files_of(folder) == files_of(store.folder)


def test_what_a_journal_had_is_not_counted_as_done_by_this_call(store, corpus, tmp_path):
    folder = tmp_path / "again"
    begin_store(folder, store.manifest, corpus, TEACHER.label(next(PackedBatches(corpus, 8, 1).from_step(0))).head)
    passes = label(TEACHER, corpus, folder)
    before = list(islice(passes, 2))[-1]
    passes.close()
    assert before.tokens > 0
    first, *_, last = label(TEACHER, corpus, folder)
    assert (first.tokens, first.bytes, first.seconds) == (0, 0, 0.0)
    assert last.total == last.tokens == before.total - before.tokens


def test_more_text_is_added_to_a_store(store, corpus):
    before = files_of(store.folder)
    more = corpus_of([50, 20], seed=4)
    both = labelled(store.folder, more, store.manifest)
    stored(both, corpus)
    stored(both, more)
    after = files_of(store.folder)
    assert {name: blob for name, blob in after.items() if name in before and name.endswith(".labels")} == {
        name: blob for name, blob in before.items() if name.endswith(".labels")
    }


def test_a_document_that_is_there_twice_is_labelled_once(store):
    corpus = corpus_of([50, 20], seed=4).select([0, 1, 0])
    again = labelled(store.folder, corpus, store.manifest)
    assert again.num_documents == store.num_documents + 2
    batch = next(PackedBatches(corpus, CONTEXT, 10, pack=False).from_step(0))
    stored(again, corpus).label(batch)


def test_another_kind_of_labels_is_refused_in_the_same_folder(store, corpus, tmp_path):
    head = TEACHER.label(next(PackedBatches(corpus, 8, 1).from_step(0))).head
    with pytest.raises(StoreError, match=r"codec is Sampled\(tau=0.1\) there and Sampled\(tau=0.2\) here"):
        begin_store(store.folder, manifest_of(Sampled(0.2)), corpus, head)
    (tmp_path / "begun").mkdir()
    for left in ("tables.safetensors", "tables.safetensors.part", "manifest.json.part"):
        (tmp_path / "begun" / left).write_text("what a kill left")
    begin_store(tmp_path / "begun", store.manifest, corpus, head)
    assert Store(tmp_path / "begun").manifest == store.manifest
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("mine")
    with pytest.raises(StoreError, match="no store of soft labels"):
        begin_store(tmp_path / "notes", manifest_of(Sampled()), corpus, head)


def test_a_second_writer_waits_for_the_first(store, corpus, tmp_path):
    folder = tmp_path / "two"
    begin_store(folder, store.manifest, corpus, TEACHER.label(next(PackedBatches(corpus, 8, 1).from_step(0))).head)
    first = label(TEACHER, corpus, folder)
    next(first)
    next(first)
    with pytest.raises(StoreError, match="another process is labelling 1 shards"):
        list(label(TEACHER, corpus, folder))  # does all the others, and then says what is left
    list(first)
    assert files_of(folder) == files_of(store.folder)


def test_a_full_disk_loses_nothing(store, corpus, tmp_path):
    folder = tmp_path / "full"
    begin_store(folder, store.manifest, corpus, TEACHER.label(next(PackedBatches(corpus, 8, 1).from_step(0))).head)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, limits[1]))
    try:
        with pytest.raises(StoreError, match=r"can't write.*Free some space"):
            list(label(TEACHER, corpus, folder))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    list(label(TEACHER, corpus, folder))
    assert {n: b for n, b in files_of(folder).items() if n != "plan.json.part"} == files_of(store.folder)


def _read_in_child(store: Store, shards: np.ndarray, numbers: np.ndarray, answers) -> None:
    answers.put(store.read(shards, numbers, 1.0).ids.tolist())


class _Reads(Dataset):
    """What is stored of one prediction."""

    def __init__(self, store: Store, numbers: np.ndarray) -> None:
        self.store, self.numbers = store, numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, place: int) -> list:
        targets = self.store.read(np.zeros(1, dtype=np.int64), self.numbers[place : place + 1], 1.0)
        return [targets.ids.tolist(), targets.probs.tolist()]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["spawn"])
def test_a_spawned_process_reads_the_same(method, store):
    context = multiprocessing.get_context(method)
    answers = context.Queue()
    shards, numbers = np.zeros(5, dtype=np.int64), np.arange(5)
    child = context.Process(target=_read_in_child, args=(store, shards, numbers, answers))
    child.start()
    assert answers.get(timeout=60) == store.read(shards, numbers, 1.0).ids.tolist()
    child.join()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.filterwarnings(
    "ignore:This DataLoader will create 2 worker processes:UserWarning"
)  # where there is one core
def test_forked_loader_workers_read_the_same(store):
    """As a DataLoader's workers do: the store is open in the parent, its pages half read."""
    numbers = np.arange(store.shards[0].num_tokens)
    store.read(np.zeros(3, dtype=np.int64), numbers[:3], 1.0)
    loader = DataLoader(_Reads(store, numbers), batch_size=None, num_workers=2, multiprocessing_context="fork")
    found = list(loader)
    assert found == [_Reads(store, numbers)[place] for place in range(len(numbers))]


@pytest.mark.slow
def test_three_processes_at_once_make_the_bytes_of_one(store, tmp_path):
    """Each takes the shards that nobody has; together they leave what one would have."""
    script, folder = Path(__file__).with_name("labelling_process.py"), tmp_path / "many"
    assert len(store.shards) >= 2
    folder.mkdir()
    for name in ("manifest.json", "tables.safetensors"):  # begun by one, as the command line does it
        (folder / name).write_bytes((store.folder / name).read_bytes())
    children = [subprocess.Popen([sys.executable, script, folder, "many"], stdout=subprocess.DEVNULL) for _ in range(3)]
    assert [child.wait(timeout=120) for child in children] == [0, 0, 0]
    assert files_of(folder) == files_of(store.folder)


@pytest.mark.slow
def test_killed_at_twenty_moments_the_bytes_are_the_same(store, tmp_path):
    """Real processes, SIGKILL; each takes up what the one before left."""
    script, folder = Path(__file__).with_name("labelling_process.py"), tmp_path / "killed"
    draw, kills = np.random.default_rng(0), 0
    for _ in range(100):
        child = subprocess.Popen([sys.executable, script, folder], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        child.stdout.readline()  # it begins
        time.sleep(float(draw.uniform(0, 0.4)))
        if child.poll() is None:
            child.kill()
            kills += 1
        child.communicate()
        if kills >= 20:
            break
    subprocess.run([sys.executable, script, folder], check=True, capture_output=True)
    assert kills == 20
    assert files_of(folder) == files_of(store.folder)


def test_the_plan_names_every_shard(store):
    plan = json.loads((store.folder / "plan.json").read_text())["shards"]
    assert plan == sorted(path.name for path in store.folder.glob("*.labels"))
    assert store.missing_shards == []
