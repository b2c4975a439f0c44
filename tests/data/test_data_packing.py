"""Windows of documents side by side, by step number."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from potstill.data import PackedBatches, TokenCorpus, ordered_batches
from potstill.errors import DataError

SIZES = [30, 3, 17, 1, 9, 64, 5, 2, 12, 41]


def corpus_of(sizes: list[int], *, samples: tuple[int, ...] = (), prompt: int = 0) -> TokenCorpus:
    """Document d has the tokens 1000·d, 1000·d + 1, ...: every token says where it is from."""
    offsets = np.cumsum([0, *sizes])
    ids = np.concatenate([1000 * d + np.arange(size) for d, size in enumerate(sizes)]).astype(np.uint32)
    weights = np.ones(len(ids), np.float32)
    for d, size in enumerate(sizes):
        weights[offsets[d] : offsets[d] + min(size, 1 + (prompt if d in samples else 0))] = 0
    is_sample = np.isin(np.arange(len(sizes)), samples)
    keys = tuple(map(str, range(len(sizes))))
    return TokenCorpus(ids, weights, offsets.astype(np.int64), keys, is_sample, np.ones(100_000, np.uint16))


def learned(batches, steps: int) -> list[int]:
    """Every counted target that the first so many steps see."""
    return [
        int(token) for batch in itertools.islice(batches.from_step(0), steps) for token in batch.targets[batch.counted]
    ]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 50), min_size=1, max_size=20), st.integers(2, 16), st.booleans(), st.integers(0, 5))
def test_an_epoch_predicts_every_token_once(sizes, length, pack, seed):
    corpus = corpus_of(sizes)
    if not (corpus.weights > 0).any():
        return
    batches = PackedBatches(corpus, length, 1, seed, pack)
    expected = corpus.ids[corpus.weights > 0].tolist()
    assert sorted(learned(batches, batches.rows_per_epoch)) == expected


@pytest.mark.parametrize("pack", [True, False])
def test_each_prediction_is_of_the_next_token_of_its_own_document(pack):
    batches = PackedBatches(corpus_of(SIZES), 16, 4, seed=1, pack=pack)
    for batch in itertools.islice(batches.from_step(0), 5):
        counted = batch.counted
        assert torch.equal(batch.targets[counted], batch.inputs[counted] + 1)
        assert torch.equal(batch.documents[counted], batch.inputs[counted] // 1000)


def test_positions_start_again_with_every_context_and_with_padding():
    batch = next(PackedBatches(corpus_of([6, 4]), 16, 1, seed=0).from_step(0))
    assert batch.positions[0].tolist() in ([*range(5), *range(3), *range(8)], [*range(3), *range(5), *range(8)])
    assert (batch.documents[0, 8:] == -1).all()
    assert (batch.weights[0, 8:] == 0).all()


def test_the_batch_of_a_step_is_a_function_of_the_step():
    first, second = (PackedBatches(corpus_of(SIZES), 16, 3, seed=7) for _ in range(2))
    straight = list(itertools.islice(first.from_step(0), 12))
    for step in (11, 4, 0):
        batch = next(second.from_step(step))
        assert torch.equal(batch.inputs, straight[step].inputs)
        assert torch.equal(batch.weights, straight[step].weights)


def test_seeds_and_epochs_have_orders_of_their_own():
    one, other = (PackedBatches(corpus_of(SIZES), 16, 1, seed=seed) for seed in (0, 1))
    epoch = one.rows_per_epoch
    assert learned(one, epoch) != learned(other, other.rows_per_epoch)
    two_epochs = learned(one, 2 * epoch)
    assert two_epochs[: len(two_epochs) // 2] != two_epochs[len(two_epochs) // 2 :]


def test_packing_leaves_little_padding():
    draw = np.random.default_rng(0)
    sizes = draw.integers(2, 200, 400).tolist()
    packed = PackedBatches(corpus_of(sizes), 256, 4).report
    alone = PackedBatches(corpus_of(sizes), 256, 4, pack=False).report
    assert packed.padding_share < 0.03
    assert alone.padding_share > 0.5
    assert packed.counted_tokens == alone.counted_tokens == sum(sizes) - len(sizes)


def test_a_sample_longer_than_the_context_is_cut_and_counted():
    batches = PackedBatches(corpus_of([30, 10], samples=(0, 1), prompt=4), 16, 1)
    report = batches.report
    assert report.samples_cut == 1
    assert report.tokens_lost == 30 - 1 - 16
    assert max(learned(batches, 5)) == 1009
    assert 16 in learned(batches, 5)
    assert 17 not in learned(batches, 5)


def test_prompts_that_fill_the_context_are_refused():
    corpus = corpus_of([30, 40], samples=(0, 1), prompt=25)
    with pytest.raises(DataError, match=r"none of|no prediction that counts is among the first 16"):
        PackedBatches(corpus, 16, 1)


def test_ordered_batches_predict_all_in_order():
    corpus = corpus_of(SIZES)
    found = [int(t) for batch in ordered_batches(corpus, length=16, rows=3) for t in batch.targets[batch.counted]]
    assert found == corpus.ids[corpus.weights > 0].tolist()
