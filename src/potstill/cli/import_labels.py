"""`potstill import-labels SOURCE`: soft labels that another tool kept, as a store."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from potstill.errors import DataError

if TYPE_CHECKING:
    from rich.console import Console

    from potstill.soft_labels import ForeignLabels, Polynomial

Layout = Literal["columns", "distillkit", "axolotl", "openai"]


def import_labels(
    source: Annotated[
        str,
        typer.Argument(
            help="Rows: .jsonl, .parquet, a folder of them, a saved dataset, a hub name.", show_default=False
        ),
    ],
    teacher: Annotated[
        str,
        typer.Option(
            "--teacher", "-t", help="The model that was asked: a folder, a hub name, a .gguf file.", show_default=False
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The store to make or go on with.", show_default=False)],
    layout: Annotated[
        Layout | None, typer.Option(help="Whose rows these are. Default: seen from their columns.", show_default=False)
    ] = None,
    compressor: Annotated[
        Path | None, typer.Option(help="DistillKit's compression_config (YAML or JSON).", show_default=False)
    ] = None,
    k: Annotated[
        int | None, typer.Option(help="Tokens kept a prediction. Default: as many as are listed.", min=1)
    ] = None,
    temperature: Annotated[
        float, typer.Option(help="Of the softmax that the log-probabilities come from.", min=0.01)
    ] = 1.0,
    logprobs: Annotated[str, typer.Option(help="The column of axolotl's raw rows.")] = "logprobs",
    split: Annotated[str, typer.Option(help="Of a dataset.")] = "train",
) -> None:
    """Make a store of soft labels from DistillKit's, axolotl's or plain columns, or from answers with top_logprobs (vLLM, OpenAI)."""
    from potstill.cli.console import new_console
    from potstill.models import load_tokenizer
    from potstill.soft_labels import ForeignLabels

    labels = ForeignLabels(source, load_tokenizer(teacher), layout, _compressor(compressor), logprobs, split)
    _import(labels, teacher, out, k, temperature, new_console())


def _import(
    labels: ForeignLabels, teacher: str, out: Path, k: int | None, temperature: float, console: Console
) -> None:
    from rich.markup import escape

    from potstill.data import check_learnable, tokenize
    from potstill.models import load_model
    from potstill.runs import fingerprint_of_model, fingerprint_of_tokenizer
    from potstill.soft_labels import Manifest, Store, TopK, begin_store, most_listed
    from potstill.soft_labels import import_labels as written

    console.print(f"[dim]reading {escape(labels.source)} …[/dim]")
    corpus = tokenize(labels.documents(), labels.tokenizer)
    check_learnable(corpus)
    model = load_model(teacher)
    manifest = Manifest(
        codec=TopK(k or most_listed(labels, corpus), temperatures=(temperature,)),
        num_tokens=len(labels.tokenizer),
        tokenizer=fingerprint_of_tokenizer(labels.tokenizer),
        teacher={"name": teacher, "fingerprint": fingerprint_of_model(model), "dtype": "imported"},
        context=int(max(corpus.offsets[1:] - corpus.offsets[:-1])),
        temperature=temperature,
    )
    begin_store(out, manifest, corpus)
    for done in written(labels, corpus, out):
        console.print(f"[dim]{done:,} predictions …[/dim]")
    store = Store(out)
    what = f"{store.num_documents:,} documents, {store.num_tokens:,} predictions"
    size = store.num_bytes / max(store.num_tokens, 1)
    console.print(f"labels   [bold]{escape(str(out))}[/bold]  {what}, {size:.1f} bytes each")
    text = labels.source
    if labels.is_of_answers:
        text = str(out.with_name(f"{out.name}-text.jsonl"))
        labels.write_text(Path(text))
    console.print(
        f'learn    teacher.kind = "stored", teacher.labels = {str(out)!r}, data.source = {text!r}', markup=False
    )


def _compressor(path: Path | None) -> Polynomial | None:
    from potstill.soft_labels import Polynomial

    if path is None:
        return None
    import yaml

    try:
        found = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise DataError(f"{path} can't be read as YAML or JSON: {error}") from error
    if not isinstance(found, dict):
        raise DataError(f"{path} holds no settings: give DistillKit's compression_config")
    return Polynomial.of(found.get("logprob_compressor", found))
