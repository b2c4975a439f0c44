"""Speed-up against draft length, for drafts of several sizes: what `potstill draft` predicts and measures of each, in one picture.

    .venv/bin/python benchmarks/draft_sizes.py TEACHER PROMPTS STUDENT...     (a minute or two each; finished ones are kept)

A STUDENT is NAME=FOLDER. Greedy, one thread, each text in turn, beside the teacher alone. Writes draft_sizes.md and draft_sizes.svg.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from datetime import date
from importlib.metadata import version
from pathlib import Path

from potstill.reports import Chart, Curve
from potstill.reports.charts import svg_file

HERE = Path(__file__).parent
OUT = HERE.parent / "runs/draft_sizes"
SETTINGS = [
    "--most",
    "6",
    "--new-tokens",
    "64",
    "--temperature",
    "0",
    "--longest",
    "8",
    "--lengths",
    "2,4",
    "--dtype",
    "bfloat16",
]


def draft(teacher: str, prompts: str, name: str, student: str) -> dict:
    out = OUT / name.replace(" ", "-")
    if not (out / "draft.json").exists():
        command = [
            sys.executable,
            "-m",
            "potstill",
            "draft",
            teacher,
            student,
            "--prompts",
            prompts,
            *SETTINGS,
            "-o",
            str(out),
        ]
        subprocess.run(command, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    return json.loads((out / "draft.json").read_text("utf-8"))


def predicted(told: dict) -> list[float]:
    """tokens a round · v(1) / (k · d + v(k + 1)), for k = 1, 2, ..."""
    costs, [trial] = told["costs"], told["trials"]
    verify = costs["verify"]
    return [
        one["mean_acceptance_length"] * verify[0] / (one["length"] * costs["draft"] + verify[one["length"]])
        for one in trial["expected"]
    ]


def row(name: str, told: dict) -> str:
    [trial], costs = told["trials"], told["costs"]
    speedups = predicted(told)
    best = max(range(len(speedups)), key=speedups.__getitem__)
    by_length = {one["length"]: one["speedup"] for one in trial["measured"]}
    rate = trial["rate"]
    cells = [
        name,
        f"{told['sizes']['student']['total'] / 1e6:.1f} M",
        f"{rate['value']:.1%} ({rate['low']:.1%} to {rate['high']:.1%})",
        f"{costs['draft'] / costs['verify'][0]:.2f}",
        f"{speedups[best]:.2f} x at {best + 1}",
        *(f"{speedups[length - 1]:.2f}, **{by_length[length]:.2f} x**" for length in (2, 4)),
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("teacher")
    parser.add_argument("prompts")
    parser.add_argument("students", nargs="+", metavar="NAME=FOLDER")
    arguments = parser.parse_args()
    told = {}
    for one in arguments.students:
        name, _, folder = one.partition("=")
        told[name] = draft(arguments.teacher, arguments.prompts, name, folder)
    told = dict(sorted(told.items(), key=lambda pair: pair[1]["sizes"]["student"]["total"]))
    quickest = max(told, key=lambda name: max(predicted(told[name])))
    curves = [
        Curve(
            f"{one['sizes']['student']['total'] / 1e6:.0f} M",
            list(range(1, 9)),
            predicted(one),
            is_highlighted=name == quickest,
        )
        for name, one in told.items()
    ]
    chart = Chart(
        "Speed-up as predicted, by drafted tokens a round", "drafted tokens a round", "times the teacher alone", curves
    )
    (HERE / "draft_sizes.svg").write_text(svg_file(chart), "utf-8")
    lines = [
        "# Drafts of several sizes",
        "",
        f"*{date.today()}; `benchmarks/draft_sizes.py`; one thread of a {platform.machine()} CPU; torch {version('torch')}, "
        f"transformers {version('transformers')}; `potstill draft ... {' '.join(SETTINGS)}`.*",
        "",
        "![speed-up by draft length](draft_sizes.svg)",
        "",
        "| draft | parameters | a token is accepted | costs of a teacher's | best predicted | two drafted: predicted, **measured** | 4 |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
        *(row(name, one) for name, one in told.items()),
        "",
        "Predicted is tokens a round · v(1) / (k · d + v(k + 1)), from a draft's acceptance on the teacher's own text and forward "
        "passes timed here; measured is transformers' assisted generation beside the teacher alone, in turns.",
        "",
    ]
    (HERE / "draft_sizes.md").write_text("\n".join(lines), "utf-8")


if __name__ == "__main__":
    main()
