"""A store of soft labels in front of a person."""

from __future__ import annotations

import html
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from potstill.errors import DataError, RunDirectoryError
from potstill.evaluation.measuring import written_whole
from potstill.losses import SoftLabelLoss
from potstill.recipe import load_recipe, read_corpus, tokenizer_of
from potstill.runs import fingerprint_of_tokenizer
from potstill.soft_labels import Store, describe
from potstill.teachers import StoredTeacher
from potstill.types import SparseTargets

_SHOWN = 5


@dataclass(frozen=True)
class Prediction:
    """A token of the text, what the teacher gave it, and what it thought likeliest; probabilities as stored."""

    token: str
    probability: float
    alternatives: list[tuple[str, float]]


def print_description(store: Store, console: Console) -> None:
    """What is in it."""
    manifest, found = store.manifest, describe(store)
    bits = math.log(2)
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    rows: list[tuple[str, str]] = [
        ("teacher", f"{manifest.teacher['name']}, {manifest.num_tokens:,} tokens, in {manifest.teacher['dtype']}"),
        ("tier", f"{manifest.codec}, temperature {', '.join(f'{t:g}' for t in store.temperatures) or 'any'}"),
        ("text", f"{found.documents:,} documents, {found.tokens:,} predictions, context {manifest.context:,}"),
        ("size", f"{store.num_bytes / 2**20:,.1f} MiB, {found.bytes_per_token:.2f} bytes a prediction"),
        ("", ", ".join(f"{name} {size:.2f}" for name, size in found.stream_bytes.items())),
    ]
    if found.records is not None:
        rows.append(
            (
                "records",
                f"{found.records:.1f} tokens a prediction, {found.listed_for_sure:.1%} of the mass by its own value",
            )
        )
    rows += [
        ("teacher is", f"right {found.accuracy:.1%} of the time, perplexity {math.exp(min(found.nll, 700)):,.2f}"),
        (
            "information",
            f"{found.entropy / bits:.2f} bits of uncertainty a prediction, which a hard label hides; calibration gap "
            f"{(found.nll - found.entropy) / bits:+.2f} bits",
        ),
        ("label noise", f"{1 - found.collision:.3f} squared error of one hard label drawn from the teacher"),
    ]
    if found.squared_error is not None and found.hard_labels is not None:
        rows.append(
            (
                "what is stored",
                f"{found.squared_error:.4f} squared error: worth {found.hard_labels:,.0f} hard labels a prediction",
            )
        )
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    console.print(table)
    for name in store.missing_shards:
        console.print(f"[yellow]missing  {escape(name)}: run `potstill label` again[/yellow]")


def look_at(store: Store, recipe: Path, sets: list[str], *, document: int, tokens: int) -> list[Prediction]:
    """The first predictions of a document of the recipe's training text. DataError where there is none of that number."""
    from potstill.data import ordered_batches

    decoded = load_recipe(recipe, sets=sets)
    tokenizer = tokenizer_of(decoded)
    corpus = read_corpus(decoded.data, tokenizer)
    corpus = corpus.part("train", held_out=decoded.data.held_out, search=decoded.data.search)
    if document >= len(corpus):
        raise DataError(
            f"the text has {len(corpus):,} documents to learn from: choose --document 0 to {len(corpus) - 1}"
        )
    # A divergence and temperature that the store serves: nothing is learned here.
    measure = SoftLabelLoss(temperature=(*store.temperatures, 1.0)[0])
    one = corpus.select([document])
    teacher = StoredTeacher(store, one, tokenizer=fingerprint_of_tokenizer(tokenizer), measure=measure)
    batch = next(ordered_batches(one, length=store.manifest.context, rows=1))
    targets, true = teacher.label(batch), batch.targets[batch.counted]
    found = []
    for place in range(min(tokens, len(true))):
        if isinstance(targets, SparseTargets):
            ids, probs = targets.ids[place].numpy(), targets.probs[place].numpy()
        else:
            probs = targets.head.logits(targets.rows[place]).softmax(-1).numpy()
            ids = np.arange(len(probs))
        at_true = float(probs[ids == int(true[place])].sum())
        kinds, where = np.unique(ids[ids >= 0], return_inverse=True)
        sums = np.bincount(where, weights=probs[ids >= 0])
        best = np.argsort(-sums, kind="stable")[:_SHOWN]
        alternatives = [(str(tokenizer.decode([int(kinds[i])])), float(sums[i])) for i in best]
        found.append(Prediction(str(tokenizer.decode([int(true[place])])), at_true, alternatives))
    return found


def print_document(predictions: list[Prediction], console: Console) -> None:
    """A line a token."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("token", "stored p", "the teacher's likeliest"):
        table.add_column(name, justify="right" if name == "stored p" else "left")
    for one in predictions:
        others = "  ".join(f"{token!r} {probability:.2f}" for token, probability in one.alternatives)
        table.add_row(escape(repr(one.token)), f"{one.probability:.2f}", escape(others))
    console.print()
    console.print(table)


def write_document(predictions: list[Prediction], path: Path) -> None:
    """A page on which each token, coloured by its stored probability, shows the distribution to whoever points at it."""
    if not path.parent.is_dir():
        raise RunDirectoryError(
            f"there is no folder {path.parent} to write the page to: make it, or choose another (--html)"
        )
    spans = "".join(_span(one) for one in predictions)
    with written_whole(path) as part:
        part.write_text(_PAGE.replace("TOKENS", spans), "utf-8")


def _span(one: Prediction) -> str:
    shown = html.escape(one.token).replace("\n", "⏎<br>")
    rows = "".join(
        f"<tr><td>{html.escape(repr(token))}</td><td><i style='width:{100 * p:.0f}px'></i> {p:.2f}</td></tr>"
        for token, p in one.alternatives
    )
    # From sure (white) to surprised (orange).
    strength = 1 - one.probability
    return (
        f"<span tabindex=0 style='background:rgba(226,128,40,{0.75 * strength:.2f})'>{shown}<table>"
        f"<caption>{html.escape(repr(one.token))}: {one.probability:.2f}</caption>{rows}</table></span>"
    )


_PAGE = """<!doctype html><meta charset="utf-8"><title>soft labels</title>
<style>
body { font: 16px/1.9 system-ui, sans-serif; max-width: 52rem; margin: 3rem auto; padding: 0 1rem; color: #222; background: #fff }
pre { font: 15px/1.9 ui-monospace, monospace; white-space: pre-wrap }
span { position: relative; border-radius: 3px; cursor: default }
span:hover, span:focus { outline: 2px solid #446 }
span table { display: none; position: absolute; left: 0; top: 1.7em; z-index: 1; background: #fff;
  border: 1px solid #bbb; padding: .4rem .6rem; font-size: 13px; line-height: 1.5; white-space: nowrap; box-shadow: 0 3px 12px #0003 }
span:hover table, span:focus table { display: block }
caption { text-align: left; font-weight: 600 }
i { display: inline-block; height: .7em; background: #446 }
</style>
<h1>What the teacher believes</h1>
<p>Point at a token: the likeliest ones the store has in its place. The stronger the colour, the less probable the text's own token was.</p>
<pre>TOKENS</pre>
"""
