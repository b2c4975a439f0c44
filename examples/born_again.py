"""Born again: a student is the teacher of the next one, of the same shape and other random weights (Furlanello et al. 2018).

    .venv/bin/python examples/born_again.py        (a minute or two on one core, offline)

Beside them a student that learned from hard labels for as long as all generations together.
"""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

import potstill as ps
from potstill.runs import held_out_sample

GENERATIONS, STEPS, LENGTH, ROWS = 3, 150, 64, 8
SHAPE = {"hidden_size": 64, "intermediate_size": 176, "num_hidden_layers": 2, "num_key_value_heads": 2, "head_dim": 16}
HARD, BOTH = ps.SoftLabelLoss(alpha=0.0), ps.SoftLabelLoss(alpha=0.5)


def main() -> None:
    torch.set_num_threads(1)  # models as small as these are faster so
    tokenizer = ps.load_tokenizer("pocket")
    corpus = ps.tokenize(ps.read_documents("standard-library"), tokenizer)
    text = corpus.part("train").beginnings(600, range(40))
    held_out = held_out_sample(corpus.part("held_out"), 10_000, LENGTH)

    def learned(former: PreTrainedModel | None, seed: int, steps: int = STEPS) -> PreTrainedModel:
        student = ps.fresh(ps.load_model("pocket"), SHAPE, seed)
        teacher = None if former is None else ps.LiveTeacher(former, size=len(tokenizer))
        batches = ps.PackedBatches(text, LENGTH, ROWS, seed)
        settings = ps.TrainingSettings(steps=steps, learning_rate=6e-3, seed=seed)
        for _ in ps.train(student, teacher, batches, HARD if teacher is None else BOTH, settings):
            pass
        return student

    def show(name: str, student: PreTrainedModel) -> None:
        found = ps.measure(student, held_out, length=LENGTH, size=len(tokenizer))
        print(f"{name:28s} {ps.score(found, 'nats_per_token').value:.3f} nats a token")

    former = None
    for generation in range(GENERATIONS):
        former = learned(former, generation)
        show(f"generation {generation}", former)
    show("hard labels, as long as all", learned(None, GENERATIONS, GENERATIONS * STEPS))


if __name__ == "__main__":
    main()
