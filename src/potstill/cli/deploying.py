"""After a search: the student written for its engine, and tried as its teacher's draft. What can't be done is said, and is no failure."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from potstill.cli.drafting import Wanted, run_draft
from potstill.cli.exporting import export_and_measure, wanted_of
from potstill.data import TokenCorpus, prompts_of
from potstill.errors import DataError, MissingExtraError, ModelError, ServerError
from potstill.evaluation.measuring import written_whole
from potstill.models import task_of
from potstill.reports.deployment import is_measured
from potstill.search import Search
from potstill.search.compression import DEPLOYED

_KIND, _TOKENS, _PROMPTS, _PROMPT_TOKENS = "q8_0", 4_000, 16, 32


def deploy(search: Search, teacher: str, console: Console) -> None:
    """What DEPLOYED names, in the search's folder: each is made once, and goes when the student or its held-out text becomes another."""
    if task_of(search.job.teacher.model) != "causal":
        console.print("[dim]only models that write text are exported for llama.cpp and tried as drafts[/dim]")
        return
    out = search.path
    export, draft = (out / name for name in DEPLOYED)
    said = export / "export.json"
    if not (said.exists() and is_measured(json.loads(said.read_text("utf-8")))):
        shutil.rmtree(export, ignore_errors=True)  # what a kill left
        _export(search, export, console)
    if (draft / "draft.json").exists():
        return
    beginning = min(_PROMPT_TOKENS, search.job.length // 2)
    wanted = Wanted(_PROMPTS, beginning, beginning, (0.0, 1.0), 6, "2", None, None)
    try:
        prompts = _prompts(search, search.job.texts.held_out, draft, beginning)
        run_draft(teacher, str(out / "student"), str(prompts), draft, wanted, console)
    except (ModelError, DataError) as error:
        console.print(f"[yellow]not tried as a draft: {escape(str(error))}[/yellow]")


def _export(search: Search, folder: Path, console: Console) -> None:
    try:
        export_and_measure(
            str(search.path),
            wanted_of("gguf", _KIND, None, 0.1),
            console,
            data=None,
            tokens=_TOKENS,
            length=min(512, search.job.length),
            threads=None,
            out=folder,
        )
    except (ModelError, MissingExtraError, ServerError) as error:
        console.print(f"[yellow]not exported for llama.cpp: {escape(str(error))}[/yellow]")
        shutil.rmtree(folder, ignore_errors=True)


def _prompts(search: Search, held_out: TokenCorpus, folder: Path, beginning: int) -> Path:
    """Beginnings of held-out documents as rows."""
    folder.mkdir(exist_ok=True)
    found = prompts_of(held_out, tokens=beginning, longest=search.job.length // 2)
    tokenizer, path = search.job.tokenizer, folder / "prompts.jsonl"
    rows = [{"prompt": tokenizer.decode(found[number].tolist())} for number in range(min(_PROMPTS, len(found)))]
    with written_whole(path) as part:
        part.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path
