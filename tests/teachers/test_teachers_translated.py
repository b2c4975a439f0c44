"""A teacher of another tokenizer: what it marks is what it believes of the same text, however the batch is cut."""

from __future__ import annotations

import pytest
import torch
from foreign_tokenizers import pocket, sentencepiece
from tiny_models import batch_of, byte_tokenizer, tiny_model
from transformers import LlamaConfig, LlamaForCausalLM

from potstill.data import Document, PackedBatches, Part, TokenCorpus, ordered_batches, tokenize
from potstill.errors import ModelError
from potstill.evaluation import compare, measure
from potstill.losses import ForwardKL, MatchedTokens, SoftLabelLoss, SortedProbabilities, SpanLikelihood, TranslatedLoss
from potstill.teachers import LiveTeacher, TranslatedTeacher
from potstill.training import TrainingSettings, self_check, train
from potstill.types import Batch

TEXTS = ("the inn 🙂 in the aba\n", "naïve  Zürich\r\n\tthe end", "def f(x):\n    return x + 1\n", "東京 the")
LENGTH = 24


def model_of(size: int, seed: int = 0, longest: int = 64) -> LlamaForCausalLM:
    shape = {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "initializer_range": 0.3,
    }
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        ids = {"bos_token_id": 0, "eos_token_id": 0}
        return LlamaForCausalLM(LlamaConfig(vocab_size=size, max_position_embeddings=longest, **shape, **ids)).double()


def corpus_of(tokenizer, parts: tuple[Part, ...] | None = None) -> TokenCorpus:
    documents = [Document(str(n), parts or (Part(text, True),)) for n, text in enumerate(TEXTS)]
    return tokenize(documents, tokenizer)


def teacher_for(tokenizer, *, own=None, longest: int = 64, packs: bool = True) -> TranslatedTeacher:
    own = pocket() if own is None else own
    live = LiveTeacher(model_of(len(own), seed=1, longest=longest), size=len(own))
    return TranslatedTeacher(live, own, tokenizer, size=len(tokenizer), packs=packs)


def batches(corpus: TokenCorpus, *, pack: bool) -> Batch:
    return next(PackedBatches(corpus, LENGTH, 3 if pack else len(TEXTS) + 2, pack=pack).from_step(0))


@pytest.mark.parametrize("packs", [True, False])
@pytest.mark.parametrize("make", [pocket, byte_tokenizer, sentencepiece])
def test_with_the_students_own_tokenizer_it_is_the_live_teacher(make, packs: bool) -> None:
    tokenizer = make()
    batch = batches(corpus_of(tokenizer), pack=True)
    teacher = teacher_for(tokenizer, own=tokenizer, packs=packs)
    found, plain = teacher.label(batch), teacher.live.label(batch)
    marked = found.student_spans >= 0
    # A window that begins in the middle of a word may be cut otherwise; whatever is marked is marked alike.
    assert marked.float().mean() > 0.9
    one = torch.bincount(found.spans) == 1
    at = torch.stack([(found.spans == span).nonzero()[0, 0] for span in one.nonzero().flatten()])
    rows = torch.stack([(found.student_spans == span).nonzero()[0, 0] for span in one.nonzero().flatten()])
    is_first = batch.offsets[batch.counted][rows] < LENGTH
    torch.testing.assert_close(found.rows[at][is_first], plain.rows[rows][is_first], rtol=1e-6, atol=1e-8)
    assert torch.equal(found.tokens[at], batch.targets[batch.counted][rows])
    known = found.matches[found.matches >= 0]
    assert torch.equal(known, (found.matches >= 0).nonzero().flatten())


