"""What a label holds, against fp64 and against labels that were really drawn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from random_text import random_corpus
from tiny_models import VOCABULARY, tiny_model

from potstill.evaluation import LabelInformation, label_figures, label_information, measure
from potstill.teachers import LiveTeacher

CORPUS = random_corpus([9, 30, 2, 17], seed=3)


def drawn(seed: int, rows: int, tokens: int = 12) -> torch.Tensor:
    return torch.randn(rows, tokens, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).softmax(-1)


def summed(p: torch.Tensor, q: torch.Tensor) -> LabelInformation:
    figures = label_figures(p, p.argmax(1), q)
    return LabelInformation(**{name: values.sum()[None].numpy() for name, values in figures.items()})


def test_figures_are_the_formulas():
    p, q, tokens = drawn(0, 5), drawn(1, 5), torch.tensor([0, 3, 11, 3, 7])
    found = label_figures(p, tokens, q)
    for row in range(5):
        probs = p[row].tolist()
        assert found["entropy"][row].item() == pytest.approx(-sum(one * np.log(one) for one in probs))
        assert found["nll"][row].item() == pytest.approx(-np.log(probs[tokens[row]]))
        assert found["noise"][row].item() == pytest.approx(1 - sum(one**2 for one in probs))
        assert found["distance"][row].item() == pytest.approx(
            sum((a - b) ** 2 for a, b in zip(q[row].tolist(), probs, strict=True))
        )


def test_equivalents_are_what_drawn_labels_need():
    """So many labels a prediction, drawn from the teacher, leave a gradient of just this relative error."""
    p, q, error, rounds = drawn(2, 6), drawn(3, 6), 0.25, 400
    needed = summed(p, q).equivalents(error).value
    count = round(needed)
    draws = torch.multinomial(p, count * rounds, replacement=True, generator=torch.Generator().manual_seed(4))
    shares = torch.nn.functional.one_hot(draws.unflatten(1, (rounds, count)), p.shape[1]).double().mean(2)
    off = (p[:, None] - shares).square().sum((0, 2)).mean()
    found = (off / (q - p).square().sum()).sqrt().item()
    assert found == pytest.approx(error * (needed / count) ** 0.5, rel=0.03)


def test_equivalents_grow_as_the_student_comes_near():
    p, q = drawn(2, 6), drawn(3, 6)
    near = summed(p, 0.9 * p + 0.1 * q).equivalents().value
    assert near == pytest.approx(100 * summed(p, q).equivalents().value)
    assert summed(p, p).equivalents().value == np.inf


def test_a_calibrated_teacher_invents_nothing():
    p = drawn(5, 1)
    tokens = torch.multinomial(p[0], 200_000, replacement=True, generator=torch.Generator().manual_seed(6))
    sure = (3 * p.log()).softmax(-1)
    for said, gap in ((p, 0.0), (sure, 0.1)):
        figures = label_figures(said.expand(len(tokens), -1), tokens)
        found = (figures["nll"] - figures["entropy"]).mean().item()
        assert abs(found) < 0.01 if gap == 0 else found > gap


def test_a_text_is_asked_about_once_whatever_the_batches():
    teacher, student = tiny_model("llama"), tiny_model("llama", seed=1)
    live = LiveTeacher(teacher, size=VOCABULARY)
    every = [
        label_information(live, CORPUS, like=teacher, student=student, length=16, rows=rows) for rows in (1, 3, 16)
    ]
    of_measure = measure(teacher, CORPUS, length=16)
    for found in every:
        np.testing.assert_allclose(found.nll, of_measure.nll, rtol=1e-5)
        np.testing.assert_array_equal(found.tokens, of_measure.tokens)
        np.testing.assert_allclose(found.distance, every[0].distance, rtol=1e-4)
    alone = label_information(live, CORPUS, like=teacher, length=16)
    assert np.isnan(alone.distance).all()
    assert np.isnan(alone.equivalents().value)
    gap = alone.score("nll_bits").value - alone.score("entropy_bits").value
    assert alone.score("gap_bits").value == pytest.approx(gap)
    assert alone.score("noise").low < alone.score("noise").value < alone.score("noise").high
    itself = label_information(live, CORPUS, like=teacher, student=teacher, length=16)
    assert itself.distance.sum() == pytest.approx(0, abs=1e-8)


def test_it_is_kept(tmp_path: Path):
    found = summed(drawn(2, 6), drawn(3, 6))
    found.save(tmp_path / "x.npz")
    np.testing.assert_array_equal(LabelInformation.load(tmp_path / "x.npz").noise, found.noise)
