"""Which threshold keeps its promise, and what a real pair of models gives. Tables: router.md

    .venv/bin/python benchmarks/router.py simulated                                      (2 minutes)
    .venv/bin/python benchmarks/router.py tokens TEACHER STUDENT TEXT runs/router.npz     (3 minutes; marks again only what is missing)
    .venv/bin/python benchmarks/router.py queries TEXT runs/router.jsonl                  (for potstill route)

simulated  pairs of models made up: 200 calibrations of each size, each rule's threshold held against what is truly the case.
tokens     queries are places in held-out text, an answer is the likeliest next token, right or not. 200 real calibrations on queries
           drawn at random, each held against all the places that it has not seen.
queries    five lines of held-out text and four lines that may come next, three of them from elsewhere: a JSONL with choices.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import numpy as np

from potstill.data import read_documents, split_of, tokenize
from potstill.models import faster_dtype, hold_in_, load_model, load_tokenizer
from potstill.routing.confidence import fit_signal, on_points
from potstill.routing.promise import betting_p_value, certify, net_loss, thresholds_of

RHO, DELTA, FIT = 0.97, 0.1, 0.3
TIMES = 200
SIZES = (100, 300, 1000, 3000)
LENGTH, TOP = 128, 5


def drawn(n: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Confidences, the student's scores and the teacher's: queries of a difficulty, of which the student knows something."""
    difficulty = random.normal(size=n)
    ours, theirs = (1 / (1 + np.exp(-(at - slope * difficulty))) for at, slope in ((2.2, 1.6), (3.2, 1.5)))
    student, teacher = (random.random(n) < ours).astype(float), (random.random(n) < theirs).astype(float)
    return np.clip(ours + 0.12 * random.normal(size=n), 1e-6, 1), student, teacher


def naive(
    confidences: np.ndarray, student: np.ndarray, teacher: np.ndarray, thresholds: np.ndarray, rho: float = RHO
) -> float | None:
    """The lowest threshold that kept the promise on the calibration queries themselves."""
    losses = [net_loss((confidences >= one).astype(float), student, teacher, rho).mean() for one in thresholds]
    held = [float(one) for one, loss in zip(thresholds, losses, strict=True) if loss <= 0]
    return min(held, default=None)


def by_normal_approximation(
    confidences: np.ndarray, student: np.ndarray, teacher: np.ndarray, thresholds: np.ndarray
) -> float | None:
    """Fixed-sequence testing with a z-test: right for large n only."""
    found = None
    for one in thresholds:
        losses = net_loss((confidences >= one).astype(float), student, teacher, RHO)
        z = losses.mean() / (losses.std() / math.sqrt(len(losses)) + 1e-12)
        if 0.5 * math.erfc(-z / math.sqrt(2)) > DELTA:
            break
        found = float(one)
    return found


def promised(confidences: np.ndarray, student: np.ndarray, teacher: np.ndarray, thresholds: np.ndarray) -> float | None:
    return certify(confidences, student, teacher, thresholds, rho=RHO, delta=DELTA).threshold


def counting_losses_alone(
    confidences: np.ndarray, student: np.ndarray, teacher: np.ndarray, thresholds: np.ndarray
) -> float | None:
    """The same, without what is won where only the student is right."""
    return promised(confidences, np.minimum(student, teacher), teacher, thresholds)


RULES = {
    "naive: lowest threshold that held on these queries": naive,
    "fixed sequence, z-test (large n only)": by_normal_approximation,
    "fixed sequence, betting, losses alone": counting_losses_alone,
    "**fixed sequence, betting (what potstill does)**": promised,
}


def simulated() -> None:
    """A Markdown table: share answered by the student and share of broken promises, by rule and number of queries."""
    random = np.random.default_rng(0)
    everyone = drawn(2_000_000, random)
    confidences, student, teacher = everyone
    thresholds = thresholds_of(drawn(100_000, random)[0])
    truth = {
        float(one): net_loss((confidences >= one).astype(float), student, teacher, RHO).mean() for one in thresholds
    }
    best = min(one for one, loss in truth.items() if loss <= 0)
    print(
        f"student {student.mean():.3f}, teacher {teacher.mean():.3f}; best possible share {(confidences >= best).mean():.2f}\n"
    )
    print("| rule | " + " | ".join(f"n = {n:,}" for n in SIZES) + " |\n| --- |" + " ---: |" * len(SIZES))
    cells: dict[str, list[str]] = {name: [] for name in RULES}
    for n in SIZES:
        found: dict[str, list[tuple[float, bool]]] = {name: [] for name in RULES}
        for _ in range(TIMES):
            queries = drawn(n, random)
            for name, rule in RULES.items():
                threshold = rule(*queries, thresholds)
                share = 0.0 if threshold is None else float((queries[0] >= threshold).mean())
                found[name].append((share, threshold is not None and bool(truth[threshold] > 0)))
        for name, results in found.items():
            share, broken = np.mean(results, axis=0)
            cells[name].append(f"{share:.2f} / {broken:.1%}")
    for name, row in cells.items():
        print(f"| {name} | {' | '.join(row)} |")


