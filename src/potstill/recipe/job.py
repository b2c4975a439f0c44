"""A whole recipe -> the job it describes, in its run directory. Everything that can be refused is refused here, before training."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from potstill.errors import RecipeError
from potstill.recipe.build import (
    build_correction,
    build_importance,
    build_learner,
    build_measure,
    build_settings,
    build_student,
    num_steps,
)
from potstill.recipe.comparing import build_features
from potstill.recipe.four_bits import group_of_run
from potstill.recipe.kinds import ModelStudent
from potstill.recipe.number_format import dtype_of_run
from potstill.recipe.on_policy import build_on_policy
from potstill.recipe.schema import Recipe
from potstill.recipe.specialists import build_annealing, build_gate
from potstill.recipe.text import Say, check_is_apart, corpus_of_run, fingerprint_of_text, learned_and_held_out
from potstill.recipe.toml import recipe_toml
from potstill.recipe.translated import build_translated, translated_job

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from potstill.data import TokenCorpus
    from potstill.losses import FeatureLoss, SoftLabelLoss
    from potstill.runs import Job, RunFolder
    from potstill.students import Importance
    from potstill.teachers import LiveTeacher
    from potstill.types import Lineage, Teacher


@dataclass(frozen=True)
class BuiltJob:
    """The job, its folder, and what was decided on the way to it (dtype, steps, what becomes of the text)."""

    job: Job
    folder: RunFolder
    facts: dict[str, object]


def build_job(recipe: Recipe, out: Path, *, say: Say) -> BuiltJob:
    """Load, check, tokenise. Raises a PotstillError for whatever can't work; `say` is told what takes a while."""
    from potstill.data import MaskedBatches
    from potstill.models import hold_in_, size_of, task_of
    from potstill.recipe.marking import build_mixture, fingerprints_of_others, label_one_at_a_time, size_of_all
    from potstill.runs import Job, RunFolder, check_trackers
    from potstill.teachers import LiveTeacher

    check_trackers(recipe.training.trackers)
    check_is_apart(recipe.data, out)
    label_one_at_a_time(recipe, out, say)
    model, student, tokenizer, size = _checked_models(recipe, say)
    size = size_of_all(recipe, student, tokenizer, size)
    identity = _identity(recipe, model, student, tokenizer)
    more, others = fingerprints_of_others(recipe, out)
    identity |= more
    folder = RunFolder.open(out, recipe_toml(recipe), identity)
    corpus = corpus_of_run(recipe, folder, model, tokenizer, size, say)
    batches, held_out = learned_and_held_out(recipe, task_of(model), tokenizer, corpus)
    training, measure = recipe.training, build_measure(recipe.loss)
    stored = _stored(recipe, out, task_of(model), batches.corpus, measure, identity)
    importance, lineage = _importance(recipe, folder, model, batches.corpus, say)
    features = build_features(recipe.loss, model, student, lineage)
    dtype = dtype_of_run(recipe.training.dtype, folder, say)
    hold_in_(model, dtype)
    on_policy = build_on_policy(training.on_policy, batches, student, tokenizer, size=size)
    per_step = training.rows * training.length if on_policy is None else round(on_policy.tokens_per_step)
    steps = num_steps(training, tokens_per_step=per_step, steps_per_epoch=batches.steps_per_epoch)
    translated = build_translated(recipe, model, student, tokenizer) if recipe.teacher.kind == "translated" else None
    live = LiveTeacher(model, size=size) if translated is None else translated.live
    marker = translated or stored or _live(live, features)
    if recipe.teacher.mixture is not None:
        marker = build_mixture(recipe, out, marker, others, batches.corpus, identity, dtype)
    job = Job(
        teacher=live,
        marker=marker,
        tokenizer=tokenizer,
        new_student=lambda: build_learner(recipe, model, importance),
        batches=batches,
        on_policy=on_policy,
        held_out=held_out,
        measure=measure,
        features=features,
        annealing=build_annealing(recipe.loss),
        int4=group_of_run(recipe, student),
        gate=build_gate(recipe, corpus, task_of(model), steps=steps),
        correction=build_correction(recipe, dtype=dtype),
        masking=batches.masking if isinstance(batches, MaskedBatches) else None,
        settings=build_settings(training, steps=steps, dtype=dtype, tensor_parallel=recipe.teacher.tensor_parallel),
        length=training.length,
        trackers=training.trackers,
    )
    job = _with_controls(job, recipe)
    facts: dict[str, object] = {"shared_vocabulary": size}
    if translated is not None:
        job, facts = translated_job(job, translated, recipe)
    sizes = {"teacher": asdict(size_of(model)), "student": asdict(size_of(student))}
    return BuiltJob(job, folder, {**identity, **_facts(job), "sizes": sizes, **facts})


