"""The student's own text: of the student of now, marked by the teacher, the same after a kill, nothing else changed."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from potstill.data import PackedBatches, TokenCorpus, prompts_of
from potstill.errors import LossError, ModelError, RunDirectoryError
from potstill.losses import HARD_LABELS, ForwardKL, JensenShannon, ReverseKL, SoftLabelLoss
from potstill.models import Sampling
from potstill.teachers import FakeTeacher, LiveTeacher
from potstill.training import OnPolicy, Step, TrainingSettings, train
from potstill.training.checkpoint import newest_checkpoint

TOKENS = 61
REVERSE = SoftLabelLoss(ReverseKL())


def random_corpus(documents: int = 9, seed: int = 0) -> TokenCorpus:
    """Prompts of 2 to 6 tokens with completions; every third document is plain text."""
    draw = np.random.default_rng(seed)
    sizes = draw.integers(10, 20, documents)
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    weights = np.ones(offsets[-1], np.float32)
    is_sample = np.arange(documents) % 3 != 0
    for document, start in enumerate(offsets[:-1]):
        weights[start : start + (int(draw.integers(2, 7)) if is_sample[document] else 1)] = 0
    ids = draw.integers(3, TOKENS, offsets[-1]).astype(np.uint32)
    keys = tuple(map(str, range(documents)))
    return TokenCorpus(ids, weights, offsets, keys, is_sample, np.ones(TOKENS, np.uint16))


def plan_of(**changes) -> OnPolicy:
    corpus = random_corpus()
    plan = OnPolicy(
        PackedBatches(corpus, 24, 4),
        prompts_of(corpus, tokens=5, longest=12),
        ends=(2, 3, 4, 5),
        rows=4,
        new_tokens=7,
        refresh_every=2,
    )
    return replace(plan, **changes)


def weights_of(model) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_same_bits(one, other) -> None:
    for name, tensor in weights_of(one).items():
        assert torch.equal(weights_of(other)[name], tensor), name


class Watching:
    """A teacher that remembers what it was shown."""

    def __init__(self, teacher) -> None:
        self.teacher, self.num_tokens, self.seen = teacher, teacher.num_tokens, []

    def label(self, batch):
        self.seen.append(batch)
        return self.teacher.label(batch)


def test_share_of_steps_is_spread_evenly():
    plan = plan_of(share=0.3)
    found = [plan.is_written(step) for step in range(1000)]
    assert sum(found) == 300
    assert all(2 <= sum(found[start : start + 10]) <= 4 for start in range(990))
    assert [plan.num_written(step) for step in (0, 10, 1000)] == [0, 3, 300]
    assert not any(plan_of(share=0.0).is_written(step) for step in range(9))
    assert all(plan_of(share=1.0).is_written(step) for step in range(9))


def test_without_a_share_it_is_the_plain_loop_bit_for_bit(new_student):
    students, losses = [], []
    for text in (plan_of(share=0.0), plan_of().corpus):
        student = new_student(dropout=0.2)
        steps = list(train(student, FakeTeacher(TOKENS), text, REVERSE, TrainingSettings(steps=5, learning_rate=1e-2)))
        students.append(student)
        losses.append([step.loss for step in steps])
        assert all(step.written is None for step in steps)
    assert_same_bits(*students)
    assert losses[0] == losses[1]


@pytest.mark.parametrize("steps_before", [0, 3])
def test_greedy_text_is_that_of_the_student_as_it_is_then(steps_before, new_student):
    """What the teacher is shown, against transformers' generate by a copy of the student at that step."""
    plan = plan_of(sampling=Sampling(0.0), refresh_every=1)
    teacher, student = Watching(FakeTeacher(TOKENS)), new_student(dropout=0.2)
    steps = train(student, teacher, plan, REVERSE, TrainingSettings(steps=steps_before + 1, learning_rate=3e-2))
    for _ in range(steps_before):
        next(steps)
    reference = new_student()
    reference.load_state_dict(student.state_dict())
    reference.eval()
    next(steps)
    batch = teacher.seen[-1]
    for row in range(4):
        length = int((batch.documents[row] >= 0).sum())
        first = int(batch.weights[row].argmax()) + 1
        prompt = batch.inputs[row : row + 1, :first]
        out = reference.generate(
            prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=7, do_sample=False, pad_token_id=0, eos_token_id=[2, 3, 4, 5]
        )  # fmt: skip
        assert out[0].tolist() == [*batch.inputs[row, :length].tolist(), int(batch.targets[row, length - 1])]
        assert batch.weights[row].tolist() == [
            float(first - 1 <= place < length) for place in range(batch.inputs.shape[1])
        ]
        ids, counts = plan.corpus.corpus.document(int(batch.documents[row, 0]))
        assert prompt[0].tolist() == ids[:first].tolist()
        if plan.corpus.corpus.is_sample[int(batch.documents[row, 0])]:
            assert counts[first] == 1
            assert not counts[:first].any()


