"""A whole job on a tiny model and a few words of text."""

from __future__ import annotations

from pathlib import Path

import torch
from tiny_models import byte_tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

from potstill.data import Document, PackedBatches, Part, tokenize
from potstill.losses import SoftLabelLoss
from potstill.runs import Job, RunFolder, held_out_sample
from potstill.students import copy_layers
from potstill.teachers import LiveTeacher
from potstill.training import TrainingSettings

STEPS, LENGTH = 6, 24
IDENTITY = {"teacher": "t", "student": "s"}
RECIPE = 'name = "tiny"\nsteps = 6\n'


def tiny_llama(seed: int = 0) -> LlamaForCausalLM:
    """Four layers over bytes, with dropout, so that the random state matters."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LlamaForCausalLM(
            LlamaConfig(
                vocab_size=257,
                hidden_size=16,
                intermediate_size=24,
                num_hidden_layers=4,
                num_attention_heads=2,
                max_position_embeddings=64,
                attention_dropout=0.1,
                bos_token_id=256,
                eos_token_id=256,
                initializer_range=0.3,
            )
        )


def tiny_job(**changes: object) -> Job:
    """A teacher of four layers, a student of two, thirty documents."""
    tokenizer = byte_tokenizer()
    teacher = tiny_llama()
    documents = [
        Document(f"key {n}", (Part(f"number {n} is {'even' if n % 2 == 0 else 'odd'}. " * (1 + n % 3), True),))
        for n in range(30)
    ]
    corpus = tokenize(documents, tokenizer)
    settings = {
        "teacher": (live := LiveTeacher(teacher, size=257)),
        "marker": live,
        "tokenizer": tokenizer,
        "new_student": lambda: copy_layers(teacher.requires_grad_(False), (0, 3))[0].requires_grad_(True),
        "batches": PackedBatches(corpus.part("train"), LENGTH, 4, seed=0),
        "held_out": held_out_sample(corpus.part("held_out", held_out=0.3), 500, LENGTH),
        "measure": SoftLabelLoss(alpha=0.5),
        "settings": TrainingSettings(steps=STEPS, checkpoint_every=2, learning_rate=1e-2),
        "length": LENGTH,
        "speed": False,
    }
    return Job(**(settings | changes))  # type: ignore[arg-type]


def tiny_folder(path: Path) -> RunFolder:
    """The job's folder."""
    return RunFolder.open(path, RECIPE, IDENTITY)