def domains_of(text: str) -> dict[str, str]:
    """Document key -> the folder it lies in, of the largest six; "other" else."""
    folders = [one for one in sorted(Path(text).iterdir()) if one.is_dir()] if Path(text).is_dir() else []
    found = {folder.name: [document.key for document in read_documents(folder)] for folder in folders}
    largest = sorted(found, key=lambda name: -len(found[name]))[:6]
    return {key: name for name in largest for key in found[name]}


def marked(teacher: str, student: str, text: str, most: int) -> dict[str, np.ndarray]:
    """For each place in held-out text: whether each model's likeliest token is right, and how sure the student is."""
    import torch

    tokenizer = load_tokenizer(teacher)
    held_out = (one for one in read_documents(text, tokenizer=tokenizer) if split_of(one.key) == "held_out")
    corpus = tokenize(held_out, tokenizer)
    order = np.random.default_rng(0).permutation(len(corpus))
    domain_of, rows, domains, total = domains_of(text), [], [], 0
    for document in order:
        ids = corpus.ids[corpus.offsets[document] : corpus.offsets[document + 1]][:LENGTH].astype(np.int64)
        if len(ids) < 32 or total >= most:
            continue
        rows.append(torch.tensor(ids)[None])
        domains += [domain_of.get(corpus.keys[document], "other")] * (len(ids) - 1)
        total += len(ids)
    found: dict[str, list[np.ndarray]] = {name: [] for name in ("teacher", "student", "logprob", "margin", "entropy")}
    for name, source in (("teacher", teacher), ("student", student)):
        model = load_model(source)
        hold_in_(model, faster_dtype(torch.device("cpu")))
        for ids in rows:
            with torch.inference_mode():
                log_p = model(ids).logits[0, :-1].float().log_softmax(-1)
            top = log_p.topk(TOP, -1)
            found[name].append((top.indices[:, 0] == ids[0, 1:]).float().numpy())
            if name == "student":
                p, rest = top.values.exp(), (1 - top.values.exp().sum(-1)).clamp_min(1e-12)
                found["logprob"].append(top.values[:, 0].numpy())
                found["margin"].append((p[:, 0] - p[:, 1]).numpy())
                found["entropy"].append((-(p * top.values).sum(-1) - rest * rest.log()).numpy())
    return {name: np.concatenate(parts).astype(float) for name, parts in found.items()} | {"domain": np.array(domains)}


def write_rows(places: dict[str, np.ndarray], path: Path) -> None:
    """3,000 places drawn at random, for potstill route."""
    drawn_places = np.random.default_rng(0).permutation(len(places["student"]))[:3000]
    with path.open("w", encoding="utf-8") as file:
        for at in drawn_places:
            row = {
                "mean_logprob": places["logprob"][at],
                "entropy": places["entropy"][at],
                "margin": places["margin"][at],
            }
            row |= {"student_score": places["student"][at], "teacher_score": places["teacher"][at]}
            file.write(json.dumps(row | {"domain": str(places["domain"][at])}) + "\n")


