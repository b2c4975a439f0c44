"""What a teacher of another tokenizer is worth: the pocket teacher (4,096 tokens) and a small fresh student with a vocabulary of its own.

    .venv/bin/python benchmarks/across_tokenizers.py           (about an hour on one core of its own; resumes; prints the table)

The student's tokenizer is a byte-level BPE of 1,000 tokens trained on 200 training files of the standard library, the student a Llama
of 4 layers of width 128 with random weights. Every arm of a seed begins with the same weights and reads the same batches. Scores: bits
a byte on held-out files, over bytes that count in both tokenizations; differences to hard labels are paired by document and averaged
over seeds, with a bootstrap over documents.
"""

from __future__ import annotations

import argparse
import json
import time
from datetime import date
from importlib.metadata import version
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from potstill.data import PackedBatches, TokenCorpus, read_documents, split_of, tokenize
from potstill.evaluation import Measurement, measure
from potstill.losses import HARD_LABELS, MatchedTokens, Measure, SortedProbabilities, SpanLikelihood, TranslatedLoss
from potstill.models import load_model, load_tokenizer
from potstill.runs import held_out_sample
from potstill.teachers import Coverage, LiveTeacher, TranslatedTeacher
from potstill.training import TrainingSettings, train

HERE = Path(__file__).parent
LENGTH, ROWS, HELD_OUT = 256, 4, 40_000
HARD, LONGER = "hard labels", "hard labels, for the seconds of matched"
ARMS: dict[str, Measure] = {
    HARD: HARD_LABELS,
    "uld, alpha 0.6": TranslatedLoss(SortedProbabilities(), 0.6),
    "spans, tau 100, alpha 0.5": TranslatedLoss(SpanLikelihood(), 0.5),
    "matched, alpha 0.5": TranslatedLoss(MatchedTokens(), 0.5),
    "matched, unmatched 1, alpha 0.5": TranslatedLoss(MatchedTokens(unmatched=1.0), 0.5),
    LONGER: HARD_LABELS,
}
MATCHED = "matched, alpha 0.5"


def student_tokenizer() -> PreTrainedTokenizerFast:
    documents = (one for one in read_documents("standard-library") if split_of(one.key) == "train")
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=1000, special_tokens=["<|end|>"], initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator((one.text for one in islice(documents, 200)), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|end|>")


def student(seed: int) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    shape = {
        "hidden_size": 128,
        "intermediate_size": 320,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    }
    return LlamaForCausalLM(
        LlamaConfig(vocab_size=1000, tie_word_embeddings=True, bos_token_id=None, eos_token_id=0, **shape)
    )


def trained(
    seed: int, arm: str, steps: int, teacher: TranslatedTeacher, learn: TokenCorpus
) -> tuple[LlamaForCausalLM, float]:
    """(the student, seconds a step: the median)."""
    learner, settings = student(seed), TrainingSettings(steps=steps, learning_rate=3e-3, seed=seed)
    marker = teacher if ARMS[arm].needs_teacher else None
    seconds = []
    for step in train(learner, marker, PackedBatches(learn, LENGTH, ROWS, seed=seed), ARMS[arm], settings):
        seconds.append(step.seconds)
        if step.index % 50 == 0:
            print(f"  {arm}, seed {seed}: step {step.index} of {steps}, {step.parts}", flush=True)
    return learner, float(np.median(seconds))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--arms", nargs="*", default=list(ARMS))
    parser.add_argument("--work", type=Path, default=Path("runs/across_tokenizers"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.work.mkdir(parents=True, exist_ok=True)
    own = student_tokenizer()
    corpus = tokenize(read_documents("standard-library"), own)
    learn, held_out = corpus.part("train"), held_out_sample(corpus.part("held_out"), HELD_OUT, LENGTH)
    live = LiveTeacher(load_model("pocket", dtype=torch.float32), size=4096)
    teacher = TranslatedTeacher(live, load_tokenizer("pocket"), own, size=1000)
    held_out, theirs = teacher.retold(held_out)
    of_teacher = measure(live.model, theirs, length=LENGTH)
    coverage = teacher.coverage(next(PackedBatches(learn, LENGTH, 64).from_step(0)))
    print(coverage, "teacher:", bits(of_teacher), flush=True)
    found: dict[str, list[Measurement]] = {}
    seconds: dict[str, list[float]] = {}
    for seed in range(arguments.seeds):
        for arm in arguments.arms:
            path = arguments.work / f"{arm}, {arguments.steps} steps, seed {seed}.npz"
            if not path.exists():
                steps, started = arguments.steps, time.perf_counter()
                if arm == LONGER:
                    steps = round(steps * seconds[MATCHED][seed] / seconds[HARD][seed])
                learner, a_step = trained(seed, arm, steps, teacher, learn)
                path.with_suffix(".json").write_text(json.dumps({"seconds": a_step, "steps": steps}))
                measure(learner, held_out, length=LENGTH).save(path)
                print(
                    f"{arm}, seed {seed}: {bits(Measurement.load(path)):.4f}, {time.perf_counter() - started:.0f} s",
                    flush=True,
                )
            found.setdefault(arm, []).append(Measurement.load(path))
            seconds.setdefault(arm, []).append(json.loads(path.with_suffix(".json").read_text())["seconds"])
    if arguments.arms == list(ARMS):
        table = report(found, seconds, of_teacher, arguments, coverage)
        (arguments.work / "table.md").write_text(table)
        print(table)


def bits(one: Measurement) -> float:
    return float(one.nll.sum() / np.log(2) / one.bytes.sum())


def report(
    found: dict[str, list[Measurement]],
    seconds: dict[str, list[float]],
    of_teacher: Measurement,
    arguments: argparse.Namespace,
    coverage: Coverage,
) -> str:
    tokens = arguments.steps * ROWS * LENGTH
    lines = [
        "| arm | bits a byte (seeds) | minus hard labels' | s a step |",
        "| --- | ---: | ---: | ---: |",
        f"| *the teacher itself* | {bits(of_teacher):.4f} | | |",
    ]
    draws = np.random.default_rng(0).multinomial(len(of_teacher), np.full(len(of_teacher), 1 / len(of_teacher)), 2000)
    for arm, ones in found.items():
        each = [bits(one) for one in ones]
        change = np.mean([one.nll - other.nll for one, other in zip(ones, found[HARD], strict=True)], 0) / np.log(2)
        value, spread = change.sum() / ones[0].bytes.sum(), draws @ change / (draws @ ones[0].bytes)
        low, high = np.percentile(spread, [2.5, 97.5])
        beside = "" if arm == HARD else f"{value:+.4f} ({low:+.4f} to {high:+.4f})"
        lines.append(
            f"| {arm} | {np.mean(each):.4f} ({min(each):.4f} to {max(each):.4f}) | {beside} | {np.mean(seconds[arm]):.3f} |"
        )
    return (
        f"*{date.today()}; `benchmarks/across_tokenizers.py`; one CPU core, float32; torch {version('torch')}, transformers "
        f"{version('transformers')}, tokenizers {version('tokenizers')}.*\n"
        f"*{arguments.steps} steps of {ROWS} x {LENGTH} tokens ({tokens:,} tokens), {arguments.seeds} seeds; {len(of_teacher)} held-out "
        f"files, {of_teacher.bytes.sum():,.0f} bytes. {coverage}*\n\n" + "\n".join(lines) + "\n"
    )


if __name__ == "__main__":
    main()
