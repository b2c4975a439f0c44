"""A recipe run from beginning to end, with a person watching: what `distill` and its stages share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from transformers.utils.logging import disable_progress_bar

from potstill.cli.console import next_step
from potstill.cli.tables import print_scores
from potstill.cli.watching import Watching
from potstill.data import preview
from potstill.models import fsdp_plugin, join_processes, task_of
from potstill.recipe import BuiltJob, Recipe, build_job, recipe_toml
from potstill.reports import write_report
from potstill.reports.distillation import distillation_page
from potstill.runs import Finished, RunScores, distil, manifest, scores_of
from potstill.training import self_check

# Enough to see that what is coloured is what should be learned; `potstill preview` shows more.
_PREVIEWED_TOKENS = 40


def run_recipe(recipe: Recipe, out: Path, console: Console, *, is_stage: bool = False) -> RunScores:
    """Build the objects, check them, train what is not trained, measure, and leave scores.json and report.html.

    `is_stage`: what to do next is said by whoever runs the others.
    """
    disable_progress_bar()
    processes = join_processes()  # before anybody asks where to compute: it alone reads what `accelerate launch` said
    console.quiet = not processes.is_main_process
    # The main process prepares the folder; the others find it prepared.
    with processes.main_process_first():
        built = build_job(recipe, out, say=lambda text: console.print(f"[dim]{escape(text)} …[/dim]"))
    check = _self_check(built, console)
    weights = "whole" if fsdp_plugin(processes) is None else "divided"
    beside, together = "", recipe.teacher.tensor_parallel
    if together:
        beside = f", the teacher's layers divided among {'them' if together is True else f'each {together} of them'}"
    if (count := processes.num_processes) > 1:
        console.print(
            f"shared   by {count} processes, weights {'in each' if weights == 'whole' else 'divided among them'}{beside}"
        )
    shared = {"count": count, "weights": weights, "tensor_parallel": together}
    details = manifest({"run": built.facts, "self_check": check, "processes": shared})
    built.folder.write_json("manifest.json", details)
    finished: Finished | None = None
    with Watching(console) as watching:
        for event in watching.through(distil(built.job, built.folder)):
            if isinstance(event, Finished):
                finished = event
    assert finished is not None
    scores = scores_of(finished.measurements, finished.sizes, finished.speeds, finished.worth)
    built.folder.write_json("scores.json", scores.to_json())
    if not processes.is_main_process:
        return scores
    steps = {model.name: built.folder.steps(model.name) for model in scores.models}
    write_report(distillation_page(recipe.name, scores, steps, recipe_toml(recipe), details), out / "report.html")
    print_scores(scores, console)
    loader = {"causal": "AutoModelForCausalLM", "masked": "AutoModelForMaskedLM"}.get(
        task_of(built.job.teacher.model), "AutoModelForSequenceClassification"
    )
    console.print(f"\nstudent  [bold]{escape(str(out / 'student'))}[/bold]  (loads with {loader}.from_pretrained)")
    if built.job.int4 is not None:
        console.print(
            f"packed   [bold]{escape(str(out / 'student-int4'))}[/bold]  four bits, a scale for {built.job.int4} inputs; scores of "
            "students that learned are of their weights so rounded"
        )
    console.print(f"report   [bold]{escape(str(out / 'report.html'))}[/bold]")
    if task_of(built.job.teacher.model) == "causal" and not is_stage:
        console.print(escape(next_step(out)), soft_wrap=True)
    return scores


def _self_check(built: BuiltJob, console: Console) -> Mapping[str, object]:
    """Before step 0: what is in the text, that student = teacher gives zero, and who pulls how hard."""
    job, facts = built.job, built.facts
    student = job.new_student()
    batch = next(job.batches.from_step(0)).rows(0, 2)
    teacher = job.teacher if job.teacher_held_out is None else job.marker
    check = self_check(student, teacher, batch, job.measure, dtype=job.settings.dtype)
    text = job.batches.report
    console.print(
        f"text     {text.documents:,} documents, {text.tokens:,} tokens, {text.counted_tokens:,} learned from; "
        f"held out {len(job.held_out):,} documents, {job.held_out.num_tokens:,} tokens"
    )
    for shown in preview(job.batches.corpus, job.tokenizer, documents=1, tokens=_PREVIEWED_TOKENS):
        console.print(shown)
    if text.samples_cut:
        console.print(
            f"[yellow]cut      {text.samples_cut:,} samples are longer than {job.length} tokens: {text.tokens_lost:,} tokens of what was "
            "to be learned are lost. Raise training.length to keep them[/yellow]"
        )
    console.print(
        f"plan     {job.settings.steps:,} steps of {job.batches.rows} × {job.length} tokens in {facts['dtype']} ({facts['epochs']} epochs)"
    )
    if (change := job.annealing) is not None:
        console.print(
            f"anneals  alpha goes from {job.measure.alpha:g} to {change.to:g} over {change.over:.0%} of the steps"
        )
    if (own := job.on_policy) is not None:
        console.print(
            f"writes   {own.share:.0%} of the steps read {own.rows} texts of at most {own.new_tokens} tokens that the student writes after "
            f"{len(own.prompts):,} prompts ({own.prompts.num_too_long:,} too long), anew every {own.refresh_every} of them"
        )
    if isinstance(found := facts.get("translation"), Mapping):
        console.print(
            f"spans    the teacher marks {found['marked']:.0%} of the predictions, {found['one_to_one']:.0%} as one token of both; of the "
            f"student's tokens {found['shared_tokens']:.0%} are the teacher's too"
        )
    shares = ", ".join(
        f"{name} {nats:.3f} nats ({check.shares.get(name, 0.0):.0%} of the gradient)"
        for name, nats in check.terms.items()
    )
    zero = "" if check.own_loss is None else f"; the teacher as its own student: {check.own_loss:.1g} nats ✓"
    console.print(f"check    at step 0: {shares}{zero}")
    return asdict(check)
