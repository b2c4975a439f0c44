from dataclasses import fields, replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from random_text import random_corpus
from tiny_models import FAMILIES, VOCABULARY, byte_tokenizer, tiny_model
from transformers import LlamaConfig, LlamaForCausalLM

from potstill.data import Document, Part, TokenCorpus, tokenize
from potstill.errors import DataError, ModelError, NotFiniteError, RunDirectoryError, VocabularyError
from potstill.evaluation import Measurement, measure, measuring, retention, score
from potstill.evaluation.scores import METRICS
from potstill.teachers import FakeTeacher, LiveTeacher
from potstill.types import Batch, Head, SparseTargets

LENGTH = 8
SIZES = [30, 1, 5, 0, 12, 17, 9]  # tokens; the fifth is a prompt with its answer, cut to one window


@pytest.fixture(scope="module")
def corpus() -> TokenCorpus:
    return random_corpus(SIZES, samples=[4])


@pytest.fixture(scope="module")
def student():
    return tiny_model("llama", spread=3.0)


@pytest.fixture(scope="module")
def teacher() -> LiveTeacher:
    return LiveTeacher(tiny_model("llama", seed=1, spread=3.0), size=VOCABULARY)


def windows(corpus: TokenCorpus, document: int, length: int):
    ids, weights = corpus.document(document)
    stop = length if corpus.is_sample[document] else max(0, len(ids) - 1)
    for start in range(0, stop, length):
        window = torch.tensor(ids[start : start + length + 1].astype(np.int64))
        if len(window) > 1:
            yield window, torch.tensor(weights[start + 1 : start + length + 1]) > 0


def reference(model, teacher_model, corpus: TokenCorpus, size: int, length: int = LENGTH) -> Measurement:
    """Window by window with whole logits in float64, each figure as its definition says."""
    names = [field.name for field in fields(Measurement)]
    sums = {name: np.zeros((len(corpus), 15) if name in names[-3:] else len(corpus)) for name in names}
    for d in range(len(corpus)):
        for window, counts in windows(corpus, d, length):
            with torch.no_grad():
                z = model(window[None, :-1]).logits[0, counts, :size].double()
                t = teacher_model(window[None, :-1]).logits[0, counts, :size].double()
            y = window[1:][counts]
            sums["tokens"][d] += len(y)
            sums["bytes"][d] += corpus.token_bytes[y.numpy()].sum()
            sums["nll"][d] += F.cross_entropy(z, y, reduction="sum").item()
            sums["hits"][d] += (z.argmax(-1) == y).sum().item()
            sums["kl"][d] += F.kl_div(z.log_softmax(-1), t.log_softmax(-1), reduction="sum", log_target=True).item()
            sums["agreements"][d] += (z.argmax(-1) == t.argmax(-1)).sum().item()
            for p, hit in zip(z.softmax(-1).amax(-1).tolist(), (z.argmax(-1) == y).tolist(), strict=True):
                k = next(k for k in range(15) if p < (k + 1) / 15 or k == 14)
                sums["confidence"][d, k] += p
                sums["right"][d, k] += hit
                sums["count"][d, k] += 1
    return Measurement(**sums)


def assert_same(found: Measurement, expected: Measurement, *, rtol: float = 1e-5) -> None:
    for field in fields(Measurement):
        np.testing.assert_allclose(
            getattr(found, field.name), getattr(expected, field.name), rtol=rtol, atol=rtol, err_msg=field.name
        )


@pytest.mark.parametrize("family", FAMILIES)
def test_it_is_the_reference_in_every_family(family, corpus):
    model, marker = tiny_model(family, spread=3.0), tiny_model(family, seed=1, spread=3.0)
    found = measure(model, corpus, length=LENGTH, rows=3, teacher=LiveTeacher(marker, size=VOCABULARY))
    assert found.nll.sum() > 100
    assert found.kl.sum() > 0.01
    assert_same(found, reference(model, marker, corpus, VOCABULARY))


def test_in_float64_it_is_the_reference_to_the_last_digits(student, teacher, corpus):
    model, marker = tiny_model("llama", spread=3.0).double(), tiny_model("llama", seed=1, spread=3.0).double()
    found = measure(model, corpus, length=LENGTH, teacher=LiveTeacher(marker, size=VOCABULARY))
    assert_same(found, reference(model, marker, corpus, VOCABULARY), rtol=1e-11)


def test_tokens_beyond_the_shared_vocabulary_get_no_probability(student, teacher):
    corpus = random_corpus(SIZES, tokens=50)
    found = measure(student, corpus, length=LENGTH, teacher=LiveTeacher(teacher.model, size=50), size=50)
    assert_same(found, reference(student, teacher.model, corpus, 50))
    assert found.nll.sum() < measure(student, corpus, length=LENGTH).nll.sum()