def _identity(
    recipe: Recipe, teacher: PreTrainedModel, student: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> dict[str, str]:
    """What the run is of, as fingerprints."""
    from potstill.runs import fingerprint_of_model, fingerprint_of_tokenizer

    return {
        "teacher": fingerprint_of_model(teacher),
        "student": fingerprint_of_model(student),
        "tokenizer": fingerprint_of_tokenizer(tokenizer),
        "text": fingerprint_of_text(recipe.data),
    }


def _with_controls(job: Job, recipe: Recipe) -> Job:
    """The same, with what is trained and measured besides as the recipe wants it."""
    wanted, average = recipe.evaluation, recipe.teacher.average
    return replace(
        job,
        control=wanted.control,
        same_time=wanted.control_same_time,
        untouched=wanted.untouched,
        speed=wanted.speed,
        smoothing=wanted.smoothing,
        average=None if average is None else average.decay,
    )


def _facts(job: Job) -> dict[str, object]:
    """How long it is, in what dtype, over what text."""
    steps, batches, own = job.settings.steps, job.batches, job.on_policy
    of_text = steps if own is None else steps - own.num_written(steps)
    prompts = {} if own is None else {"prompts": len(own.prompts), "prompts_too_long": own.prompts.num_too_long}
    return {
        "dtype": str(job.settings.dtype).removeprefix("torch."),
        "steps": steps,
        **prompts,
        "epochs": round(of_text / batches.steps_per_epoch, 3),
        "text": asdict(batches.report),
        "held_out": {"documents": len(job.held_out), "tokens": job.held_out.num_tokens},
    }


def _live(live: LiveTeacher, features: FeatureLoss | None) -> LiveTeacher:
    """The teacher itself, with the layers and attention that the features compare."""
    from potstill.teachers import LiveTeacher

    if features is None:
        return live
    layers, attention = features.teacher_layers, features.teacher_attention
    return LiveTeacher(live.model, size=live.num_tokens, layers=layers, attention=attention)


def _stored(
    recipe: Recipe, out: Path, task: str, corpus: TokenCorpus, measure: SoftLabelLoss, identity: dict[str, str]
) -> Teacher | None:
    """What the teacher said of this corpus, where the recipe has that on disk."""
    from potstill.recipe.labelling import check_is_teacher, open_store
    from potstill.teachers import StoredTeacher

    if recipe.teacher.kind != "stored":
        return None
    check_stored(recipe, task)
    store = open_store(recipe, out)
    check_is_teacher(store, identity["teacher"])
    return StoredTeacher(store, corpus, tokenizer=identity["tokenizer"], measure=measure)


def check_stored(recipe: Recipe, task: str) -> None:
    """RecipeError where labels from disk can't be what is learned from, whatever is in them."""
    if recipe.loss.features:
        raise RecipeError(
            f'stored labels have no hidden states: set teacher.kind = "live", or leave {" and ".join(recipe.loss.features)} out'
        )
    if task != "causal":
        raise RecipeError('labels are stored for causal language models alone: set teacher.kind = "live"')


def _checked_models(recipe: Recipe, say: Say) -> tuple[PreTrainedModel, PreTrainedModel, PreTrainedTokenizerBase, int]:
    """(teacher, untouched student, the student's tokenizer, size of the vocabulary both share)."""
    from potstill.models import (
        check_context,
        check_head,
        check_packing,
        check_tensor_parallel,
        group_size,
        join_processes,
        load_model,
        task_of,
    )

    say(f"loading {recipe.teacher.model}")
    model = load_model(recipe.teacher.model)
    if recipe.teacher.tensor_parallel:
        check_tensor_parallel(model, group_size(recipe.teacher.tensor_parallel, join_processes().num_processes))
    student, _ = build_student(recipe.student, model)
    size, tokenizer = shared_tokenizer(recipe, model, student)
    for checked in (model, student):
        check_context(checked, recipe.training.length)
        check_head(checked)
        if recipe.training.packing and task_of(checked) == "causal":
            check_packing(checked)
    return model, student, tokenizer, size


def _importance(
    recipe: Recipe, folder: RunFolder, model: PreTrainedModel, corpus: TokenCorpus, say: Say
) -> tuple[Importance | None, Lineage | None]:
    """(what the student is cut by, kept in the folder; where its parts come from, written there)."""
    from potstill.models import on_this_device
    from potstill.students import Importance

    kept = folder.path / "importance.safetensors"
    if kept.exists():
        found = Importance.load(kept)
    else:
        if recipe.student.kind == "prune":
            say(f"measuring what matters in the teacher, on up to {recipe.student.tokens:,} tokens (student.tokens)")
        found = build_importance(recipe.student, on_this_device(model), corpus, recipe.training.length)
        if found is not None and folder.is_written_here:
            part = kept.with_name(f".{kept.name}.part-{os.getpid()}")
            found.save(part)
            part.replace(kept)
    lineage = build_student(recipe.student, model, found)[1]
    if lineage is not None and folder.is_written_here:
        folder.write_json("lineage.json", asdict(lineage))
    return found, lineage


def shared_tokenizer(
    recipe: Recipe, teacher: PreTrainedModel, student: PreTrainedModel
) -> tuple[int, PreTrainedTokenizerBase]:
    """(size of the vocabulary both share, the tokenizer the text goes through: the student's own, where it has one).

    The models may be without weights. Raises VocabularyError when the two don't mean the same.
    """
    from potstill.models import load_tokenizer
    from potstill.teachers import check_chat_rendering, shared_predictions

    own = tokenizer_of(recipe)
    if recipe.teacher.kind == "translated":
        return build_translated(recipe, teacher, student, own).num_tokens, own
    marks = load_tokenizer(recipe.teacher.model)
    # A base model has no template; a chat that needs one is refused where it is read.
    if marks.chat_template is not None and own.chat_template is not None:
        check_chat_rendering(marks, own)
    return shared_predictions(teacher, student, marks, own), own


def tokenizer_of(recipe: Recipe) -> PreTrainedTokenizerBase:
    """What the text goes through."""
    from potstill.models import load_tokenizer

    return load_tokenizer(recipe.student.model if isinstance(recipe.student, ModelStudent) else recipe.teacher.model)
