"""Five copies learn the same text with different seeds; one student learns from what they believe together.

    .venv/bin/python examples/ensemble_of_seeds.py        (a few minutes on one core, offline)

The text is your Python's standard library, the family and the tokenizer those of the model that ships with potstill. The student also
reads text that the copies haven't: there an ensemble is worth most (benchmarks/teachers.md).
"""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

import potstill as ps
from potstill.evaluation import measure_teacher
from potstill.runs import held_out_sample
from potstill.teachers import MixtureTeacher

COPIES, STEPS, LENGTH, ROWS = 5, 150, 64, 8
SHAPE = {"hidden_size": 64, "intermediate_size": 176, "num_hidden_layers": 2, "num_key_value_heads": 2, "head_dim": 16}
HARD, SOFT = ps.SoftLabelLoss(alpha=0.0), ps.SoftLabelLoss()


def learned(
    teacher: ps.Teacher | None, text: ps.TokenCorpus, measure_by: ps.SoftLabelLoss, *, seed: int
) -> PreTrainedModel:
    student = ps.fresh(ps.load_model("pocket"), SHAPE, seed)
    settings = ps.TrainingSettings(steps=STEPS, learning_rate=6e-3, seed=seed)
    for step in ps.train(student, teacher, ps.PackedBatches(text, LENGTH, ROWS, seed), measure_by, settings):
        if step.index == STEPS:
            print(f"seed {seed}: loss {step.loss:.3f}")
    return student


def main() -> None:
    torch.set_num_threads(1)  # models as small as these are faster so
    tokenizer = ps.load_tokenizer("pocket")
    corpus = ps.tokenize(ps.read_documents("standard-library"), tokenizer)
    everything, held_out = corpus.part("train"), held_out_sample(corpus.part("held_out"), 10_000, LENGTH)
    some = everything.beginnings(600, range(40))
    more = everything.beginnings(600, range(160))
    size = len(tokenizer)

    copies = [learned(None, some, HARD, seed=seed) for seed in range(COPIES)]
    together = MixtureTeacher(tuple(ps.LiveTeacher(copy, size=size) for copy in copies), (1.0,) * COPIES)
    found = {f"copy {n}": ps.measure(copy, held_out, length=LENGTH, size=size) for n, copy in enumerate(copies)}
    found["all copies together"] = measure_teacher(together, held_out, length=LENGTH)
    for name, text in (("one student, the same text", some), ("one student, more text", more)):
        student = learned(together, text, SOFT, seed=COPIES)
        found[name] = ps.measure(student, held_out, length=LENGTH, size=size)
    for name, measured in found.items():
        print(f"{name:28s} {ps.score(measured, 'nats_per_token').value:.3f} nats a token")


if __name__ == "__main__":
    main()
