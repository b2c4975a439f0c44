"""Distil, then four bits: size, speed and quality of a teacher and of its student, in full and in four bits found in several ways.

    python benchmarks/compound.py TEACHER STUDENT TEXT int4-nearest=FOLDER int4-auto-round=FOLDER int4-QAD=FOLDER ... --group 32

TEACHER and STUDENT are models; a folder behind a name is the student packed by `potstill export` or `potstill distill`. Scores are on
held-out documents of TEXT beside the teacher in full; speeds are llama.cpp's, one thread: f16 files for models in full, q4_0 for four bits,
since transformers unpacks four bits before it computes.
"""

from __future__ import annotations

import argparse
import tempfile
from datetime import date
from importlib.metadata import version
from itertools import islice
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from potstill.data import TokenCorpus, read_documents, tokenize
from potstill.engines import LlamaServer
from potstill.engines.reading import speed_of
from potstill.evaluation import Measurement, difference, measure, retention, score
from potstill.export import bytes_of, rounded, save_gguf
from potstill.models import head_of, load_model, load_tokenizer
from potstill.runs import held_out_sample
from potstill.teachers import LiveTeacher, RememberingTeacher

LENGTH = 512


def loaded(folder: str) -> PreTrainedModel:
    """A packed model with weights that are numbers: they become so in the first pass."""
    model = load_model(folder)
    with torch.no_grad():
        model(torch.zeros(1, 1, dtype=torch.int64))
    return model


def speeds(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, kind: str, ids: list[int]
) -> tuple[float, float]:
    """(prompt tokens, new tokens) a second in llama.cpp."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.gguf"
        save_gguf(model, tokenizer, path, kind)
        with LlamaServer(path, context=512, threads=1) as server:
            return speed_of(server, ids, new_tokens=64)


def row(
    name: str, size: float, found: Measurement, teacher: Measurement, speed: tuple[float, float], base: Measurement
) -> str:
    kl, kept = score(found, "kl_to_teacher"), retention(found, teacher, "accuracy")
    nats, lost = score(found, "perplexity"), difference(found, base, "kl_to_teacher")
    beside = (
        ""
        if found is base or name.startswith("teacher")
        else f"{lost.value:+.3f} ({lost.low:+.3f} to {lost.high:+.3f})"
    )
    return (
        f"| {name} | {size / 1e6:.0f} | {kl.value:.3f} ({kl.low:.3f} to {kl.high:.3f}) | {beside} | "
        f"{kept.value:.1%} ({kept.low:.1%} to {kept.high:.1%}) | {nats.value:.2f} | {speed[0]:.0f} | {speed[1]:.0f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("teacher")
    parser.add_argument("student")
    parser.add_argument("text")
    parser.add_argument("packed", nargs="*", help="NAME=FOLDER")
    parser.add_argument("--group", type=int, default=32)
    parser.add_argument("--documents", type=int, default=2_500)
    parser.add_argument("--tokens", type=int, default=16_000)
    wanted = parser.parse_args()
    tokenizer, teacher, student = load_tokenizer(wanted.teacher), load_model(wanted.teacher), load_model(wanted.student)
    corpus = held_out(wanted.text, tokenizer, wanted.documents, wanted.tokens)
    marker = RememberingTeacher(LiveTeacher(teacher, size=head_of(teacher).num_tokens))

    def judged(model: PreTrainedModel) -> Measurement:
        return measure(model, corpus, length=LENGTH, teacher=marker)

    ids = corpus.document(0)[0][:128].astype(int).tolist()
    full, four = speeds(student, tokenizer, "f16", ids), speeds(rounded(student, 32), tokenizer, "q4_0", ids)
    base, own = judged(student), judged(teacher)
    rows = [
        row("teacher, bf16", 2 * teacher.num_parameters(), own, own, speeds(teacher, tokenizer, "f16", ids), base),
        row(
            "teacher, int4, nearest",
            bytes_of(teacher, wanted.group),
            judged(rounded(teacher, wanted.group)),
            own,
            speeds(rounded(teacher, 32), tokenizer, "q4_0", ids),
            base,
        ),
        row("student, bf16", 2 * student.num_parameters(), base, own, full, base),
    ]
    for one in wanted.packed:
        name, _, folder = one.partition("=")
        rows.append(row(f"student, {name}", bytes_of(student, wanted.group), judged(loaded(folder)), own, four, base))
        print(rows[-1], flush=True)
    print(page(rows, wanted, corpus))


def held_out(text: str, tokenizer: PreTrainedTokenizerBase, documents: int, tokens: int) -> TokenCorpus:
    some = tokenize(islice(read_documents(text, tokenizer=tokenizer), documents), tokenizer)
    return held_out_sample(some.part("held_out"), tokens, LENGTH)


def page(rows: list[str], wanted: argparse.Namespace, corpus: TokenCorpus) -> str:
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "auto-round", "xllamacpp"))
    return "\n".join(
        [
            "# Distil, then four bits",
            "",
            f"*{date.today().isoformat()}; `benchmarks/compound.py`; {packages}; {corpus.num_tokens:,} tokens of {len(corpus)} held-out "
            f"documents of {Path(wanted.text).name}; four bits in groups of {wanted.group}.*",
            "",
            "| | MB | KL to teacher, nats | more than the student's | accuracy kept | perplexity | reads, tokens/s | writes, tokens/s |",
            "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
            *rows,
            "",
        ]
    )


if __name__ == "__main__":
    main()
