"""The tables of docs/scale.md: what labelling and distilling take at sizes that nobody runs to find out, from the functions of `planning`.

    .venv/bin/python benchmarks/scale.py            (a few seconds; puts the tables into docs/scale.md)
    .venv/bin/python benchmarks/scale.py --check    (ends with 1 where the page has others)

Models are built from their published configurations, without weights. Nothing here was measured on the accelerators named.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedConfig, Qwen2Config, Qwen3MoeConfig

from potstill.planning import (
    Fleet,
    LabelFormat,
    ModelShape,
    Workload,
    accelerator,
    bytes_a_label,
    configuration_of,
    memory_of_labelling,
    memory_of_learning,
    memory_of_measuring,
    plan_of,
    shape_of,
)
from potstill.planning.memory import TEXT_AT_MOST

PAGE = Path(__file__).parent.parent / "docs" / "scale.md"
TABLE = re.compile(r"(<!-- table: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
# Predictions that one thread decodes a second (benchmarks/store.md).
DECODED = 936_549
# Bytes a token that a process holds of its text all the time: an id and a weight.
TEXT_HELD = 8
LENGTH, ROWS, PRICE = 4_096, 1_024, 2.5
TOKENS = 10**12


def configurations() -> dict[str, PreTrainedConfig]:
    llama = {"vocab_size": 128_256, "num_key_value_heads": 8, "max_position_embeddings": 131_072}
    narrow = {"hidden_size": 2_048, "num_hidden_layers": 16, "num_attention_heads": 32, "intermediate_size": 8_192}
    return {
        "Llama 3.2 1B": LlamaConfig(**llama, **narrow, tie_word_embeddings=True),
        "Llama 3.1 8B": LlamaConfig(
            **llama, hidden_size=4_096, num_hidden_layers=32, num_attention_heads=32, intermediate_size=14_336
        ),
        "Qwen2.5 32B": Qwen2Config(
            vocab_size=152_064,
            num_key_value_heads=8,
            hidden_size=5_120,
            num_hidden_layers=64,
            num_attention_heads=40,
            intermediate_size=27_648,
            tie_word_embeddings=False,
        ),
        "Llama 3.1 70B": LlamaConfig(
            **llama, hidden_size=8_192, num_hidden_layers=80, num_attention_heads=64, intermediate_size=28_672
        ),
        "Qwen3 235B-A22B": Qwen3MoeConfig(
            vocab_size=151_936,
            num_key_value_heads=4,
            hidden_size=4_096,
            num_hidden_layers=94,
            num_attention_heads=64,
            head_dim=128,
            moe_intermediate_size=1_536,
            num_experts=128,
            num_experts_per_tok=8,
            tie_word_embeddings=False,
        ),
    }


@cache
def shapes() -> dict[str, ModelShape]:
    with torch.device("meta"):
        return {name: shape_of(AutoModelForCausalLM.from_config(one)) for name, one in configurations().items()}


def work(teacher: str, student: str, *, is_stored: bool, tokens: int = TOKENS, rows: int = ROWS) -> Workload:
    return Workload(
        "distill",
        shapes()[teacher],
        shapes()[student],
        steps=round(tokens / (rows * LENGTH)),
        rows=rows,
        length=LENGTH,
        micro_rows=1,
        is_stored=is_stored,
        gradient_checkpointing=True,
        checkpoint_every=1_000,
    )


def markdown(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [titles, ["---", *["---:"] * (len(titles) - 1)], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def days(seconds: float) -> str:
    return f"{seconds / 86_400:,.1f} days" if seconds < 10 * 86_400 else f"{seconds / 86_400:,.0f} days"


def labelling() -> str:
    rows = []
    for name, shape in shapes().items():
        if shape.parameters < 5e9:
            continue
        one = replace(work(name, "Llama 3.2 1B", is_stored=True), labelled=TOKENS, label_rows=8)
        cells = [f"{name}", f"{shape.parameters / 1e9:.0f} ({shape.active / 1e9:.0f})"]
        for gpu, count in (("h100", 8), ("h100", 512), ("b200", 512)):
            fleet = Fleet(accelerator(gpu), count)
            [label] = [found for found in plan_of(one, fleet, price=PRICE).phases if found.phase.stage == "label"]
            room = memory_of_labelling(one, there=fleet.accelerator)
            fits = "" if not room.missing else " (doesn't fit)"
            cells.append(f"{days(label.seconds)}{fits}")
            if (gpu, count) == ("h100", 512):
                cells[2:2] = [f"{label.flops:.1e}"]
                cells.append(f"{count * label.seconds / 3_600 / 1e3:,.0f}")
                cells.append(f"{(label.cost or 0) / 1e6:.2f}")
        rows.append(cells)
    titles = [
        "teacher",
        "parameters, B (active)",
        "FLOPs",
        "8 × H100",
        "512 × H100",
        "thousand H100 hours",
        f"million, at {PRICE} an hour",
    ]
    return markdown([*titles, "512 × B200"], rows)


def store() -> str:
    teacher = shapes()["Llama 3.1 70B"]
    rows = []
    for title, labels in (
        ("sampled, tau 0.2", LabelFormat(tau=0.2)),
        ("sampled, tau 0.05 (default)", LabelFormat()),
        ("topk, 64", LabelFormat("topk")),
        ("hidden, 8 bits", LabelFormat("hidden")),
        ("hidden, 6 bits", LabelFormat("hidden", bits=6)),
        ("all logits, 16 bits, for comparison", LabelFormat("dense")),
    ):
        size = bytes_a_label(labels, teacher) / (2 if labels.tier == "dense" else 1)
        sizes = [f"{size * tokens / 1e12:,.2f} TB" for tokens in (10**10, 10**11, 10**12)]
        rows.append([title, f"{size:,.1f}", *sizes])
    return markdown(["kept of Llama 3.1 70B", "bytes a token", "10B tokens", "100B", "1T"], rows)


def distilling() -> str:
    rows = []
    for teacher, student in (
        ("Llama 3.1 70B", "Llama 3.1 8B"),
        ("Llama 3.1 70B", "Llama 3.2 1B"),
        ("Qwen3 235B-A22B", "Llama 3.1 8B"),
    ):
        for is_stored in (False, True):
            one = work(teacher, student, is_stored=is_stored)
            fleet = Fleet(accelerator("h100"), 512)
            plan = plan_of(one, fleet, price=PRICE)
            [learning] = [found for found in plan.phases if found.phase.action == "learn"]
            room = plan.memory["distill"]
            rows.append(
                [
                    f"{teacher} → {student}, {'stored' if is_stored else 'live'}",
                    f"{learning.flops:.1e}",
                    days(learning.seconds),
                    f"{512 * learning.seconds / 3_600 / 1e3:,.0f}",
                    f"{(learning.cost or 0) / 1e6:.2f}",
                    f"{one.tokens / learning.seconds / 1e6:,.2f}",
                    f"{plan.how}",
                    f"{room.total / 1e9:.0f} of {room.there / 1e9:.0f}",
                    f"{memory_of_measuring(one, there=fleet.accelerator).total / 1e9:.0f}",
                    learning.bound,
                ]
            )
    titles = [
        "",
        "FLOPs",
        "512 × H100",
        "thousand H100 hours",
        f"million, at {PRICE} an hour",
        "million tokens/s",
        "by",
        "GB on each, learning",
        "measuring",
        "mostly",
    ]
    return markdown(titles, rows)


def reading() -> str:
    rows = []
    for student in ("Llama 3.2 1B", "Llama 3.1 8B"):
        one = work("Llama 3.1 70B", student, is_stored=True)
        for count in (8, 64, 512):
            [learning] = [
                found
                for found in plan_of(one, Fleet(accelerator("h100"), count)).phases
                if found.phase.action == "learn"
            ]
            speed = one.tokens / learning.seconds
            sizes = [
                bytes_a_label(labels, one.teacher)
                for labels in (LabelFormat(), LabelFormat("topk"), LabelFormat("hidden"))
            ]
            rows.append(
                [
                    f"{student}, {count} × H100",
                    f"{speed / 1e3:,.0f}",
                    *(f"{speed * size / 1e6:,.0f}" for size in sizes),
                    f"{speed / DECODED:.1f}",
                ]
            )
    titles = [
        "student",
        "thousand tokens/s",
        "MB/s: sampled, tau 0.05",
        "topk, 64",
        "hidden, 8 bits",
        "threads that decode `sampled`",
    ]
    return markdown(titles, rows)


def memory() -> str:
    rows = []
    gpu = accelerator("h100")
    for teacher, student in (
        ("Llama 3.1 8B", "Llama 3.2 1B"),
        ("Llama 3.1 8B", "Llama 3.1 8B"),
        ("Llama 3.1 70B", "Llama 3.1 8B"),
    ):
        for is_stored in (False, True):
            for count in (1, 8, 64):
                one = work(teacher, student, is_stored=is_stored)
                how = configuration_of(one, count=count, there=gpu)
                room = memory_of_learning(one, count=count, there=gpu, how=how)
                measuring = memory_of_measuring(one, there=gpu)
                of_teacher = sum(size for name, size in room.needed.items() if name.startswith("teacher"))
                state = sum(room.needed[name] for name in ("student", "optimizer"))
                gradients = sum(size for name, size in room.needed.items() if name.startswith("gradients"))
                besides = room.total - of_teacher - state - gradients
                cells = [of_teacher, state, gradients, besides, room.total, measuring.total]
                missing = max(room.missing, measuring.missing)
                rows.append(
                    [
                        f"{_short(teacher)} → {_short(student)}, {'stored' if is_stored else 'live'}, {count} × H100",
                        how if count > 1 else "",
                        *(f"{size / 1e9:.1f}" for size in cells),
                        "yes" if not missing else f"{missing / 1e9:.0f} GB too few",
                    ]
                )
    titles = [
        "labels",
        "by",
        "teacher",
        "student, optimizer",
        "gradients",
        "gathered, 16-bit copies, activations, the rest",
        "learning, GB",
        "measuring, GB",
        "fits",
    ]
    return markdown(titles, rows)


def _short(name: str) -> str:
    return name.split()[-1]


def worth() -> str:
    """Thousands of H100 hours of labelling once, and of so many students."""
    fleet = Fleet(accelerator("h100"), 512)
    live, stored = (work("Llama 3.1 70B", "Llama 3.1 8B", is_stored=is_stored) for is_stored in (False, True))
    hours = [
        {one.phase.action: 512 * one.seconds / 3_600 / 1e3 for one in plan_of(found, fleet).phases}
        for found in (live, replace(stored, labelled=TOKENS))
    ]
    rows = []
    for students in (1, 2, 4):
        of_live, of_stored = students * hours[0]["learn"], hours[1]["mark"] + students * hours[1]["learn"]
        rows.append([f"{students}", f"{of_live:,.0f}", f"{of_stored:,.0f}"])
    return markdown(
        ["students of 8B over the same 1T tokens", "teacher live", "labels stored once, and learned from"], rows
    )


def text() -> str:
    rows = []
    for tokens in (10**9, 10**10, 10**11, 10**12):
        one, machine = TEXT_AT_MOST * tokens, 8 * TEXT_AT_MOST * tokens
        rows.append([f"{tokens / 1e9:,.0f}B", *(f"{size / 1e9:,.0f}" for size in (TEXT_HELD * tokens, one, machine))])
    titles = [
        "tokens of text",
        "GB held by a process",
        "at most, as it begins",
        "at most, eight processes on a machine",
    ]
    return markdown(titles, rows)


def travelling() -> str:
    rows = []
    for teacher, student, is_stored in (
        ("Llama 3.1 8B", "Llama 3.2 1B", True),
        ("Llama 3.1 70B", "Llama 3.1 8B", False),
        ("Llama 3.1 70B", "Llama 3.1 8B", True),
    ):
        for length in (512, 1_024, 4_096):
            one = replace(work(teacher, student, is_stored=is_stored), length=length)
            cells = [
                f"{_short(teacher)} → {_short(student)}, {'stored' if is_stored else 'live'}, passes of 1 × {length}"
            ]
            for count in (8, 512):
                fleet = Fleet(accelerator("h100"), count)
                [learning] = [found for found in plan_of(one, fleet).phases if found.phase.action == "learn"]
                share = fleet.travelling(one, learning.phase) / fleet.computing(one, learning.phase)
                cells.append(f"{share:.2f} ({fleet.configuration(one)})")
            rows.append(cells)
    return markdown(["labels", "8 × H100", "512 × H100"], rows)


TABLES: dict[str, Callable[[], str]] = {
    "labelling": labelling,
    "store": store,
    "distilling": distilling,
    "reading": reading,
    "memory": memory,
    "travelling": travelling,
    "worth": worth,
    "text": text,
}


def filled(page: str) -> str:
    """The page with its tables made anew."""
    return TABLE.sub(lambda found: found[1] + TABLES[found[2]]() + found[3], page)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    page = PAGE.read_text("utf-8")
    made = filled(page)
    if parser.parse_args().check:
        sys.exit(made != page)
    PAGE.write_text(made, "utf-8")


if __name__ == "__main__":
    main()
