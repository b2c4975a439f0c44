"""[training.on_policy]: the student learns on what it writes itself; and what it is made of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from potstill.errors import RecipeError
from potstill.recipe.table import Share, Table, mistake

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from potstill.data import TextBatches
    from potstill.recipe.schema import TeacherTable
    from potstill.training import OnPolicy


class OnPolicyTable(Table):
    """Some steps read what the student writes itself after prompts of the text; the teacher, which must be live, marks it (GKD)."""

    share: Share = 1.0
    """Of the steps that read the student's own text (GKD's lambda); the others read the text as it is."""
    rows: Annotated[int, Field(ge=1)] | None = None
    """Completions a step that reads the student's text; as many as `training.rows` when left out."""
    prompt_tokens: Annotated[int, Field(ge=1)] = 32
    """Of plain text: how many of a document's first tokens are a prompt. Records and chats have prompts of their own."""
    new_tokens: Annotated[int, Field(ge=1)] = 96
    """How much the student writes after a prompt, at most."""
    refresh_every: Annotated[int, Field(ge=1)] = 4
    """Steps that learn from text written at one time: more are faster, and learn from what an older student wrote."""
    temperature: Annotated[float, Field(ge=0.0)] = 1.0
    """Of the writing, which is not that of the loss; 0 always writes the likeliest token."""
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """Write only the likeliest tokens that together reach this probability."""
    top_k: Annotated[int, Field(ge=1)] | None = None
    """Write only so many of the likeliest tokens; left out: any."""
    teacher_share: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """The teacher's share in the choice of each token written (MiniLLM's teacher-mixed sampling)."""


def check_on_policy(table: OnPolicyTable | None, *, length: int, epochs: float | None) -> None:
    """Raise where the table doesn't go with the rest of [training]."""
    if table is None:
        return
    if table.new_tokens >= length:
        raise mistake(
            f"`on_policy.new_tokens` leaves no room for a prompt, found {table.new_tokens} of length = {length}: write less, or raise "
            "`length`"
        )
    if table.teacher_share and table.temperature == 0:
        raise mistake(
            f"`on_policy.temperature` = 0 draws nothing, so the teacher has no share in it, found teacher_share = {table.teacher_share:g}: "
            "leave one of them out"
        )
    if epochs is not None:
        raise mistake("`epochs` are passes over the text, and the student writes its own: say `tokens` or `steps`")


def check_can_mark(table: OnPolicyTable | None, *, teacher: TeacherTable, student: str, alpha: float) -> None:
    """Raise where nobody marks what the student writes, or no student is there to write."""
    if table is None:
        return
    if teacher.kind == "translated":
        raise mistake(
            "a teacher of another tokenizer marks the text alone (training.on_policy): take a teacher of the student's tokenizer"
        )
    if teacher.kind == "stored":
        raise mistake(
            'stored labels are of the text and can\'t mark what the student writes (training.on_policy): set teacher.kind = "live"'
        )
    mixture = teacher.mixture
    if mixture is not None and (mixture.one_at_a_time or any(other.labels is not None for other in mixture.others)):
        raise mistake(
            "stored labels are of the text and can't mark what the student writes (training.on_policy): leave "
            "teacher.mixture.one_at_a_time and the others' labels out"
        )
    if mixture is not None and table.teacher_share:
        raise mistake("several teachers can't write along: leave on_policy.teacher_share or teacher.mixture out")
    if teacher.average is not None:
        raise mistake(
            "teacher.average begins as the student itself, and has nothing to say of what that writes (training.on_policy): leave one of "
            "them out"
        )
    if alpha < 1:
        raise mistake(
            f"what the student writes is no label to learn (training.on_policy), found loss.alpha = {alpha:g}: set it to 1"
        )
    if student == "search":
        raise mistake(
            "a search trains its candidates on the text alone: leave training.on_policy out, and give what it finds a run of its own "
            '(student.kind = "model")'
        )


def build_on_policy(
    table: OnPolicyTable | None,
    batches: TextBatches,
    student: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    size: int,
) -> OnPolicy | None:
    """What [training.on_policy] describes, over the text of the run. RecipeError for models that don't write."""
    from potstill.data import PackedBatches, prompts_of
    from potstill.models import Sampling, ends_of
    from potstill.training import OnPolicy

    if table is None:
        return None
    if not isinstance(batches, PackedBatches):
        raise RecipeError(
            f"training.on_policy needs a student that writes, and {type(student).__name__} doesn't: leave it out, or distil a causal "
            "language model"
        )
    prompts = prompts_of(batches.corpus, tokens=table.prompt_tokens, longest=batches.length - table.new_tokens)
    return OnPolicy(
        batches,
        prompts,
        tuple(token for token in ends_of(student, tokenizer) if token < size),
        share=table.share,
        rows=table.rows or batches.rows,
        new_tokens=table.new_tokens,
        refresh_every=table.refresh_every,
        sampling=Sampling(table.temperature, table.top_p, table.top_k),
        teacher_share=table.teacher_share,
        seed=batches.seed,
    )