@pytest.mark.parametrize("divergence", [ReverseKL(), JensenShannon(0.3), ForwardKL()])
def test_gradient_is_that_of_the_formula_on_the_same_tokens(divergence, new_student):
    """In fp64, row by row without padding, with transformers' own logits."""
    student, teacher = new_student().double(), LiveTeacher(new_student(seed=8).double(), size=TOKENS)
    watching = Watching(teacher)
    reference = new_student().double()
    settings = TrainingSettings(steps=1, learning_rate=1e-9, micro_rows=3, max_gradient_norm=1e9)
    (step,) = train(student, watching, plan_of(), SoftLabelLoss(divergence), settings)
    total, weight = torch.zeros((), dtype=torch.float64), 0
    for batch in watching.seen:
        for row in range(len(batch.inputs)):
            length = int((batch.documents[row] >= 0).sum())
            ids, counted = batch.inputs[row : row + 1, :length], batch.weights[row, :length] > 0
            log_q = reference(ids).logits[0, counted].log_softmax(-1)
            log_p = teacher.model(ids).logits[0, counted].log_softmax(-1)
            p, q = log_p.exp(), log_q.exp()
            match divergence:
                case ReverseKL():
                    total = total + (q * (log_q - log_p)).sum()
                case ForwardKL():
                    total = total + (p * (log_p - log_q)).sum()
                case JensenShannon(beta):
                    log_m = (beta * p + (1 - beta) * q).log()
                    both = beta * p * (log_p - log_m) + (1 - beta) * q * (log_q - log_m)
                    total = total + both.sum() / (beta * (1 - beta))
            weight += int(counted.sum())
    (total / weight).backward()
    norm = torch.stack([parameter.grad.norm() for parameter in reference.parameters()]).norm()
    assert step.weight == weight == step.written.tokens
    assert step.loss == pytest.approx((total / weight).item(), rel=1e-5)
    assert step.gradient_norm == pytest.approx(norm.item(), rel=1e-4)


def test_a_student_that_is_its_teacher_learns_nothing(new_student):
    settings = TrainingSettings(steps=2, learning_rate=1e-2, weight_decay=0.0)
    for step in train(new_student(), LiveTeacher(new_student(), size=TOKENS), plan_of(), REVERSE, settings):
        assert step.written is not None
        assert step.loss == pytest.approx(0.0, abs=1e-5)
        assert step.gradient_norm < 1e-3


def test_ends_are_learned_where_they_were_written(new_student):
    teacher = Watching(FakeTeacher(TOKENS))
    plan = plan_of(ends=tuple(range(2, 14)), refresh_every=3)
    steps = list(train(new_student(), teacher, plan, REVERSE, TrainingSettings(steps=3)))
    for step, batch in zip(steps, teacher.seen, strict=True):
        lengths = batch.weights.sum(1)
        lasts = [int(batch.targets[row][batch.weights[row] > 0][-1]) for row in range(4)]
        ended = [last in plan.ends for last in lasts]
        assert all(length == 7 for length, has_end in zip(lengths, ended, strict=True) if not has_end)
        assert step.written.tokens == lengths.sum()
        assert step.written.length == lengths.mean()
        assert step.written.ended == sum(ended) / 4
        inside = batch.targets[(batch.weights > 0) & (batch.weights.cumsum(1) < lengths[:, None])]
        assert not set(inside.tolist()) & set(plan.ends)
    assert 0 < sum(step.written.ended for step in steps) < 3
    assert [step.written.seconds > 0 for step in steps] == [True, False, False]


@pytest.mark.parametrize("stopped_at", [1, 4, 5])
@pytest.mark.parametrize("changes", [{"share": 0.6, "refresh_every": 3}, {"refresh_every": 1}, {"teacher_share": 0.4}])
def test_a_killed_run_gives_the_same_bits(changes, stopped_at, new_student, tmp_path):
    """Checkpoints fall between writings, so that text of a student that is gone is learned after the kill."""
    plan, settings = plan_of(**changes), TrainingSettings(steps=8, learning_rate=1e-2, checkpoint_every=2)
    teacher = LiveTeacher(new_student(seed=8), size=TOKENS)
    undisturbed, killed = new_student(dropout=0.2), new_student(dropout=0.2)
    steps = list(train(undisturbed, teacher, plan, REVERSE, settings))
    for step in train(killed, teacher, plan, REVERSE, settings, folder=tmp_path):
        if step.index == stopped_at:
            break
    torch.manual_seed(99)
    resumed = new_student(dropout=0.2, seed=3 if newest_checkpoint(tmp_path) is None else 8)
    again = list(train(resumed, teacher, plan, REVERSE, settings, folder=tmp_path))
    assert_same_bits(resumed, undisturbed)

    def told(step: Step) -> Step:
        return replace(step, seconds=0.0, written=None if step.written is None else replace(step.written, seconds=0.0))

    assert list(map(told, again)) == list(map(told, steps))[-len(again) :]
    assert {path.suffix for path in tmp_path.rglob("*") if path.is_file()} == {".safetensors", ".json"}


