"""A distilled student in every format `potstill export` writes, measured in its engine beside itself. Prints rows for export.md.

    python benchmarks/export.py STUDENT --text TEXT [--tokens 2000]

STUDENT is a folder of a distilled or fine-tuned model: weights that were read from a 4-bit file lie on that file's grid, and flatter or
punish a quantiser. The raw ones are refused by nothing but this sentence.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from itertools import islice
from pathlib import Path

from potstill.data import read_documents, tokenize
from potstill.evaluation import score
from potstill.export.folder import PARTS
from potstill.models import load_model, load_tokenizer
from potstill.runs import held_out_sample
from potstill.runs.exporting import Wanted, judge_export, measure_alone, rescore, write_export

FORMATS = (
    Wanted("gguf", "f16"),
    Wanted("gguf", "q8_0"),
    Wanted("gguf", "q4_0"),
    Wanted("int4", group=32),
    Wanted("int8"),
    Wanted("gguf", "q4_1"),
    Wanted("int4", group=64),
    Wanted("gguf", "bf16"),
    Wanted("huggingface"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("student")
    parser.add_argument("--text", required=True)
    parser.add_argument("--documents", type=int, default=300)
    parser.add_argument("--tokens", type=int, default=2000)
    options = parser.parse_args()
    tokenizer, model = load_tokenizer(options.student), load_model(options.student)
    documents = islice(read_documents(options.text, tokenizer=tokenizer), options.documents)
    corpus = held_out_sample(tokenize(documents, tokenizer).part("held_out"), options.tokens, 256)
    alone = measure_alone(model, corpus, length=256)
    print(
        f"{len(corpus)} documents, {corpus.num_tokens} tokens, {sum(p.numel() for p in model.parameters()):,} parameters"
    )
    columns = [*PARTS[:3], "KL", "engine's KL", "same first choice", "perplexity", "reads", "writes", "good"]
    own = score(alone.measured, "perplexity").value
    rates = [alone.speed.prefill_tokens_per_second, alone.speed.decode_tokens_per_second or 0.0]
    print(f"the student in torch: perplexity {own:.2f}, reads {rates[0]:.0f} and writes {rates[1]:.0f} tokens/s")
    print(f"| format | {' | '.join(columns)} |\n|---|{'---:|' * len(columns)}")
    for wanted in FORMATS:
        folder = Path(tempfile.mkdtemp(prefix="export-"))
        weights = write_export(model, tokenizer, folder / "out", wanted, name="student")
        found = rescore(model, tokenizer, weights, wanted, corpus, length=256, alone=alone, threads=1)
        speed, name = (
            found.speeds["export"],
            wanted.name + ("" if wanted.group is None else f", groups of {wanted.group}"),
        )
        cells = [
            *(f"{found.bytes.get(part, 0) / 1e6:.1f}" for part in PARTS[:3]),
            f"{score(found.export, 'kl_to_teacher').value:.5f}",
            "" if found.engine_kl is None else f"{max(0.0, found.engine_kl):.5f}",
            f"{score(found.export, 'agreement').value:.1%}",
            f"{score(found.export, 'perplexity').value:.2f}",
            f"{speed.prefill_tokens_per_second:.0f}",
            f"{speed.decode_tokens_per_second:.0f}",
            "yes" if judge_export(wanted, found).good else "no",
        ]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
