"""What is expected of a draft is what happens: closed forms, replayed rounds against drawn ones, and real speculation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_job import tiny_llama

from potstill.drafts import (
    Rounds,
    Text,
    acceptance,
    expect,
    expect_independent,
    plainly,
    rate_of,
    speculate,
    written_by,
)
from potstill.errors import ModelError, VocabularyError

SIZE = 257


def pair(noise: float = 0.1):
    """(teacher, a student that is the teacher with noise on its weights)."""
    teacher, student = tiny_llama(), tiny_llama()
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter += noise * parameter.std().nan_to_num() * torch.randn_like(parameter)
    return teacher.eval(), student.eval()


def prompts(count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(3, SIZE, 5) for _ in range(count)]


def test_acceptance_is_one_less_the_total_variation():
    teacher, student = pair()
    text = Text(prompts(1)[0], np.array([7, 9, 11, 4]))
    ids = torch.tensor(np.concatenate([text.prompt, text.written]))[None]
    with torch.no_grad():
        p, q = ((model(ids).logits[0, 4:-1, :SIZE].double() / 0.7).softmax(-1) for model in (teacher, student))
    found = acceptance(teacher, student, text, temperature=0.7, size=SIZE)
    np.testing.assert_allclose(found, 1 - (p - q).abs().sum(-1).numpy() / 2, atol=1e-6)
    assert found.max() < 0.9999
    greedy = acceptance(teacher, student, text, temperature=0.0, size=SIZE)
    np.testing.assert_array_equal(greedy, (p.argmax(-1) == q.argmax(-1)).numpy())
    np.testing.assert_allclose(acceptance(teacher, teacher, text, temperature=0.7, size=SIZE), 1.0, atol=1e-12)


def test_the_replay_is_the_mean_of_drawn_rounds():
    rng = np.random.default_rng(0)
    a, length, draws = rng.random(17), 3, 20_000
    rounds = accepted = drafted = 0
    kept = np.zeros(length)
    for _ in range(draws):
        t = 0
        while t < len(a):
            some = min(length, len(a) - t - 1)
            taken = 0
            while taken < some and rng.random() < a[t + taken]:
                taken += 1
            rounds, accepted, drafted = rounds + 1, accepted + taken, drafted + some
            kept[:taken] += 1
            t += taken + 1
    found = expect([a], length)
    assert found.mean_acceptance_length == pytest.approx(1 + accepted / rounds, rel=0.01)
    assert found.draft_acceptance_rate == pytest.approx(accepted / drafted, rel=0.01)


def test_equal_probabilities_give_the_textbook():
    found, textbook = expect([np.full(20_000, 0.6)], 4), expect_independent(0.6, 4)
    assert textbook.mean_acceptance_length == pytest.approx((1 - 0.6**5) / (1 - 0.6))
    assert found.mean_acceptance_length == pytest.approx(textbook.mean_acceptance_length, rel=1e-3)
    np.testing.assert_allclose(found.by_position, textbook.by_position, rtol=1e-2)


def test_greedy_speculation_is_the_teachers_text_and_exactly_as_expected():
    teacher, student = pair()
    some = prompts(6)
    how = {"temperature": 0.0, "new_tokens": 24, "ends": (256,)}
    texts = written_by(teacher, some, **how, size=SIZE)
    expected = expect([acceptance(teacher, student, text, temperature=0.0, size=SIZE) for text in texts], 3)
    runs = [speculate(teacher, student, prompt, length=3, **how) for prompt in some]
    for text, run, prompt in zip(texts, runs, some, strict=True):
        np.testing.assert_array_equal(run.written, text.written)
        np.testing.assert_array_equal(run.written, plainly(teacher, prompt, **how).written)
    rounds = Rounds.joined([run.rounds for run in runs])
    assert 1.05 < rounds.mean_acceptance_length < 3.9
    if all(len(text.written) == 24 for text in texts):  # an end cuts rounds short
        assert rounds.mean_acceptance_length == pytest.approx(expected.mean_acceptance_length, abs=1e-12)
        assert rounds.by_position == pytest.approx(expected.by_position, abs=1e-12)


def test_a_student_that_is_its_teacher_is_always_taken():
    teacher = tiny_llama().eval()
    run = speculate(teacher, teacher, prompts(1)[0], length=4, temperature=0.0, new_tokens=21, ends=(256,))
    if len(run.written) == 21:
        assert run.rounds.draft_acceptance_rate == 1.0
        assert run.rounds.mean_acceptance_length == pytest.approx(21 / len(run.rounds.each))


def test_settings_that_models_bring_along_are_left_out():
    teacher, student = pair()
    how = {"temperature": 0.0, "new_tokens": 24, "ends": (256,)}
    prompt = prompts(1)[0]
    plain, drafted = plainly(teacher, prompt, **how), speculate(teacher, student, prompt, length=3, **how)
    for model in (teacher, student):
        model.generation_config.update(repetition_penalty=5.0, no_repeat_ngram_size=1, top_p=0.1)
    np.testing.assert_array_equal(plainly(teacher, prompt, **how).written, plain.written)
    again = speculate(teacher, student, prompt, length=3, **how)
    np.testing.assert_array_equal(again.written, drafted.written)
    assert again.rounds == drafted.rounds
    assert student.generation_config.repetition_penalty == 5.0


def test_behind_an_end_nothing_was_drafted():
    """A student that is its teacher: all that is drafted is accepted, up to the end, here and by what is expected."""
    teacher = tiny_llama().eval()
    prompt, how = prompts(1)[0], {"temperature": 0.0, "new_tokens": 21}
    written = plainly(teacher, prompt, **how, ends=(256,)).written
    end = next(int(token) for place, token in enumerate(written) if place > 1 and token not in written[:place])
    run = speculate(teacher, teacher, prompt, length=8, **how, ends=(end,))
    assert 2 < len(run.written) < 21
    expected = expect([np.ones(len(run.written))], 8)
    assert run.rounds.draft_acceptance_rate == expected.draft_acceptance_rate == 1.0


def test_a_model_without_an_end_writes_on():
    assert len(plainly(tiny_llama().eval(), prompts(1)[0], temperature=0.0, new_tokens=4, ends=()).written) == 4


def draws_of_two(count: int) -> float:
    """Chi-square over its 99.9 % point of the second and third tokens drawn, against the teacher's own probabilities."""
    teacher, student = pair(2.0)
    with torch.no_grad():
        for model in (teacher, student):  # few tokens, so that each is drawn often
            model.lm_head.weight *= 4
    prompt = prompts(1)[0]
    with torch.no_grad():
        first = teacher(torch.tensor(prompt)[None]).logits[0, -1].double().softmax(-1)
        second = torch.stack(
            [teacher(torch.tensor([*prompt, x])[None]).logits[0, -1].double().softmax(-1) for x in range(SIZE)]
        )
    joint = (first[:, None] * second).numpy()
    found = np.zeros_like(joint)
    for seed in range(count):
        written = speculate(
            teacher, student, prompt, length=2, temperature=1.0, new_tokens=3, ends=(256,), seed=seed
        ).written
        found[written[0], written[1]] += 1
    often = joint * count >= 5
    cells = np.append(joint[often], 1 - joint[often].sum()) * count
    seen = np.append(found[often], count - found[often].sum())
    freedom = len(cells) - 1
    limit = freedom * (1 - 2 / (9 * freedom) + 3.09 * (2 / (9 * freedom)) ** 0.5) ** 3
    return float(((seen - cells) ** 2 / np.maximum(cells, 1e-9)).sum() / limit)