def tokens(teacher: str, student: str, text: str, kept: Path, most: int, rho: float) -> None:
    """200 calibrations on real queries, each held against all others."""
    if not kept.exists():
        np.savez_compressed(kept, **marked(teacher, student, text, most))
    places = dict(np.load(kept))
    everyone = np.arange(len(places["student"]))
    write_rows(places, kept.with_suffix(".jsonl"))
    print(
        f"{len(everyone):,} places; teacher right {places['teacher'].mean():.1%}, student {places['student'].mean():.1%}, "
        f"as good as the teacher at {(places['student'] >= places['teacher']).mean():.1%}\n"
    )
    heads = [
        "queries (tested)",
        "student's share",
        "from, to",
        "broken",
        "kept, on all others",
        "at random, promised",
        "broken by naive",
        "no promise",
    ]
    print(f"| {' | '.join(heads)} |\n|{' ---: |' * len(heads)}")
    for n in (one for one in (300, 1000, 3000) if one <= len(everyone) / 2):
        found = [once(places, np.random.default_rng(time).permutation(everyone), n, rho) for time in range(TIMES)]
        share, kept_share, at_random, looked_fine, is_none = np.array(found).T
        print(
            f"| {n:,} ({n - round(n * FIT):,}) | {share.mean():.1%} | {share.min():.0%} to {share.max():.0%} | "
            f"{(kept_share < rho).mean():.1%} | {kept_share.mean():.1%} | {at_random.mean():.1%} | "
            f"{(looked_fine < rho).mean():.1%} | {is_none.mean():.0%} |",
            flush=True,
        )


def once(places: dict[str, np.ndarray], order: np.ndarray, n: int, rho: float) -> tuple[float, ...]:
    """Calibrated on the first n as `calibrate` does, held against all others: share, kept, share at random with the same promise,
    kept by the threshold that only looked fine, whether there was no promise."""
    student, teacher, signal = (places[name] for name in ("student", "teacher", "logprob"))
    fitting, testing, others = order[: round(n * FIT)], order[round(n * FIT) : n], order[n:]
    fitted = fit_signal("mean_logprob", signal[fitting], (student >= teacher)[fitting].astype(float))
    sure = on_points(fitted.confidence, signal)
    grid = thresholds_of(sure[fitting])
    test = sure[testing], student[testing], teacher[testing]
    found = certify(*test, grid, rho=rho, delta=DELTA).threshold

    def kept(threshold: float | None) -> tuple[float, float]:
        accepted = sure[others] >= (math.inf if threshold is None else threshold)
        mix = np.where(accepted, student[others], teacher[others])
        return float(accepted.mean()), float(mix.mean() / teacher[others].mean())

    shares = np.arange(1, 51) / 50
    tosses = [
        betting_p_value(net_loss(np.full(len(testing), one), *test[1:], rho), rho=rho, delta=DELTA) for one in shares
    ]
    failed = np.array(tosses) > DELTA
    at_random = 0.0 if failed[0] else float(shares[(failed.argmax() if failed.any() else len(shares)) - 1])
    return *kept(found), at_random, kept(naive(*test, grid, rho))[1], float(found is None)


def queries(text: str, out: Path, number: int) -> None:
    """Five lines, and which line comes next."""
    random, domain_of, pieces = np.random.default_rng(0), domains_of(text), []
    for document in read_documents(text):
        if split_of(document.key) != "held_out":
            continue
        lines = [line.rstrip() for line in document.text.split("\n") if len(line.strip()) >= 12]
        for start in range(0, len(lines) - 5, 12):
            pieces.append((domain_of.get(document.key, "other"), lines[start : start + 6]))
    random.shuffle(pieces)
    with out.open("w", encoding="utf-8") as file:
        for place, (domain, lines) in enumerate(pieces[:number]):
            others = {pieces[(place + step) % len(pieces)][1][5] for step in (1, 2, 3)}
            choices = [lines[5], *sorted(others - {lines[5]})]
            random.shuffle(choices)
            row = {"prompt": "\n".join(lines[:5]) + "\n", "choices": choices, "answer": lines[5], "domain": domain}
            file.write(json.dumps(row) + "\n")
    print(f"{min(number, len(pieces)):,} of {len(pieces):,} passages -> {out}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="part", required=True)
    parts.add_parser("simulated")
    real = parts.add_parser("tokens")
    for name in ("teacher", "student", "text"):
        real.add_argument(name)
    real.add_argument("kept", type=Path)
    real.add_argument("--tokens", type=int, default=12_000)
    real.add_argument("--keep", type=float, default=RHO)
    asked = parts.add_parser("queries")
    asked.add_argument("text")
    asked.add_argument("out", type=Path)
    asked.add_argument("--number", type=int, default=1500)
    wanted = parser.parse_args()
    match wanted.part:
        case "simulated":
            simulated()
        case "tokens":
            tokens(wanted.teacher, wanted.student, wanted.text, wanted.kept, wanted.tokens, wanted.keep)
        case "queries":
            queries(wanted.text, wanted.out, wanted.number)


if __name__ == "__main__":
    main()
