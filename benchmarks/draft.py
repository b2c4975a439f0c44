"""How a draft is best taught: how many of a student's tokens its teacher takes, by what it learned from; predicted beside measured.

    .venv/bin/python benchmarks/draft.py             (half an hour on one core; a seed after another; resumes; writes draft.md)

Teacher, students and text are those of methods.py: the pocket teacher and three of its six layers, as many tokens for each arm. Texts are
the teacher's own, after the beginnings of held-out documents. Intervals: bootstrap over texts and seeds, paired by both.
"""

from __future__ import annotations

import argparse
import json
import os
import time
import warnings
from collections.abc import Callable
from datetime import date
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from methods import NEW, PROMPT, RATE, SOFT, Found, Lesson, interval, on_written, own_text, plain, warm

from potstill.data import prompts_of
from potstill.drafts import Rounds, Text, acceptance, expect, speculate, written_by
from potstill.losses import HARD_LABELS, Measure, ReverseKL, SoftLabelLoss, TotalVariation

HERE, OUT = Path(__file__).parent, Path("runs") / "draft-benchmark"
TVD, REVERSE = SoftLabelLoss(TotalVariation()), SoftLabelLoss(ReverseKL())
TEXTS, TOKENS, LENGTH = 64, 64, 4
PLAIN = "hard labels"
TEMPERATURES = (0.0, 1.0)


def second_half(lesson: Lesson, *, loss: Measure) -> Found:
    """Half of the tokens by forward KL, half by another measure."""
    return lesson.learned(lesson.marker, loss, start=warm(lesson), share=0.5, rate=RATE / 3), lesson.ready["warm"][1]


ARMS: dict[str, Callable[[Lesson], Found]] = {
    "untouched": lambda lesson: (lesson.start, 0.0),
    PLAIN: plain(HARD_LABELS),
    "forward KL": plain(SOFT),
    "reverse KL": plain(REVERSE),
    "total variation": plain(TVD),
    "half forward KL, half total variation": partial(second_half, loss=TVD),
    "half forward KL, half own text by total variation": partial(own_text, share=1.0, loss=TVD),
    "half forward KL, half own text by reverse KL": partial(own_text, share=1.0, loss=REVERSE),
    "forward KL on the teacher's text": partial(on_written, loss=SOFT),
}


def texts_of(lesson: Lesson) -> dict[float, list[Text]]:
    prompts = prompts_of(lesson.held_out, tokens=PROMPT, longest=PROMPT)
    some = [prompts[number] for number in range(min(TEXTS, len(prompts)))]
    return {
        temperature: written_by(
            lesson.teacher, some, temperature=temperature, new_tokens=TOKENS, ends=(0,), size=lesson.size
        )
        for temperature in TEMPERATURES
    }


def tried(lesson: Lesson, student, texts: dict[float, list[Text]], *, measured: bool) -> dict[str, object]:
    found: dict[str, object] = {}
    for temperature, some in texts.items():
        accepted = [acceptance(lesson.teacher, student, one, temperature=temperature, size=lesson.size) for one in some]
        found[f"sums {temperature:g}"] = [float(one.sum()) for one in accepted]
        found[f"counts {temperature:g}"] = [len(one) for one in accepted]
        if measured:
            expected, runs = expect(accepted, LENGTH), []
            for number, text in enumerate(some):
                how = {"temperature": temperature, "new_tokens": TOKENS, "ends": (0,), "seed": number}
                runs.append(speculate(lesson.teacher, student, text.prompt, length=LENGTH, **how).rounds)
            rounds = Rounds.joined(runs)
            found[f"rates {temperature:g}"] = [expected.draft_acceptance_rate, rounds.draft_acceptance_rate]
            found[f"lengths {temperature:g}"] = [expected.mean_acceptance_length, rounds.mean_acceptance_length]
    return found


def run(seeds: int) -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    (Path("runs") / "methods").mkdir(exist_ok=True)
    path = OUT / "results.json"
    found = json.loads(path.read_text("utf-8")) if path.exists() else {}
    lesson = Lesson(80_000, 48_000)
    texts = texts_of(lesson)
    for seed in range(seeds):
        lesson.seed, lesson.ready = seed, {}
        for name, arm in ARMS.items():
            if f"{name}/{seed}" in found:
                continue
            began = time.process_time()
            student, _ = arm(lesson)
            seconds = time.process_time() - began
            found[f"{name}/{seed}"] = tried(lesson, student, texts, measured=seed == 0) | {"seconds": seconds}
            path.write_text(json.dumps(found), "utf-8")
            (HERE / "draft.md").write_text(page(found), "utf-8")
            print(name, seed, found[f"{name}/{seed}"].get("rates 1"), flush=True)


def page(found: dict[str, dict]) -> str:
    by_arm: dict[str, list[dict]] = {}
    for key, one in found.items():
        by_arm.setdefault(key.rpartition("/")[0], []).append(one)
    lines = [
        "| learned by | accepted, greedy | minus hard labels' | accepted, drawn | minus hard labels' | seeds |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, seeds in by_arm.items():
        cells = []
        for temperature in TEMPERATURES:
            sums, counts = f"sums {temperature:g}", np.array(seeds[0][f"counts {temperature:g}"])
            cells.append(f"{np.mean([np.sum(one[sums]) for one in seeds]) / counts.sum():.3f}")
            others = by_arm.get(PLAIN, [])
            gaps = [np.array(a[sums]) - np.array(b[sums]) for a, b in zip(seeds, others, strict=False)]
            cells.append(
                "" if name == PLAIN or not gaps else "{:+.3f} ({:+.3f} to {:+.3f})".format(*interval(gaps, counts))
            )
        lines.append(f"| {name} | {' | '.join(cells)} | {len(seeds)} |")
    lines += [
        "",
        f"Drafts of {LENGTH} tokens in transformers' assisted generation, seed 0: accepted / drafted, and tokens a round.",
        "",
        "| learned by | greedy: predicted | measured | drawn: predicted | measured | tokens a round, drawn: predicted | measured |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, seeds in by_arm.items():
        if "rates 1" in seeds[0]:
            rates = [*seeds[0]["rates 0"], *seeds[0]["rates 1"]]
            lines.append(
                f"| {name} | {' | '.join(f'{rate:.3f}' for rate in rates)} | "
                f"{' | '.join(f'{length:.2f}' for length in seeds[0]['lengths 1'])} |"
            )
    old = (HERE / "draft.md").read_text("utf-8") if (HERE / "draft.md").exists() else ""
    return "\n".join(
        [
            "# How a draft is best taught",
            "",
            f"*{date.today().isoformat()}; `benchmarks/draft.py`; one of {os.cpu_count()} cores "
            f"({torch.backends.cpu.get_cpu_capability()}), float32; torch {version('torch')}, transformers {version('transformers')}.*",
            f"*The pocket teacher and a student of three of its six layers; 80,000 tokens; {TEXTS} texts of up to {TOKENS} tokens that the "
            f"teacher wrote after {PROMPT} tokens of held-out documents. The student's own text is up to {NEW} tokens long.*",
            "",
            *lines,
            "",
            "In brackets 95 % intervals: bootstrap over texts and seeds, paired by both.",
            "",
            "<!-- words -->" + old.partition("<!-- words -->")[2],
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    run(parser.parse_args().seeds)


if __name__ == "__main__":
    main()
