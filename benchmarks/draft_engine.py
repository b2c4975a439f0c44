"""A draft in llama.cpp: the teacher's file alone, and with the student's as its draft, in turns on the same prompts.

    python benchmarks/draft_engine.py TEACHER.gguf STUDENT.gguf PROMPTS.jsonl --lengths 1,2,3,4,6      (rows with `messages`)

One thread, greedy. Seconds are llama.cpp's own, of writing alone; the text with a draft is compared with the teacher's.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

from potstill.drafts.engine import EngineRounds, engine_rounds
from potstill.models import load_tokenizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("teacher", type=Path)
    parser.add_argument("student", type=Path)
    parser.add_argument("prompts", type=Path)
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--most", type=int, default=24)
    parser.add_argument("--new-tokens", type=int, default=96)
    parser.add_argument("--lengths", default="1,2,3,4,6")
    parser.add_argument("--rounds", type=int, default=3)
    wanted = parser.parse_args()
    tokenizer = load_tokenizer(wanted.tokenizer)
    rows = [json.loads(line) for line in wanted.prompts.read_text("utf-8").splitlines()][: wanted.most]
    prompts = [
        tokenizer.apply_chat_template(row["messages"], add_generation_prompt=True, return_tensors="np")["input_ids"][0]
        for row in rows
    ]
    lengths = [0, *map(int, wanted.lengths.split(","))]
    found: dict[int, list[EngineRounds]] = {length: [] for length in lengths}
    same: dict[int, float] = {}
    for _ in range(wanted.rounds):
        alone: list[list[int]] = []
        for length in lengths:
            rounds, texts = engine_rounds(
                wanted.teacher,
                wanted.student if length else None,
                prompts,
                length=length,
                temperature=0.0,
                new_tokens=wanted.new_tokens,
                context=1024,
            )
            found[length].append(rounds)
            alone = alone or texts
            same[length] = sum(one == other for one, other in zip(texts, alone, strict=True)) / len(texts)
    print(
        "| drafted at most | accepted / drafted | tokens/s (of each round) | speed-up | texts that are the teacher's |"
    )
    print("| ---: | ---: | ---: | ---: | ---: |")
    base = statistics.median(one.tokens_per_second for one in found[0])
    for length, rounds in found.items():
        rates = [one.tokens_per_second for one in rounds]
        accepted = f"{rounds[0].draft_acceptance_rate:.1%}" if length else ""
        each = ", ".join(f"{rate:.1f}" for rate in rates)
        print(
            f"| {length or 'alone'} | {accepted} | {each} | {statistics.median(rates) / base:.2f} x | {same[length]:.0%} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
