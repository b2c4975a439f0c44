"""Next tokens of a text as queries: right or not, and how sure, are what one forward pass over each document says."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_job import tiny_llama

from potstill.data import TokenCorpus
from potstill.errors import DataError
from potstill.routing.calibration import Asked, calibrate
from potstill.routing.places import scored_places

SIZES, VOCABULARY = (30, 50, 9), 40


def corpus(domains: tuple[str, ...] = ("a", "b", "a")) -> TokenCorpus:
    ids = np.random.default_rng(0).integers(0, VOCABULARY, sum(SIZES)).astype(np.uint32)
    offsets = np.cumsum([0, *SIZES])
    weights = np.ones(len(ids), np.float32)
    weights[offsets[:-1]] = 0
    return TokenCorpus(
        ids,
        weights,
        offsets.astype(np.int64),
        ("x", "y", "z"),
        np.zeros(3, bool),
        np.ones(VOCABULARY, np.uint16),
        domains=domains,
    )


def models():
    return tiny_llama(0).eval(), tiny_llama(1).eval()


def test_places_are_what_a_forward_pass_says():
    student, teacher = models()
    text = corpus()
    found = scored_places(student, teacher, text, length=64, size=VOCABULARY)
    ours, theirs, logprobs, domains = [], [], [], []
    for at, name in enumerate(("a", "b", "a")):
        ids = torch.from_numpy(text.ids[text.offsets[at] : text.offsets[at + 1]].astype(np.int64))[None]
        with torch.no_grad():
            q, p = (model(ids).logits[0, :-1, :VOCABULARY].log_softmax(-1) for model in (student, teacher))
        ours += (q.argmax(-1) == ids[0, 1:]).double().tolist()
        theirs += (p.argmax(-1) == ids[0, 1:]).double().tolist()
        logprobs += q.max(-1).values.tolist()
        domains += [name] * (ids.shape[1] - 1)
    assert found.student.tolist() == ours
    assert found.teacher.tolist() == theirs
    assert [one.mean_logprob for one in found.signals] == pytest.approx(logprobs, abs=1e-4)
    assert found.domains == tuple(domains)


def test_so_many_places_are_drawn_and_calibrated():
    student, teacher = models()
    every = scored_places(student, teacher, corpus(), length=16, size=VOCABULARY)
    some = scored_places(student, teacher, corpus(()), length=16, size=VOCABULARY, most=60)
    assert (len(every.student), len(some.student), set(some.domains)) == (86, 60, {""})
    assert some.fingerprint != every.fingerprint
    known = {one.mean_logprob for one in every.signals}
    assert all(min(abs(one.mean_logprob - other) for other in known) < 1e-4 for one in some.signals)
    right = replace(every, teacher=np.ones(86), student=np.tile([1.0, 0.0], 43))
    assert calibrate(right, Asked("token", "s", "t")).policy.calibration.answering == "token"


def test_too_little_text_is_refused():
    student, teacher = models()
    short = corpus().select(np.array([2]))
    with pytest.raises(DataError, match="8 places"):
        scored_places(student, teacher, short, length=16, size=VOCABULARY)
