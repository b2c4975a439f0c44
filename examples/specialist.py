"""A specialist of a quarter of its general teacher: the teacher is heard at first, and less and less as the student learns the domain.

    .venv/bin/python examples/specialist.py FOLDER        (a few minutes on one core, offline)

FOLDER holds the domain's text. The teacher is the model that ships with potstill, which knows Python's standard library.
"""

from __future__ import annotations

import sys

import torch

import potstill as ps
from potstill.runs import held_out_sample, worth_of
from potstill.training import Annealing

LENGTH, ROWS, STEPS = 128, 8, 100
SHAPE = ps.Shape(layers=(0, 1, 4, 5), ffn=256, heads=2, hidden=128)
WAYS = {
    "the teacher alone": (ps.SoftLabelLoss(), None),
    "teacher, then labels": (ps.SoftLabelLoss(), Annealing()),
    "labels alone": (ps.SoftLabelLoss(alpha=0.0), None),
}


def main() -> None:
    torch.set_num_threads(1)  # models as small as these are faster so
    model, tokenizer = ps.load_model("pocket"), ps.load_tokenizer("pocket")
    corpus = ps.tokenize(ps.read_documents(sys.argv[1]), tokenizer)
    text, held_out = corpus.part("train"), held_out_sample(corpus.part("held_out"), 10_000, LENGTH)
    teacher = ps.LiveTeacher(model, size=len(tokenizer))
    importance = ps.measure_importance(model, held_out_sample(text, 10_000, LENGTH), length=LENGTH)
    found = {"the teacher itself": ps.measure(model, held_out, length=LENGTH, size=teacher.num_tokens)}
    for name, (measure_by, annealing) in WAYS.items():
        student, _ = ps.prune(model, SHAPE, importance)
        batches = ps.PackedBatches(text, LENGTH, ROWS, 0)
        settings = ps.TrainingSettings(steps=STEPS, learning_rate=3e-3)
        for step in ps.train(student, teacher, batches, measure_by, settings, annealing=annealing):
            if step.index in (1, STEPS // 2, STEPS):
                print(f"{name}: step {step.index}, alpha {step.alpha:.2f}, loss {step.loss:.3f}")
        found[name] = ps.measure(student, held_out, length=LENGTH, size=teacher.num_tokens)
    for name, measured in found.items():
        print(f"{name:20s} {ps.score(measured, 'nats_per_token').value:.3f} nats a token")
    verdict = worth_of(found["the teacher itself"], found["labels alone"], distilled=found["teacher, then labels"])
    print(f"is the teacher worth hearing here? {verdict.verdict}")


if __name__ == "__main__":
    main()