def test_a_document_in_windows_is_one_document(student, teacher, corpus):
    """Windows of one document are summed, and what isn't predicted (prompts, too long a sample) has neither token nor byte."""
    found = measure(student, corpus, length=LENGTH, teacher=teacher)
    assert len(found) == len(SIZES)
    expected = [(corpus.document(d)[1][1 : (LENGTH + 1 if d == 4 else None)] > 0).sum() for d in range(len(SIZES))]
    assert found.tokens.tolist() == expected
    assert found.count.sum(1).tolist() == expected
    assert [found.tokens[d] for d in (1, 3)] == [0, 0]


def test_a_sample_cut_short_has_the_bytes_of_what_was_predicted(student):
    corpus = random_corpus([40], samples=[0])
    kept = corpus.beginnings(LENGTH, [0])
    found = measure(student, corpus, length=LENGTH)
    assert found.bytes[0] == kept.num_bytes[0] < corpus.num_bytes[0]
    bits = score(found, "bits_per_byte").value
    assert bits == pytest.approx(found.nll[0] / np.log(2) / kept.num_bytes[0])


def test_bytes_are_those_of_the_text():
    texts = ["naïve café", "plain", "日本語"]
    tokenizer = byte_tokenizer()
    corpus = tokenize((Document(text, (Part(text, True),)) for text in texts), tokenizer)
    config = LlamaConfig(
        vocab_size=257,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        bos_token_id=1,
        eos_token_id=2,
    )
    found = measure(LlamaForCausalLM(config), corpus, length=LENGTH)
    # Nothing stands before the first byte, so it isn't predicted; the end-of-text token is predicted and has no text.
    assert found.bytes.tolist() == [len(text.encode()) - 1 for text in texts]
    assert found.tokens.tolist() == [len(text.encode()) for text in texts]


@pytest.mark.parametrize("rows", [1, 2, 5, 64])
def test_the_number_of_rows_changes_nothing(rows, student, teacher, corpus):
    expected = measure(student, corpus, length=LENGTH, rows=3, teacher=teacher)
    assert_same(measure(student, corpus, length=LENGTH, rows=rows, teacher=teacher), expected)


def test_the_order_of_documents_changes_nothing(student, teacher, corpus):
    """Beside other documents a window has another width of padding."""
    order = [5, 2, 0, 6, 1, 4, 3]
    whole = measure(student, corpus, length=LENGTH, rows=3, teacher=teacher)
    other = measure(student, corpus.select(order), length=LENGTH, rows=3, teacher=teacher)
    assert_same(other, Measurement(*(getattr(whole, field.name)[order] for field in fields(Measurement))))


@pytest.mark.parametrize("chunk", [1, 7, 10_000])
def test_the_chunk_changes_nothing_and_bounds_the_logits(chunk, student, teacher, corpus, monkeypatch):
    expected = measure(student, corpus, length=LENGTH, rows=64, teacher=teacher)
    monkeypatch.setattr(measuring, "_CHUNK_BYTES", {"cpu": chunk * 4 * VOCABULARY})
    monkeypatch.setattr(measuring, "_LEAST_ROWS", 1)
    made, logits = [], Head.logits

    def watched(head, rows):
        made.append(len(rows))
        return logits(head, rows)

    monkeypatch.setattr(Head, "logits", watched)
    assert_same(measure(student, corpus, length=LENGTH, rows=64, teacher=teacher), expected)
    assert max(made) == min(chunk, expected.tokens.sum())
    assert sum(made) == 2 * expected.tokens.sum()


def test_the_teacher_beside_itself_is_itself(teacher, corpus):
    found = measure(teacher.model, corpus, length=LENGTH, teacher=teacher)
    assert score(found, "kl_to_teacher") == replace(score(found, "kl_to_teacher"), value=0.0, low=0.0, high=0.0)
    assert score(found, "agreement") == replace(score(found, "agreement"), value=1.0, low=1.0, high=1.0)
    again = measure(teacher.model, corpus, length=LENGTH, teacher=teacher)
    for metric in set(METRICS) - {"kl_to_teacher"}:
        kept = retention(again, found, metric)
        assert (kept.value, kept.low, kept.high) == (1.0, 1.0, 1.0)


def test_under_autocast_too(teacher, corpus):
    found = measure(teacher.model, corpus, length=LENGTH, teacher=teacher, dtype=torch.bfloat16)
    assert found.kl.tolist() == [0.0] * len(corpus)
    assert found.agreements.tolist() == found.tokens.tolist()


def test_dtype_is_autocasts(student, teacher, corpus):
    full = measure(student, corpus, length=LENGTH, teacher=teacher)
    half = measure(student, corpus, length=LENGTH, teacher=teacher, dtype=torch.bfloat16)
    assert half.nll.sum() != full.nll.sum()
    assert half.nll.sum() == pytest.approx(full.nll.sum(), rel=0.02)
    assert half.kl.sum() == pytest.approx(full.kl.sum(), rel=0.05)
    assert student.dtype == torch.float32


def test_without_a_teacher_the_rest_is_the_same(student, teacher, corpus):
    alone = measure(student, corpus, length=LENGTH)
    beside = measure(student, corpus, length=LENGTH, teacher=teacher)
    assert np.isnan(alone.kl).all()
    assert np.isnan(alone.agreements).all()
    assert (alone.has_teacher, beside.has_teacher) == (False, True)
    assert_same(replace(alone, kl=beside.kl, agreements=beside.agreements), beside, rtol=0)


