"""Ways of teaching SmolLM2-135M's student grade-school problems, for the same tokens and for the same seconds.

    make real-models
    .venv/bin/python benchmarks/methods_smollm2.py GSM8K/train.jsonl     (an hour or two on one core; resumes; writes methods_smollm2.md)

Rows of `question` and `answer`, with the calculator's marks cut out. The student is the teacher without a run of ten of its thirty layers,
the one that changes its rows least. Two teachers: as it is published, and after a short reading of the problems (teacher correction), whose
seconds are counted too. Tables and intervals are those of benchmarks/methods.py.
"""

from __future__ import annotations

import argparse
import json
import re
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from methods import (
    FURTHER,
    HARD,
    PLAIN,
    SOFT,
    Found,
    Lesson,
    Subject,
    further,
    own_text,
    plain,
    run,
    same_halves,
    with_features,
)
from smollm2 import smollm2

from potstill.data import Columns, Document, documents_of_records, tokenize
from potstill.losses import (
    HARD_LABELS,
    FeatureLoss,
    ForwardKL,
    HiddenLoss,
    JensenShannon,
    ReverseKL,
    SoftLabelLoss,
)
from potstill.models import faster_dtype, load_model, load_tokenizer
from potstill.students import copy_layers, last_layers, measure_importance, without_block
from potstill.training import Annealing

OUT = Path("runs") / "methods-smollm2"
CALCULATOR = re.compile(r"<<.*?>>")
LAYERS, CORRECTION = 10, 0.5


def problems(source: Path) -> list[Document]:
    """A problem and its solution as one text."""
    rows = [json.loads(line) for line in source.read_text("utf-8").splitlines()]
    texts = [{"text": f"{row['question']}\n{CALCULATOR.sub('', row['answer'])}"} for row in rows]
    return list(documents_of_records(((f"{source}:{n}", one) for n, one in enumerate(texts, 1)), Columns(), None))


def subject_of(source: Path, held_out: int) -> Subject:
    tokenizer, teacher = load_tokenizer(str(smollm2())), load_model(str(smollm2()))
    corpus = tokenize(problems(source), tokenizer)
    learn, judge = (corpus.part(split, held_out=0.1, search=0.05) for split in ("train", "held_out"))
    judge = judge.select([d for d in range(len(judge)) if judge.offsets[d] < held_out])
    few = learn.select(np.random.default_rng(0).permutation(len(learn))[:100].tolist())
    block = without_block(measure_importance(teacher, few, length=256), LAYERS)
    title = "SmolLM2-135M's student on grade-school problems: ways of teaching"
    words = f"SmolLM2-135M-Instruct (its 4-bit file, unpacked; the student lacks layers {gone(block, teacher)})"
    student = copy_layers(teacher, block)[0].float()
    return Subject(title, words, teacher, student, learn, judge, 256, 4, 5e-4, faster_dtype("cpu"))


def gone(block: tuple[int, ...], teacher) -> str:
    missing = sorted(set(range(teacher.config.num_hidden_layers)) - set(block))
    return f"{missing[0]} to {missing[-1]}"


def corrected(lesson: Lesson, *, loss: SoftLabelLoss) -> Found:
    """The teacher reads the text first, half as much as its student."""
    make = partial(lesson.learned, None, HARD_LABELS, start=lesson.teacher, share=CORRECTION, slower=10)
    teacher = lesson.once("corrected", make)
    return lesson.learned(lesson.live(teacher), loss), lesson.ready["corrected"][1]


def arms() -> dict[str, Callable[[Lesson], Found]]:
    found: dict[str, Callable[[Lesson], Found]] = {}
    for share in FURTHER[:3]:
        for name, loss in ((HARD, HARD_LABELS), (PLAIN, SOFT)):
            found[name + further(share)] = plain(loss, share)
    mixed = partial(SoftLabelLoss, ForwardKL())
    return found | {
        "half hard, half soft": plain(mixed(alpha=0.5)),
        "annealed, all soft to all hard": lambda lesson: (
            lesson.learned(lesson.marker, SOFT, annealing=Annealing()),
            0.0,
        ),
        "corrected teacher, forward KL": partial(corrected, loss=SOFT),
        "corrected teacher, half hard, half soft": partial(corrected, loss=mixed(alpha=0.5)),
        "reverse KL": plain(SoftLabelLoss(ReverseKL())),
        "+ hidden, cosine, dynamic": with_features(
            lambda ours, theirs: FeatureLoss((HiddenLoss(last_layers(1, ours, theirs)),), "dynamic")
        ),
        "two halves of forward KL": same_halves,
        "half forward KL, half GKD (0.5, JSD)": partial(own_text, share=0.5, loss=SoftLabelLoss(JensenShannon(0.5))),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("problems", type=Path)
    parser.add_argument("--tokens", type=int, default=20_480)
    parser.add_argument("--held-out", type=int, default=12_000)
    parser.add_argument("--seeds", type=int, default=3)
    wanted = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    subject = subject_of(wanted.problems, wanted.held_out)
    once = {name + further(share) for name in (HARD, PLAIN) for share in FURTHER if share > 1}
    run(subject, arms(), wanted, out=OUT, script="methods_smollm2", once=once)


if __name__ == "__main__":
    main()