def test_equal_tokenizers_learn_as_from_the_live_teacher() -> None:
    tokenizer = byte_tokenizer()
    corpus = corpus_of(tokenizer)
    whole = corpus.beginnings(LENGTH, range(len(corpus)))
    teacher, students = teacher_for(tokenizer, own=tokenizer), []
    for marker, measure_of in (
        (teacher, TranslatedLoss(MatchedTokens(ForwardKL(), 2.0, unmatched=1.0), 0.7)),
        (teacher.live, SoftLabelLoss(ForwardKL(), 2.0, 0.7)),
    ):
        student = model_of(len(tokenizer))
        steps = list(train(student, marker, PackedBatches(whole, LENGTH, 3), measure_of, TrainingSettings(steps=2)))
        students.append((student.state_dict(), steps[-1].loss))
    assert students[0][1] == pytest.approx(students[1][1], rel=1e-6)
    for name, weights in students[0][0].items():
        torch.testing.assert_close(weights, students[1][0][name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("how", [SortedProbabilities(), SpanLikelihood(), MatchedTokens(unmatched=0.5)], ids=str)
@pytest.mark.parametrize("make", [byte_tokenizer, sentencepiece])
def test_packing_padding_and_micro_batches_change_nothing(make, how) -> None:
    tokenizer = make()
    corpus = corpus_of(tokenizer).beginnings(LENGTH, range(len(TEXTS)))
    found = []
    for pack, micro_rows in ((False, None), (True, None), (True, 1)):
        rows = PackedBatches(corpus, LENGTH * (1 + pack), 1, pack=pack).rows_per_epoch
        student, text = model_of(len(tokenizer)), PackedBatches(corpus, LENGTH * (1 + pack), rows, pack=pack)
        settings = TrainingSettings(steps=1, micro_rows=micro_rows)
        (step,) = train(student, teacher_for(tokenizer), text, TranslatedLoss(how, 0.6), settings)
        found.append((step, student.state_dict()))
    for step, _ in found[1:]:
        assert step.parts == pytest.approx(found[0][0].parts, rel=1e-6)
        assert step.gradient_norm == pytest.approx(found[0][0].gradient_norm, rel=1e-6)


def test_prompts_are_read_and_not_marked() -> None:
    tokenizer = sentencepiece()
    parts = (Part("the question ", False), Part("in the answer", True))
    batch = next(ordered_batches(corpus_of(tokenizer, parts), length=LENGTH, rows=4))
    found = teacher_for(tokenizer).label(batch)
    assert len(found.student_spans) == int(batch.counted.sum())
    said = b"".join(pocket().decode([token]).encode() for token in found.tokens[: len(found.tokens) // 4])
    assert said.strip() == b"in the answer<|endoftext|>"


def test_it_reads_no_further_than_its_context_is_long() -> None:
    tokenizer = byte_tokenizer()
    teacher = teacher_for(sentencepiece(), own=tokenizer, longest=8)
    batch = next(ordered_batches(corpus_of(sentencepiece()), length=LENGTH, rows=4))
    assert 0 < teacher.coverage(batch).marked < 0.5
    assert teacher.label(batch).rows.isfinite().all()


def test_coverage_counts_what_is_marked() -> None:
    tokenizer = byte_tokenizer()
    teacher = teacher_for(tokenizer)
    batch = next(ordered_batches(corpus_of(tokenizer), length=LENGTH, rows=8))
    found, coverage = teacher.label(batch), teacher.coverage(batch)
    assert coverage.marked == pytest.approx((found.student_spans >= 0).float().mean().item())
    ours, theirs = torch.bincount(found.student_spans[found.student_spans >= 0]), torch.bincount(found.spans)
    assert coverage.one_to_one == pytest.approx(((ours == 1) & (theirs == 1)).sum().item() / len(found.student_spans))
    assert coverage.teacher_tokens == pytest.approx(len(found.spans) / int(ours.sum()))
    assert coverage.shared_tokens == pytest.approx(1.0)


def test_nothing_that_counts_is_marked_by_nobody() -> None:
    batch = batch_of([[3, 4, 5]], [[0.0, 0.0, 0.0]])
    found = teacher_for(byte_tokenizer()).label(batch)
    assert len(found.rows) == len(found.student_spans) == 0


def test_an_encoder_is_refused() -> None:
    from tiny_encoders import tiny_encoder

    with pytest.raises(ModelError, match="only causal language models"):
        TranslatedTeacher(LiveTeacher(tiny_encoder("bert", task="masked"), size=5), pocket(), pocket(), size=5)


def test_before_the_first_step_the_loss_is_looked_at() -> None:
    tokenizer = byte_tokenizer()
    batch = batches(corpus_of(tokenizer), pack=True)
    student, measure_of = model_of(len(tokenizer)), TranslatedLoss(SpanLikelihood(), 0.5)
    found = self_check(student, teacher_for(tokenizer), batch, measure_of, dtype=torch.float32)
    assert set(found.terms) == {"soft", "hard"}
    assert found.own_loss is None


@pytest.mark.parametrize("make", [byte_tokenizer, sentencepiece])
def test_models_of_two_tokenizers_are_compared_over_the_same_bytes(make) -> None:
    tokenizer = make()
    teacher = teacher_for(tokenizer)
    ours, theirs = teacher.retold(corpus_of(tokenizer))
    assert ours.num_bytes.tolist() == theirs.num_bytes.tolist()
    sizes = [len(text.encode()) for text in TEXTS]
    assert all(size - 5 <= found <= size for size, found in zip(sizes, ours.num_bytes, strict=True))
    of_teacher = measure(teacher.live.model, theirs, length=LENGTH)
    of_student = measure(model_of(len(tokenizer)), ours, length=LENGTH)
    of_other = measure(model_of(len(tokenizer), seed=5), ours, length=LENGTH)
    rows = compare({"teacher": of_teacher, "hard_labels": of_other, "distilled": of_student})
    assert [set(row.kept) for row in rows] == [set(), {"bits_per_byte"}, {"bits_per_byte"}]
    assert set(rows[0].scores) == {"bits_per_byte"}
    assert {"perplexity", "accuracy"} <= set(rows[2].scores)
    assert {"perplexity", "accuracy"} <= set(rows[1].distilled_minus_this)
    expected = of_teacher.nll.sum() / of_student.nll.sum()
    assert rows[2].kept["bits_per_byte"].value == pytest.approx(expected)


def test_a_families_name_is_no_hindrance() -> None:
    teacher = LiveTeacher(tiny_model("gpt2"), size=61)
    assert TranslatedTeacher(teacher, byte_tokenizer(), pocket(), size=4096).longest == 64
