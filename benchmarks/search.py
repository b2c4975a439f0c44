"""How often the search finds the smallest student that clears the bar, and what it costs beside training that student alone.

    .venv/bin/python benchmarks/search.py --seeds 3                  (pocket teacher, about half an hour a seed; resumes)

Every candidate of the ladder is trained to the full budget and judged on held-out text, whatever the search would do: that says which is
truly the smallest that clears a bar. Then the search is played again for many bars on what was measured on the way, seeing only what it
would have trained. Seeds are of the order of the text.
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import asdict
from datetime import date
from importlib.metadata import version
from itertools import product
from pathlib import Path

import numpy as np
import torch

from potstill.recipe import decode
from potstill.recipe.searching import build_search
from potstill.search import Bar, Judge, NoneFound, Point, Search, Standing, Train, judge, margin, next_move
from potstill.search.compression import Climbing
from potstill.search.job import DECAY, rungs_of
from potstill.search.smallest import Found, standing

HERE = Path(__file__).parent
METRICS = ("accuracy", "bits")
LOOKED = 3


def recipe(seed: int, wanted: argparse.Namespace):
    bars = [{"metric": metric, "least": 0.9} for metric in METRICS]
    return decode(
        {
            "name": f"search-{seed}",
            "teacher": {"model": "pocket"},
            "student": {"kind": "search", "bars": bars, "cuts": ["width", "both"], "looks": LOOKED},
            "data": {"source": "standard-library"},
            "training": {"tokens": wanted.tokens, "rows": 2, "learning_rate": 1.5e-3, "seed": seed},
            "evaluation": {"tokens": 60_000, "speed": False, "control": False},
        }
    )


def all_trained(search: Search) -> dict:
    """Every candidate at every look, and on held-out text at the end."""
    for _ in search._prepare():
        pass
    found = {}
    for one in search.candidates:
        for rung in range(len(search.rungs)):
            for event in search._train(one.name, rung):
                if isinstance(event, Climbing) and event.step.index == event.of:
                    print(f"  {one.name}: {event.of} steps, loss {event.step.loss:.3f}", flush=True)
        search.climber(one.name).forget()
        points = search.points(one.name)
        evidence = search.judging.evidence(search.of(one.name) / "held_out", search.climber(one.name).student)
        judged = {
            metric: asdict(judge(Bar(metric, 0.9), evidence, search.teacher_judged_by, looks=LOOKED))
            for metric in METRICS
        }
        found[one.name] = {
            "level": one.level,
            "cut": one.cut,
            "size": one.sizes.model.total,
            "share": one.parameters / search.job.teacher.model.num_parameters(),
            "points": {metric: [asdict(point) for point in points[str(Bar(metric, 0.9))]] for metric in METRICS},
            "judged": judged,
        }
    tokens = (search.teacher_chosen_by.text.tokens.sum(), search.teacher_judged_by.text.tokens.sum())
    return {
        "candidates": found,
        "tokens": search.tokens,
        "steps": search.job.settings.steps,
        "read": [float(one) for one in tokens],
    }


def played(found: dict, metric: str, least: float) -> dict:
    """The search for one bar: what it chose, what was right, what it cost."""
    candidates, tokens = found["candidates"], found["tokens"]
    rungs = rungs_of(found["steps"])
    scale = (found["read"][0] / found["read"][1]) ** 0.5
    climbed, judged = dict.fromkeys(candidates, 0), {}
    seen: dict[str, list[float]] = {name: [] for name in candidates}
    truth = {name: one["judged"][metric]["low"] >= least for name, one in candidates.items()}

    def curve(name: str) -> list[Point]:
        points = [Point(**point) for point in candidates[name]["points"][metric]]
        return [point for point in points if any(abs(point.tokens / tokens - share) < 0.01 for share in seen[name])]

    cost = 0.0
    for _ in range(200):
        curves = {name: curve(name) for name in candidates}
        standings = []
        for name, one in candidates.items():
            blank = Standing(name, one["cut"], one["level"], climbed[name], judged=judged.get(name))
            error = curves[name][-1].error * scale if curves[name] else 0.0
            targets = {"bar": (least + margin(error, looks=LOOKED), False)}
            others = {"bar": [other for each, other in curves.items() if each != name]}
            standings.append(standing(blank, {"bar": curves[name]}, targets, tokens=tokens, others=others))
        match next_move(standings, rungs=len(rungs), looks=LOOKED):
            case Train(names, to):
                for name in names:
                    before = rungs[climbed[name] - 1][-1] if climbed[name] else 0.0
                    looks = rungs[to - 1]
                    cost += ((1 - DECAY) * (looks[-1] - before) + DECAY * sum(looks)) * candidates[name]["size"]
                    seen[name] += looks
                    climbed[name] = to
            case Judge(name):
                judged[name] = truth[name]
            case Found(name):
                return _outcome(name, truth, candidates, cost)
            case NoneFound(_):
                return _outcome(None, truth, candidates, cost)
    raise AssertionError("the search doesn't end")


def _outcome(name: str | None, truth: dict, candidates: dict, cost: float) -> dict:
    passing = [one["level"] for each, one in candidates.items() if truth[each]]
    best = min(passing, default=None)
    level = None if name is None else candidates[name]["level"]
    reference = candidates[name]["size"] if name is not None else max(one["size"] for one in candidates.values())
    return {
        "right": level == best,
        "off": None if None in (level, best) else level - best,
        "cost": cost / reference,
        "none": name is None,
    }


def page(runs: list[dict], wanted: argparse.Namespace) -> str:
    lines = [
        "# The search",
        "",
        f"*{date.today().isoformat()}; `benchmarks/search.py --seeds {len(runs)} --tokens {wanted.tokens}`; {os.cpu_count()} cores "
        f"({torch.backends.cpu.get_cpu_capability()}); torch {version('torch')}, transformers {version('transformers')}.*",
        "",
        f"The pocket teacher, {len(runs)} seeds; every candidate of eight sizes and two cuts trained on {runs[0]['tokens']:,} tokens "
        "and judged on held-out text, and the search played again for each bar on what it would have seen.",
        "Right: the level it chose is the smallest on which any candidate clears the bar. Cost: all it trained, in parameters times",
        "tokens, over the chosen student's own training.",
        "",
        "| cuts | metric | bars | right | one level too large | otherwise wrong | cost, mean | cost, most |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for cuts in (("width", "both"), ("width",)):
        of_cuts = [
            {**run, "candidates": {n: c for n, c in run["candidates"].items() if c["cut"] in cuts}} for run in runs
        ]
        for metric, (low, high) in product(METRICS, ((0.60, 0.80), (0.80, 0.95))):
            bars = np.arange(low, high, 0.01)
            found = [played(run, metric, float(bar)) for run in of_cuts for bar in bars]
            costs = [one["cost"] for one in found if not one["none"]] or [float("nan")]
            off = [one["off"] for one in found if one["off"] is not None]
            lines.append(
                f"| {' and '.join(cuts)} | {metric} | {low:.0%} to {high - 0.01:.0%} | {np.mean([one['right'] for one in found]):.0%} | "
                f"{np.mean([one == 1 for one in off]):.0%} | {np.mean([one < 0 or one > 1 for one in off]):.0%} | "
                f"{np.mean(costs):.2f} × | {np.max(costs):.2f} × |"
            )
    lines += [
        "",
        "What every candidate kept at the full budget (seed 0, held-out text, intervals the verdicts are made by):",
        "",
    ]
    lines += ["| candidate | parameters | accuracy kept | bits kept |", "| --- | ---: | ---: | ---: |"]
    for name, one in runs[0]["candidates"].items():
        cells = [
            f"{one['judged'][m]['value']:.1%} ({one['judged'][m]['low']:.1%} to {one['judged'][m]['high']:.1%})"
            for m in METRICS
        ]
        lines.append(f"| {name} | {one['size'] / 1e6:.2f} M | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=200_000)
    wanted = parser.parse_args()
    runs = []
    for seed in range(wanted.seeds):
        out = Path("runs") / f"search-{seed}"
        kept = out / "all.json"
        if not kept.exists():
            search = build_search(recipe(seed, wanted), out, say=lambda text: print(text, flush=True))
            kept.write_text(json.dumps(all_trained(search)), "utf-8")
        runs.append(json.loads(kept.read_text("utf-8")))
        (HERE / "search.md").write_text(page(runs, wanted), "utf-8")
    print(page(runs, wanted))


if __name__ == "__main__":
    main()