def test_any_teacher_with_a_whole_distribution_will_do(student, corpus):
    fake = FakeTeacher(VOCABULARY, sharpness=1.0)
    found = measure(student, corpus, length=LENGTH, teacher=fake)
    states, weight = fake._tables
    opinions = (states @ weight.T).double().log_softmax(-1)
    kl = np.zeros(len(corpus))
    for d in range(len(corpus)):
        for window, counts in windows(corpus, d, LENGTH):
            with torch.no_grad():
                log_q = student(window[None, :-1]).logits[0, counts].double().log_softmax(-1)
            log_p = opinions[window[:-1][counts]]
            kl[d] += (log_p.exp() * (log_p - log_q)).sum().item()
    np.testing.assert_allclose(found.kl, kl, rtol=1e-5, atol=1e-6)


def test_a_few_probabilities_are_not_enough(student, corpus):
    class TopOne:
        num_tokens = VOCABULARY

        def label(self, batch: Batch) -> SparseTargets:
            ids = batch.targets[batch.counted][:, None]
            ones = torch.ones(ids.shape)
            return SparseTargets(ids, ones, torch.zeros(len(ids)))

    with pytest.raises(DataError, match="needs its whole distribution"):
        measure(student, corpus, length=LENGTH, teacher=TopOne())


def test_dropout_is_off_and_the_model_is_left_as_it_was(corpus):
    model = tiny_model("gpt2").train()  # has dropout
    model.transformer.h[1].eval()
    modes = [module.training for module in model.modules()]
    first, second = (measure(model, corpus, length=LENGTH) for _ in range(2))
    assert first.nll.tolist() == second.nll.tolist()
    assert [module.training for module in model.modules()] == modes
    assert not any(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.filterwarnings("error")
def test_predictions_that_are_no_numbers_are_located(corpus):
    model = tiny_model("llama").train()
    batches = []

    def damage(module, arguments, states):
        batches.append(states)
        if len(batches) == 3:  # one row a batch: the third window
            states[0, -1] = torch.nan
        return states

    model.model.norm.register_forward_hook(damage)
    full = replace(corpus, weights=np.ones_like(corpus.weights))
    with pytest.raises(NotFiniteError, match=r"first in document 0 \(text 0\)"):
        measure(model, full, length=LENGTH, rows=1)
    assert model.training


def test_vocabularies_that_do_not_fit_are_refused(student, teacher, corpus):
    with pytest.raises(VocabularyError, match=r"teacher gives 50 tokens a probability and the model 61: .* size = 50"):
        measure(student, corpus, length=LENGTH, teacher=LiveTeacher(teacher.model, size=50))
    with pytest.raises(VocabularyError, match="only the first 50 tokens get a probability"):
        measure(student, corpus, length=LENGTH, size=50)
    for size in (0, 62):
        with pytest.raises(ModelError, match=f"61 rows, so it can't predict {size} tokens"):
            measure(student, corpus, length=LENGTH, size=size)


def test_nothing_to_predict_is_refused(student):
    with pytest.raises(DataError, match="none of the 1 tokens"):
        measure(student, random_corpus([1]), length=LENGTH)


def test_a_measurement_is_saved_and_loaded(student, teacher, corpus, tmp_path):
    for found in (measure(student, corpus, length=LENGTH), measure(student, corpus, length=LENGTH, teacher=teacher)):
        found.save(tmp_path / "student.npz")
        loaded = Measurement.load(tmp_path / "student.npz")
        for field in fields(Measurement):
            np.testing.assert_array_equal(getattr(loaded, field.name), getattr(found, field.name))
            assert getattr(loaded, field.name).dtype == np.float64
    assert [file.name for file in tmp_path.iterdir()] == ["student.npz"]


@pytest.mark.parametrize("kept", [0, 100, -200])
def test_a_torn_file_is_no_measurement(kept, student, corpus, tmp_path):
    path = tmp_path / "torn.npz"
    measure(student, corpus, length=LENGTH).save(path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(DataError, match=r"torn\.npz holds no measurement .* delete it and run again"):
        Measurement.load(path)


def test_neither_is_a_missing_one_nor_one_with_other_arrays(tmp_path):
    with pytest.raises(DataError, match="holds no measurement"):
        Measurement.load(tmp_path / "missing.npz")
    np.savez(tmp_path / "other.npz", tokens=np.ones(3))
    with pytest.raises(DataError, match="holds no measurement"):
        Measurement.load(tmp_path / "other.npz")


def test_a_disk_that_is_full_leaves_what_was_there(student, corpus, tmp_path, monkeypatch):
    path = tmp_path / "student.npz"
    found = measure(student, corpus, length=LENGTH)
    found.save(path)

    def full(file, **arrays):
        file.write_bytes(b"half of i")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(RunDirectoryError, match="No space left on device"):
        found.save(path)
    assert [file.name for file in tmp_path.iterdir()] == ["student.npz"]
    assert Measurement.load(path).nll.tolist() == found.nll.tolist()
