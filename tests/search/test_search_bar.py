"""Whether "meets the bar" is true as often as it says."""

import math

import numpy as np
import pytest

from potstill.errors import DataError
from potstill.evaluation import Measurement
from potstill.search import Bar, Evidence, documents_needed, judge, margin
from potstill.search.bar import expanded_tail, retained


def evidence(tokens, hits, nll=None, agreements=None, unigram=None, answers=None) -> Evidence:
    tokens, hits = np.asarray(tokens, float), np.asarray(hits, float)
    nothing, bins = np.zeros(len(tokens)), np.zeros((len(tokens), 15))
    nll = 2.0 * tokens if nll is None else np.asarray(nll, float)
    agreements = np.full(len(tokens), np.nan) if agreements is None else np.asarray(agreements, float)
    text = Measurement(tokens, 3 * tokens, nll, hits, nothing, agreements, bins, bins, bins)
    return Evidence(text, 5.0 * tokens if unigram is None else unigram, answers or {})


def simulated(generator: np.random.Generator, documents: int, kept: float) -> tuple[Evidence, Evidence]:
    """(student, teacher) on documents of which some are harder; the student truly keeps this share of the teacher's accuracy."""
    tokens = generator.integers(50, 400, documents).astype(float)
    easy = generator.beta(6, 6, documents)
    teacher = generator.binomial(tokens.astype(int), easy)
    # Some documents suit the student better than others; on average, it keeps `kept`.
    share = np.clip(kept + generator.normal(0, 0.05, documents), 0, 1)
    student = generator.binomial(tokens.astype(int), easy * share)
    return evidence(tokens, student), evidence(tokens, teacher)


@pytest.mark.parametrize("documents", [25, 100])
def test_a_student_that_truly_misses_is_seldom_said_to_meet(documents: int) -> None:
    """A student exactly at the bar is the hardest case: at most 5 % of claims, whatever the number of documents."""
    generator = np.random.default_rng(documents)
    claims = sum(judge(Bar("accuracy", 0.88), *simulated(generator, documents, 0.88)).holds for _ in range(400))
    assert claims / 400 <= 0.05


def test_looking_at_several_does_not_make_more_false_claims() -> None:
    generator = np.random.default_rng(3)
    wrong = 0
    for _ in range(200):
        wrong += any(judge(Bar("accuracy", 0.88), *simulated(generator, 60, 0.88), looks=3).holds for _ in range(3))
    assert wrong / 200 <= 0.05


def test_a_student_well_above_is_said_to_meet() -> None:
    generator = np.random.default_rng(1)
    claims = sum(judge(Bar("accuracy", 0.90), *simulated(generator, 200, 0.97)).holds for _ in range(50))
    assert claims >= 48


def test_the_teacher_itself_keeps_everything() -> None:
    generator = np.random.default_rng(1)
    _, teacher = simulated(generator, 50, 1.0)
    for bar in (Bar("accuracy", 0.999), Bar("bits", 0.999)):
        verdict = judge(bar, teacher, teacher)
        assert verdict.holds
        assert verdict.value == verdict.low == verdict.high == 1.0


def test_bits_are_a_share_of_the_gap_to_token_frequencies() -> None:
    """A student halfway between teacher and unigram model keeps half, and one as bad as the unigram model nothing."""
    tokens = np.full(30, 100.0)
    teacher = evidence(tokens, tokens / 2, nll=2 * tokens)
    for nll, kept in ((3.5, 0.5), (5.0, 0.0), (2.0, 1.0)):
        found = judge(Bar("bits", 0.4), evidence(tokens, tokens / 2, nll=nll * tokens), teacher)
        assert found.value == pytest.approx(kept)
        assert found.holds == (kept > 0.4)
    absolute = Bar("bits", 2.0, absolute=True)
    assert judge(absolute, evidence(tokens, tokens, nll=3 * tokens), teacher).value == pytest.approx(1 / math.log(2))
    assert judge(absolute, evidence(tokens, tokens, nll=3 * tokens), teacher).holds
    assert not judge(absolute, evidence(tokens, tokens, nll=5 * tokens), teacher).holds


def test_questions_of_ones_own() -> None:
    tokens = np.full(30, 100.0)
    teacher = evidence(tokens, tokens, answers={"mine": np.ones(200)})
    good, bad = (
        evidence(tokens, tokens, answers={"mine": (np.arange(200) % 20 >= wrong).astype(float)}) for wrong in (1, 6)
    )
    assert judge(Bar("mine", 0.85), good, teacher).holds
    assert not judge(Bar("mine", 0.85), bad, teacher).holds
    with pytest.raises(DataError, match="choose among accuracy, bits, agreement, mine"):
        judge(Bar("yours", 0.9), good, teacher)


def test_one_document_says_nothing() -> None:
    one = evidence([100.0], [90.0])
    assert not judge(Bar("accuracy", 0.1), one, one).holds


def test_the_interval_is_wider_for_more_looks_and_fewer_documents() -> None:
    generator = np.random.default_rng(1)
    student, teacher = simulated(generator, 100, 0.95)
    one, three = (judge(Bar("accuracy", 0.9), student, teacher, looks=looks) for looks in (1, 3))
    assert three.low < one.low < one.value == three.value < one.high < three.high
    assert expanded_tail(0.025, 20) < expanded_tail(0.025, 200) < 0.025
    # Student's t with 19 degrees of freedom: 2.0930; Phi(-sqrt(20/19) 2.0930) = 0.01587.
    assert expanded_tail(0.025, 20) == pytest.approx(0.01587, abs=1e-4)


def test_how_many_documents_a_claim_needs() -> None:
    """With as many as it says, the claim is made about as often as it says."""
    generator = np.random.default_rng(5)
    errors = [retained(Bar("accuracy", 0.86), *simulated(generator, 100, 0.88)).error for _ in range(20)]
    needed = documents_needed(float(np.mean(errors)), 100, 0.02, looks=1, power=0.8)
    claims = sum(judge(Bar("accuracy", 0.86), *simulated(generator, needed, 0.88)).holds for _ in range(200))
    assert 0.7 <= claims / 200 <= 0.9
    assert margin(0.01, looks=1) == pytest.approx(0.0196, abs=1e-4)


def test_a_bar_in_words() -> None:
    assert str(Bar("accuracy", 0.95)) == "at least 95% of the teacher's next-token accuracy"
    assert str(Bar("bits", 1.2, absolute=True)) == "at most 1.2 bits per byte"
    assert str(Bar("mine", 0.9)) == "at least 90% of the teacher's score on mine"


def test_few_questions_prove_little() -> None:
    """Student and teacher agree on all of 10: by luck one student in two that misses the bar does. On 200 it is no luck."""
    tokens = np.full(30, 100.0)
    few, many = (evidence(tokens, tokens, answers={"mine": np.ones(n)}) for n in (10, 200))
    assert not judge(Bar("mine", 0.95), few, few, looks=3).holds
    assert judge(Bar("mine", 0.95), many, many, looks=3).holds
    generator = np.random.default_rng(0)
    for n in (20, 100):
        wrong = 0
        teacher = evidence(tokens, tokens, answers={"mine": np.ones(n)})
        for _ in range(100):
            answers = (generator.random(n) < 0.9).astype(float)
            wrong += judge(Bar("mine", 0.9), evidence(tokens, tokens, answers={"mine": answers}), teacher).holds
        assert wrong / 100 <= 0.05


def test_few_documents_prove_nothing() -> None:
    generator = np.random.default_rng(0)
    student, teacher = simulated(generator, 6, 1.0)
    assert not judge(Bar("accuracy", 0.5), student, teacher).holds
