"""A student that reads single bytes learns from a teacher with a vocabulary of 4,096 tokens: by the likelihood of stretches of text.

.venv/bin/python examples/across_tokenizers.py        (about two minutes on one core)
"""

from __future__ import annotations

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import potstill as ps
from potstill.evaluation import compare, score_table
from potstill.losses import HARD_LABELS, SpanLikelihood, TranslatedLoss
from potstill.teachers import TranslatedTeacher

LENGTH = 256


def byte_tokenizer() -> PreTrainedTokenizerFast:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE({character: number for number, character in enumerate(alphabet)}, []))
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<|end|>")


def new_student() -> LlamaForCausalLM:
    torch.manual_seed(0)
    shape = {"hidden_size": 96, "intermediate_size": 256, "num_hidden_layers": 3, "num_attention_heads": 4}
    return LlamaForCausalLM(LlamaConfig(vocab_size=257, bos_token_id=None, eos_token_id=256, **shape))


def main() -> None:
    tokenizer, own = byte_tokenizer(), ps.load_tokenizer("pocket")
    corpus = ps.tokenize(ps.read_documents("standard-library"), tokenizer)
    learn, held_out = corpus.part("train"), corpus.part("held_out")
    live = ps.LiveTeacher(ps.load_model("pocket", dtype=torch.float32), size=len(own))
    teacher = TranslatedTeacher(live, own, tokenizer, size=len(tokenizer))
    batches = ps.PackedBatches(learn, LENGTH, rows=8)
    print(teacher.coverage(next(batches.from_step(0))))

    # The same bytes count for both, so that bits a byte can be compared.
    held_out, theirs = teacher.retold(held_out.beginnings(LENGTH, range(len(held_out))))
    found = {"teacher": ps.measure(live.model, theirs, length=LENGTH)}
    for name, loss in (("hard labels", HARD_LABELS), ("distilled", TranslatedLoss(SpanLikelihood(), alpha=0.5))):
        student = new_student()
        for step in ps.train(student, teacher, batches, loss, ps.TrainingSettings(steps=100, learning_rate=3e-3)):
            if step.index % 25 == 0:
                print(f"{name}: step {step.index}, loss {step.loss:.3f}")
        found[name] = ps.measure(student, held_out, length=LENGTH)
    print(score_table(compare(found)))


if __name__ == "__main__":
    main()