def test_drawn_text_is_the_teachers_in_distribution():
    assert draws_of_two(150) < 1


@pytest.mark.slow
def test_drawn_text_is_the_teachers_in_distribution_many_times():
    assert draws_of_two(4_000) < 1


def test_rounds_in_the_words_of_vllm():
    rounds = Rounds(((4, 1), (4, 1), (4, 3), (4, 0)))
    assert rounds.mean_acceptance_length == 2.25
    assert rounds.draft_acceptance_rate == 5 / 16
    assert rounds.by_position == (0.75, 0.25, 0.25, 0.0)
    assert rounds.conditional == (0.75, pytest.approx(1 / 3), 1.0, 0.0)
    assert Rounds(()).draft_acceptance_rate == 0.0


def test_a_rate_has_its_interval_over_texts():
    rate = rate_of([np.full(10, 0.5), np.full(30, 0.9)])
    assert rate.value == pytest.approx(0.8)
    assert (rate.low, rate.high, rate.tokens) == (pytest.approx(0.5), pytest.approx(0.9), 40)


def test_one_text_has_no_interval():
    rate = rate_of([np.full(10, 0.5)])
    assert rate.value == 0.5
    assert np.isnan([rate.low, rate.high]).all()


def test_what_can_not_be_drafted_is_refused():
    teacher, student = pair()
    text = Text(prompts(1)[0], np.array([7]))
    with pytest.raises(VocabularyError, match="are drafted"):
        acceptance(teacher, student, text, temperature=0.0, size=1_000)
    with pytest.raises(ModelError, match="wrote nothing"):
        expect([], 2)
