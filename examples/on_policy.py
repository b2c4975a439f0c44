"""A student learns on what it writes itself: the pocket teacher marks each token that its own half goes on with.

    .venv/bin/python examples/on_policy.py

The half first learns from text as usual, so that it can write; then it writes after the beginnings of documents, and reverse KL says where
the teacher would never have gone on like that. A minute or two on one core.
"""

from __future__ import annotations

import torch

from potstill import (
    ForwardKL,
    LiveTeacher,
    PackedBatches,
    ReverseKL,
    SoftLabelLoss,
    TrainingSettings,
    copy_layers,
    load_model,
    load_tokenizer,
    read_documents,
    tokenize,
    train,
)
from potstill.data import prompts_of
from potstill.models import Sampling, complete
from potstill.training import OnPolicy


def main() -> None:
    torch.set_num_threads(1)  # models as small as this are faster so
    tokenizer, teacher = load_tokenizer("pocket"), load_model("pocket")
    student, _ = copy_layers(teacher, (0, 2, 5))
    student = student.float().requires_grad_(True)
    marker = LiveTeacher(teacher, size=len(tokenizer))
    corpus = tokenize(read_documents("standard-library"), tokenizer).part("train")
    batches = PackedBatches(corpus, length=128, rows=8)

    for step in train(student, marker, batches, SoftLabelLoss(ForwardKL()), TrainingSettings(steps=60)):
        if step.index % 20 == 0:
            print(f"text of others: step {step.index}, forward KL {step.loss:.3f}")

    prompts = prompts_of(corpus, tokens=32, longest=64)
    own = OnPolicy(batches, prompts, ends=(tokenizer.eos_token_id,), rows=8, new_tokens=64, refresh_every=2)
    settings = TrainingSettings(steps=20, learning_rate=3e-4)
    for step in train(student, marker, own, SoftLabelLoss(ReverseKL()), settings):
        if step.index % 4 == 0 and step.written is not None:
            print(f"its own text: step {step.index}, reverse KL {step.loss:.3f}, {step.written.tokens} tokens written")

    draws = torch.rand(1, 40, generator=torch.Generator().manual_seed(0)).numpy()
    [text] = complete(student, [prompts[5]], draws, sampling=Sampling(0.7), ends=own.ends, size=len(tokenizer), rows=1)
    print(f"{tokenizer.decode(prompts[5])}\033[1m{tokenizer.decode(text)}\033[0m")


if __name__ == "__main__":
    main()
