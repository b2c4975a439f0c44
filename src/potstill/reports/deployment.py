"""What a student does where it works: tables of the exports, of the draft and of the router that lie in a run's folder."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from potstill.errors import DataError
from potstill.reports.page import Cell, Row, Table, number_cell

Facts = Mapping[str, Any]
NEXT_TOKENS = "next tokens of held-out text"
_ROUTE = ("source", "answering", "said", "promise", "figures", "random", "cost")


def deployment_tables(folder: Path) -> Iterator[Table]:
    """In its engines, as its teacher's draft and in its place, as far as any was tried. DataError for a damaged file."""
    if exports := [one for path in sorted(folder.glob("export-*/export.json")) if is_measured(one := _json(path))]:
        yield _export_table(exports)
    if (folder / "draft" / "draft.json").exists():
        yield _draft_table(_json(folder / "draft" / "draft.json"))
    if (folder / "route" / "policy.json").exists():  # written last
        yield _route_table(folder / "route")


def is_measured(export: Facts) -> bool:
    """Whether what export.json speaks of was measured to the end: a kill, or a file that can't be run, leaves it without scores."""
    return "scores" in export


def is_anothers(route: Path) -> bool:
    """Whether `potstill route` left there what it had from queries of someone's own, not a search. DataError for a damaged file."""
    if (route / "route.json").exists():
        return not _is_of_search(_json(route / "route.json"), route)
    has_queries = (route / "queries.jsonl").exists()
    return not has_queries and any((route / name).exists() for name in ("answers", "policy.json"))


def _is_of_search(found: Facts, route: Path) -> bool:
    """By what was read: the folder may have been moved since."""
    source = str(found.get("source"))
    queries = route / "queries.jsonl"
    return source == NEXT_TOKENS or (Path(source).parts[-2:] == queries.parts[-2:] and queries.exists())


def _export_table(exports: list[Facts]) -> Table:
    rows = []
    for one in exports:
        scores = one["scores"]
        cells = [
            f"{sum(one['bytes'].values()) / 1e6:,.1f}",
            f"{scores['KL to the student, nats']:.4f}",
            f"{scores['same first choice as the student']:.1%}",
            f"{scores['perplexity']:,.2f}",
            f"{one['speeds']['export']['decode_tokens_per_second'] or 0:,.0f}",
            "good" if one["good"] else one["why"],
        ]
        rows.append(Row(f"{one['format']}, {one['engine']}", [Cell(cell) for cell in cells]))
    columns = ["MB", "KL to the student, nats", "same first choice", "perplexity", "writes, tokens/s", "verdict"]
    return Table("In its engine", columns, rows, "export", "Written, read back and measured as the engine computes it.")


def _draft_table(found: Facts) -> Table:
    rows = []
    for trial in found["trials"]:
        rate, fastest = trial["rate"], max(trial["measured"], key=lambda one: one["speedup"])
        rows.append(
            Row(
                "greedy" if trial["temperature"] == 0 else f"temperature {trial['temperature']:g}",
                [
                    number_cell(rate["value"], rate["low"], rate["high"]),
                    Cell(f"{fastest['length']}"),
                    Cell(f"{fastest['mean_acceptance_length']:.2f}"),
                    Cell(f"{fastest['draft_acceptance_rate']:.1%}"),
                    Cell(f"{fastest['speedup']:.2f} ×"),
                ],
            )
        )
    costs = found["costs"]
    return Table(
        "As the draft of its teacher (speculative decoding)",
        ["a token is accepted", "drafted a round", "tokens a round", "of those drafted", "speed-up, measured"],
        rows,
        "tokens chosen",
        f"After beginnings of held-out documents, in transformers. A token of the student costs {costs['draft'] / costs['verify'][0]:.2f} "
        "of the teacher's; draft/report.html has every draft length.",
    )


def _route_table(route: Path) -> Table:
    found = _json(route / "route.json")
    if missing := [name for name in _ROUTE if name not in found]:
        raise DataError(
            f"{route / 'route.json'} has no {missing[0]!r}, it is damaged or an earlier version's: delete {route} and calibrate again"
        )
    promise, figures = found["promise"], found["figures"]
    teacher, student = (figures[name]["value"] for name in ("teacher", "student"))
    tossed = found["random"]["same_promise"]
    rows = [
        Row("by the policy", [Cell(f"{promise['share']:.1%}"), Cell(f"{promise['kept']:.1%}")], is_highlighted=True),
        Row(
            "by coin tosses, same promise", [Cell(f"{tossed:.1%}"), Cell(f"{1 - tossed * (1 - student / teacher):.1%}")]
        ),
        Row("the student alone, nothing promised", [Cell("100.0%"), Cell(f"{student / teacher:.1%}")]),
    ]
    is_token = found["answering"] == "token"
    judged_by = "the questions that it was judged by" if _is_of_search(found, route) else found["source"]
    asked = f"{NEXT_TOKENS}, one at a time" if is_token else judged_by
    note = f"{found['said']} Queries: {asked}; the promise is of traffic like them. route/report.html has every share."
    if found["cost"] is not None:
        note += f" It takes {found['cost']['relative']:.0%} of what asking the teacher alone takes, as the student is always asked."
    if is_token:
        note += (
            " Of whole answers nothing is promised: calibrate on your own prompts (potstill route) before it serves."
        )
    return Table(
        "In its teacher's place, where it is sure (routing)",
        ["answered by the student", "kept of the teacher's quality"],
        rows,
        "who is asked",
        note,
    )


def _json(path: Path) -> Facts:
    try:
        found = json.loads(path.read_text("utf-8"))
        if isinstance(found, dict):
            return found
        error = "it holds no object"
    except (OSError, ValueError, RecursionError) as failure:
        error = failure
    raise DataError(f"{path} is damaged ({error}): delete it and run the command again")
