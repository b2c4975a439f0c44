"""Labels of other tools come in as they were meant, and go out as a table that comes in again as the same."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import torch
from fake_labels import CONTEXT, TEACHER, TOKENS, corpus_of, labelled, manifest_of
from tiny_models import byte_tokenizer

from potstill.data import PackedBatches, TokenCorpus, tokenize
from potstill.errors import DataError, StoreError
from potstill.losses import ReverseKL, SoftLabelLoss
from potstill.soft_labels import (
    ForeignLabels,
    Manifest,
    Polynomial,
    Sampled,
    Store,
    TopK,
    begin_store,
    export_labels,
    import_labels,
)
from potstill.soft_labels.foreign import _token_of, tokens_by_text
from potstill.teachers import StoredTeacher

TOKENIZER = byte_tokenizer()
SIZE = len(TOKENIZER)
K = 8


def beliefs(num: int, *, seed: int) -> np.ndarray:
    """Log-probabilities [num, SIZE] of a teacher that knows what comes."""
    return torch.log_softmax(torch.from_numpy(np.random.default_rng(seed).normal(size=(num, SIZE)) * 3), -1).numpy()


def text_of(seed: int, logprobs: np.ndarray) -> list[int]:
    """Tokens that mostly are the likeliest of the prediction before them."""
    draw = np.random.default_rng(seed)
    best, other = logprobs.argmax(1), draw.integers(0, SIZE, len(logprobs))
    return [int(draw.integers(SIZE)), *np.where(draw.random(len(best)) < 0.8, best, other).tolist()]


def documents() -> list[tuple[list[int], np.ndarray]]:
    found = [beliefs(size, seed=size) for size in (50, 9, 33)]
    return [(text_of(number, logprobs), logprobs) for number, logprobs in enumerate(found)]


def likeliest(logprobs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    ids = np.argsort(-logprobs, axis=1)[:, :K]
    return ids, np.take_along_axis(logprobs, ids, 1)


def row_of(layout: str, ids: list[int], logprobs: np.ndarray) -> dict:
    top, values = likeliest(logprobs)
    match layout:
        case "columns":  # what is said after the last token is of no token here
            return {"input_ids": ids, "top_ids": [*top.tolist(), []], "top_logprobs": [*values.tolist(), []]}
        case "distillkit":
            return {"input_ids": ids, "token_ids": top.tolist(), "top_values": values.tolist()}
        case "axolotl":
            nothing = [[-float("inf")] * K]
            return {
                "input_ids": ids,
                "target_token_ids": [list(range(K)), *top.tolist()],
                "target_logprobs": nothing + values.tolist(),
            }
        case "axolotl, raw":
            entries = [
                [{"token": f"token_id:{t}", "logprob": v} for t, v in zip(some, of, strict=True)]
                for some, of in zip(top.tolist(), values.tolist(), strict=True)
            ]
            return {"input_ids": ids, "logprobs": entries}
        case "openai":
            content = [
                {
                    "token": f"token_id:{ids[place + 1]}",
                    "top_logprobs": [
                        {"token": f"token_id:{t}", "logprob": v} for t, v in zip(top[place], values[place], strict=True)
                    ],
                }
                for place in range(len(logprobs))
            ]
            return {"prompt": chr(ids[0] % 100 + 20), "choices": [{"logprobs": {"content": content}}]}
    raise AssertionError(layout)


def write(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row, default=int) + "\n" for row in rows).replace("-Infinity", "null"))
    return path


def brought_in(folder: Path, labels: ForeignLabels) -> tuple[Store, TokenCorpus]:
    corpus = tokenize(labels.documents(), TOKENIZER)
    manifest = Manifest(
        TopK(K), SIZE, "bytes", {"name": "t", "fingerprint": "", "dtype": ""}, 64, shard_tokens=55, page_tokens=16
    )
    begin_store(folder, manifest, corpus)
    for _ in import_labels(labels, corpus, folder):
        pass
    return Store(folder), corpus


@pytest.mark.parametrize("layout", ["columns", "distillkit", "axolotl", "axolotl, raw", "openai"])
def test_every_layout_says_the_same_of_the_same_predictions(tmp_path: Path, layout: str):
    source = write(tmp_path / "rows.jsonl", [row_of(layout, ids, logprobs) for ids, logprobs in documents()])
    store, corpus = brought_in(tmp_path / "store", ForeignLabels(str(source), TOKENIZER))
    assert len(store.shards) == 2
    teacher = StoredTeacher(store, corpus, tokenizer="bytes", measure=SoftLabelLoss(ReverseKL()))
    true = [logprobs for _, logprobs in documents()]
    for batch in [next(PackedBatches(corpus, 64, 4, seed=3).from_step(step)) for step in range(2)]:
        targets = teacher.label(batch)
        places = batch.documents[batch.counted].tolist(), batch.offsets[batch.counted].tolist()
        for row, (document, offset) in enumerate(zip(*places, strict=True)):
            # The prompt of an answer has its own tokens in front.
            first = len(corpus.document(document)[0]) - 1 - len(true[document])
            expected = np.exp(true[document][offset - first])
            ids = targets.ids[row].numpy()
            assert set(ids) == set(np.argsort(-expected)[:K])
            assert np.allclose(targets.probs[row].numpy(), expected[ids], rtol=1 / 32)
            assert abs(float(targets.rest[row]) - (1 - expected[ids].sum())) < 1e-5


def test_what_goes_out_comes_in_as_the_same(tmp_path: Path):
    source = write(tmp_path / "rows.jsonl", [row_of("columns", ids, logprobs) for ids, logprobs in documents()])
    store, corpus = brought_in(tmp_path / "store", ForeignLabels(str(source), TOKENIZER))
    assert [*export_labels(store, corpus, tmp_path / "out.parquet")][-1] == 3
    again, same = brought_in(tmp_path / "again", ForeignLabels(str(tmp_path / "out.parquet"), TOKENIZER))
    assert np.array_equal(corpus.ids, same.ids)
    shards = [np.full(store.shards[0].num_tokens, 0), np.arange(store.shards[0].num_tokens)]
    one, other = store.read(*shards, 1.0), again.read(*shards, 1.0)
    assert torch.equal(one.ids, other.ids)
    assert torch.allclose(one.probs, other.probs, atol=1e-6)


def test_samples_and_dense_labels_go_out_too(tmp_path: Path):
    corpus = corpus_of([20, 9, 30], samples=(1,))
    for codec in (Sampled(0.1), TopK(5)):
        store = labelled(tmp_path / codec.__class__.__name__, corpus, manifest_of(codec, context=64))
        path = tmp_path / "out.parquet"
        assert [*export_labels(store, corpus, path)] == [3]
        rows = pyarrow.parquet.read_table(path).to_pylist()
        for document, row in enumerate(rows):
            ids, weights = corpus.document(document)
            assert row["input_ids"] == ids.tolist()
            said = [bool(one) for one in row["top_ids"]]
            assert said == [*(weights[1:] > 0).tolist(), False]
            assert [label != -100 for label in row["labels"]] == (weights > 0).tolist()
            sums = [np.exp(one).sum() for one in row["top_logprobs"] if one]
            assert max(sums) < 1 + 1e-5
            if isinstance(codec, Sampled):
                assert np.allclose(sums, 1)
    assert TEACHER.num_tokens == TOKENS
    assert CONTEXT < 64


@pytest.mark.parametrize("shift", [-1, 1])
def test_labels_of_the_token_before_or_after_are_refused(tmp_path: Path, shift: int):
    rows = []
    for size in (150, 90):
        logprobs = beliefs(size, seed=size)
        row = row_of("columns", text_of(1, logprobs), logprobs)
        for name in ("top_ids", "top_logprobs"):
            row[name] = [row[name][(place + shift) % size] for place in range(size)] + [row[name][0]]
        rows.append(row)
    with pytest.raises(StoreError, match="misaligned"):
        brought_in(tmp_path / "store", ForeignLabels(str(write(tmp_path / "rows.jsonl", rows)), TOKENIZER))
    assert not Store(tmp_path / "store").shards


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"top_logprobs": [[1.0, 2.0]] * 10}, "not logits"),
        ({"top_logprobs": [[-1.0]] * 10}, "not as many"),
        ({"top_ids": [[]] * 10, "top_logprobs": [[]] * 10}, "9 of 9 predictions"),
        ({"top_ids": 3}, "instead of a list"),
        ({"labels": [1]}, "has 1 entries for 10 tokens"),
        ({"input_ids": [5.5] * 10}, "not a list of whole numbers"),
        ({"input_ids": [10**6] * 10}, "another tokenizer"),
    ],
)
def test_rows_that_can_not_be_are_named(tmp_path: Path, changes: dict, message: str):
    row = {"input_ids": [1] * 10, "top_ids": [[1, 2]] * 10, "top_logprobs": [[-1.0, -2.0]] * 10}
    source = write(tmp_path / "rows.jsonl", [row | changes])
    with pytest.raises(DataError, match=message):
        brought_in(tmp_path / "store", ForeignLabels(str(source), TOKENIZER))


def packed(values: np.ndarray, bits: int) -> np.ndarray:
    """The highest bit first, end to end, zeros behind. [rows, count] -> [rows, bytes]"""
    every = (values[..., None] >> np.arange(bits - 1, -1, -1)) & 1
    return np.packbits(every.reshape(len(values), -1).astype(np.uint8), axis=1)


@pytest.mark.parametrize("delta", [False, True])
def test_compressed_rows_are_read_bit_by_bit(tmp_path: Path, delta: bool):
    """Values that the layout can hold exactly come back exactly; written here as its description says."""
    settings = {
        "d": SIZE,
        "k": K,
        "exact_k": 3,
        "exact_dtype": "bfloat16",
        "polynomial_terms": [0, 1],
        "delta_encoding": delta,
    }
    settings["residual_bins"] = [{"scale_dtype": "float16", "element_bits": 3, "num_elements": 4}]
    draw = np.random.default_rng(0)
    rows, expected = [], []
    for size in (20, 7):
        exact = np.sort(-draw.integers(8, 40, (size, 3)) / 8.0, axis=1)[:, ::-1] - 2.0
        coefficients = np.stack([np.full(size, -9.0), -draw.integers(1, 9, size) / 4.0], 1).astype("<f4")
        levels = draw.integers(0, 8, (size, 4))
        rest = coefficients @ np.stack([np.ones(5), np.arange(5.0)])
        rest[:, :4] += (levels - 4) * 0.125
        values = np.concatenate([exact, rest], 1)
        ids = np.stack([draw.permutation(SIZE)[:K] for _ in range(size)])
        blobs = [
            (exact.astype("<f4").view("<u4") >> 16).astype("<u2").view(np.uint8),
            coefficients.view(np.uint8),
            np.full((size, 1), 0.125, "<f2").view(np.uint8),
            packed(levels, 3),
        ]
        rows.append(
            {
                "input_ids": draw.integers(0, SIZE, size).tolist(),
                "compressed_logprobs": np.concatenate(blobs, 1).tolist(),
                "bytepacked_indices": packed(ids, Polynomial.of(settings).index_bits).tolist(),
            }
        )
        expected.append((ids, values.cumsum(1) if delta else values))
    source = write(tmp_path / "rows.jsonl", rows)
    labels = ForeignLabels(str(source), TOKENIZER, compressor=Polynomial.of(settings))
    corpus = tokenize(labels.documents(), TOKENIZER)
    for (ids, values), (_, one) in zip(expected, labels.labels(corpus), strict=True):
        assert np.array_equal(np.stack(one.ids), ids)
        assert np.allclose(np.stack(one.logprobs), values, rtol=0, atol=1e-12)
    with pytest.raises(DataError, match="settings of their compressor"):
        list(ForeignLabels(str(source), TOKENIZER).labels(corpus))


def test_a_part_of_a_character_is_known_by_its_bytes_alone():
    """Read as text, all of them are the same: a guess would be another token's label."""
    known = tokens_by_text(TOKENIZER)
    [first, second] = TOKENIZER("é", add_special_tokens=False)["input_ids"]
    for part, token in zip("é".encode(), (first, second), strict=True):
        said = {"token": "\ufffd", "bytes": [part]}
        assert _token_of(said, known) == token
        assert _token_of({"token": "\ufffd"}, known) is None
    assert _token_of({"token": "a"}, known) == TOKENIZER("a", add_special_tokens=False)["input_ids"][0]