def test_micro_batches_change_nothing(new_student):
    found = []
    for rows in (None, 1):
        student = new_student().double()
        settings = TrainingSettings(steps=3, learning_rate=1e-2, micro_rows=rows)
        found.append([step.loss for step in train(student, FakeTeacher(TOKENS), plan_of(), REVERSE, settings)])
    assert found[1] == pytest.approx(found[0], rel=1e-6)


def test_a_student_in_bfloat16_writes_and_learns(new_student):
    settings = TrainingSettings(steps=2, learning_rate=1e-2, dtype=torch.bfloat16)
    student = new_student()
    steps = list(train(student, FakeTeacher(TOKENS), plan_of(), REVERSE, settings))
    assert all(step.written.tokens > 4 for step in steps)
    assert {weight.dtype for weight in student.parameters()} == {torch.float32}


def test_the_student_learns_its_teacher_on_its_own_text(new_student):
    teacher = LiveTeacher(new_student(seed=8), size=TOKENS)
    settings = TrainingSettings(steps=60, learning_rate=1e-2)
    steps = list(train(new_student(), teacher, plan_of(), REVERSE, settings))
    assert sum(step.loss for step in steps[-5:]) < 0.5 * sum(step.loss for step in steps[:5])


def test_mistakes(new_student, tmp_path):
    live = LiveTeacher(new_student(seed=8), size=TOKENS)
    for teacher, measure, plan, error, message in (
        (live, HARD_LABELS, plan_of(), LossError, "alpha is 0"),
        (live, SoftLabelLoss(alpha=0.5), plan_of(), LossError, "set alpha = 1"),
        (FakeTeacher(TOKENS), REVERSE, plan_of(teacher_share=0.2), ModelError, "FakeTeacher can't write along"),
        (live, REVERSE, plan_of(teacher_share=0.2, sampling=Sampling(0.0)), ModelError, "temperature = 0"),
    ):
        with pytest.raises(error, match=message):
            next(train(new_student(), teacher, plan, measure, TrainingSettings(steps=1)))
    list(train(new_student(), live, plan_of(), REVERSE, TrainingSettings(steps=1), folder=tmp_path))
    with pytest.raises(RunDirectoryError, match="8 completions and this run writes 4 x 3"):
        next(train(new_student(), live, plan_of(refresh_every=3), REVERSE, TrainingSettings(steps=2), folder=tmp_path))


WORKER = """
import sys, torch
sys.path[:0] = {paths!r}
from test_training_on_policy import REVERSE, TOKENS, plan_of, small_model
from potstill.teachers import LiveTeacher
from potstill.training import TrainingSettings, train
from accelerate import PartialState

student, teacher = small_model(3), LiveTeacher(small_model(8), size=TOKENS)
plan = plan_of(share=0.75, rows=5, teacher_share={teacher_share})
settings = TrainingSettings(steps=4, learning_rate=1e-2, micro_rows=2, tensor_parallel={shared})
steps = list(train(student, teacher, plan, REVERSE, settings))
if PartialState().is_main_process:
    written = [0 if step.written is None else step.written.tokens for step in steps]
    torch.save({{"student": student.state_dict(), "losses": [step.loss for step in steps], "written": written}}, {out!r})
if PartialState().num_processes > 1:
    torch.distributed.destroy_process_group()
"""


def small_model(seed: int) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    shape = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=TOKENS, bos_token_id=1, eos_token_id=2, **shape)).double()


@pytest.mark.slow
@pytest.mark.parametrize(("shared", "teacher_share"), [(False, 0.25), (True, 0.0)])
def test_two_processes_write_and_learn_what_one_does(shared: bool, teacher_share: float, tmp_path: Path):
    """Ten completions over two processes, learned in steps of five: 3 rows and 2; also from a teacher that they run together."""
    found = {}
    for world in (1, 2):
        out = tmp_path / f"world-{world}.pt"
        how = {"shared": shared and world > 1, "teacher_share": teacher_share}
        script = WORKER.format(paths=[str(Path(__file__).parent)], out=str(out), **how)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
        many = address | {"WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world)}
        alone = {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
        places = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} | many if world > 1 else {} for rank in range(world)]
        ranks = [
            subprocess.Popen([sys.executable, "-c", script], env=os.environ | alone | place, stderr=subprocess.PIPE, text=True)
            for place in places
        ]  # fmt: skip
        for rank in ranks:
            _, errors = rank.communicate(timeout=180)
            assert rank.returncode == 0, errors[-3000:]
        found[world] = torch.load(out, weights_only=True)
    assert found[2]["written"] == found[1]["written"]
    assert found[2]["losses"] == pytest.approx(found[1]["losses"], rel=1e-6)
    for name, tensor in found[1]["student"].items():
        torch.testing.assert_close(found[2]["student"][name], tensor, rtol=1e-5, atol=1e-6)
