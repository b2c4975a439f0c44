"""Encoders through the same door: logits from rows and head are the model's own, padded and alone, masked and classified."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_encoders import CLASSES, ENCODERS, WORDS, tiny_encoder, word_tokenizer
from transformers import AutoModelForSequenceClassification, LlamaConfig

from potstill.data import ClassBatches, Document, MaskedBatches, Masking, Part, masked_in_order, tokenize
from potstill.errors import DataError
from potstill.evaluation import measure
from potstill.models import check_head, hidden_states, task_of
from potstill.students import copy_layers, measure_importance


def corpus_of(count: int, *, labelled: bool = False):
    draw = np.random.default_rng(0)
    documents = []
    for number in range(count):
        text = " ".join(draw.choice(WORDS, draw.integers(3, 20)))
        label = CLASSES[number % 3] if labelled else None
        documents.append(Document(str(number), (Part(text, True),), label=label))
    classes = {name: i for i, name in enumerate(CLASSES)} if labelled else None
    return tokenize(documents, word_tokenizer(), classes=classes)


@pytest.mark.parametrize("family", ENCODERS)
def test_hidden_tokens_are_predicted_as_by_the_model_itself(family: str):
    model = tiny_encoder(family)
    check_head(model)
    masking = Masking.of(word_tokenizer())
    batch = next(MaskedBatches(corpus_of(9), 12, 4, masking).from_step(0))
    with torch.no_grad():
        states = hidden_states(model, batch, layers=(1, 3))
        whole = model(input_ids=batch.inputs, attention_mask=(batch.documents >= 0).long(), output_hidden_states=True)
    torch.testing.assert_close(states.head.logits(states.rows), whole.logits[batch.counted], rtol=1e-4, atol=1e-4)
    is_text = batch.documents >= 0
    torch.testing.assert_close(states.layers[1], whole.hidden_states[2][is_text])
    torch.testing.assert_close(states.layers[3], model.base_model(batch.inputs, is_text.long())[0][is_text])
    # Alone, without padding, a row says the same.
    row = int((~is_text).sum(1).argmax())
    size = int(is_text[row].sum())
    assert size < batch.inputs.shape[1]
    with torch.no_grad():
        alone = model(input_ids=batch.inputs[row : row + 1, :size]).logits[0][batch.counted[row, :size]]
        found = states.head.logits(states.rows)[batch.counted.nonzero()[:, 0] == row]
    torch.testing.assert_close(found, alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", [*ENCODERS, "llama"])
def test_classes_are_predicted_as_by_the_model_itself(family: str):
    if family == "llama":
        shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
        config = LlamaConfig(vocab_size=60, num_labels=3, pad_token_id=0, **shape)
        model = AutoModelForSequenceClassification.from_config(config).eval()
    else:
        model = tiny_encoder(family, task="classes")
    assert task_of(model) == "classes"
    check_head(model)
    corpus = corpus_of(7, labelled=True)
    batch = next(ClassBatches(corpus, 10, 7).from_step(0))
    with torch.no_grad():
        states = hidden_states(model, batch)
        whole = model(input_ids=batch.inputs, attention_mask=(batch.documents >= 0).long()).logits
    torch.testing.assert_close(states.head.logits(states.rows), whole, rtol=1e-4, atol=1e-4)
    labels = corpus.labels[batch.documents.max(1).values.numpy()]
    assert batch.targets[batch.counted].tolist() == labels.tolist()
    assert (batch.inputs[:, 0] == 2).all()
    ends = (batch.documents >= 0).sum(1) - 1
    assert (batch.inputs[torch.arange(7), ends] == 3).all()  # what closes a text stays where it is cut


def test_what_is_hidden_follows_the_step_alone():
    masking, corpus = Masking.of(word_tokenizer()), corpus_of(20)
    batches = MaskedBatches(corpus, 12, 4, masking, seed=3)
    late = next(batches.from_step(7))
    stream = batches.from_step(0)
    for _ in range(7):
        next(stream)
    again = next(stream)
    assert torch.equal(late.inputs, again.inputs)
    assert torch.equal(late.weights, again.weights)
    assert not torch.equal(next(stream).weights, again.weights)


def test_hidden_are_fifteen_of_a_hundred_and_never_the_special_ones():
    masking, draw = Masking.of(word_tokenizer()), np.random.default_rng(0)
    ids = np.concatenate([[2], np.tile(np.arange(5, 60), 40), [3]])
    read, is_hidden = masking.hide(ids, draw)
    share = is_hidden.mean()
    assert share == pytest.approx(0.15, abs=0.001)
    assert not is_hidden[[0, -1]].any()
    assert (read[~is_hidden] == ids[~is_hidden]).all()
    fates = [(read[is_hidden] == 4).mean(), (read[is_hidden] == ids[is_hidden]).mean()]
    assert fates == pytest.approx([0.8, 0.1], abs=0.06)
    assert (read[is_hidden] > 3).all()


def test_every_text_is_read_once_in_an_epoch_and_short_ones_too():
    corpus, masking = corpus_of(11), Masking.of(word_tokenizer())
    tokens = 0
    for batch in masked_in_order(corpus, masking, length=8, rows=3):
        tokens += int(((batch.targets > 4) & (batch.documents >= 0)).sum())
        assert batch.inputs.shape[1] <= 8
        assert (batch.weights.sum(1) >= 1).all()
    assert tokens == int((corpus.ids > 4).sum())


def test_a_measurement_is_the_same_whatever_the_rows():
    model, corpus, masking = tiny_encoder("bert"), corpus_of(11), Masking.of(word_tokenizer())
    one, other = (measure(model, corpus, length=12, rows=rows, masking=masking) for rows in (1, 5))
    np.testing.assert_allclose(one.nll, other.nll, rtol=1e-5)
    assert one.tokens.sum() > 11
    classifier, labelled = tiny_encoder("bert", task="classes"), corpus_of(11, labelled=True)
    found = measure(classifier, labelled, length=12, rows=4)
    assert found.tokens.tolist() == [1] * 11
    assert not found.bytes.any()
    with pytest.raises(DataError, match="no class"):
        measure(classifier, corpus, length=12)


@pytest.mark.parametrize("family", ENCODERS)
@pytest.mark.parametrize("task", ["masked", "classes"])
def test_layers_are_copied_and_neurons_scored(family: str, task: str):
    model = tiny_encoder(family, task=task)
    layers = (0, 3) if family == "modernbert" else (0, 1, 3)
    student, lineage = copy_layers(model, layers)
    assert type(student) is type(model)
    assert (student.config.num_hidden_layers, lineage.layers) == (len(layers), layers)
    same, _ = copy_layers(model, range(4))
    tokens = torch.tensor([[2, 9, 14, 30, 3]])
    with torch.no_grad():
        assert torch.equal(same(tokens).logits, model(tokens).logits)
    if task == "masked":
        scores = measure_importance(model, corpus_of(5), length=12)
        assert scores.ffn.shape[0] == 4
        assert scores.ffn.min() >= 0
