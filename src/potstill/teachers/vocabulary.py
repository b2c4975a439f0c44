"""Do teacher and student mean the same by a token id, and write a conversation the same way?"""

from __future__ import annotations

from collections.abc import Sequence

from jinja2 import TemplateError
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from potstill.errors import VocabularyError
from potstill.models import head_of, task_of

_ADVICE = "use a teacher and a student of one family, or give the student the teacher's tokenizer"

_QUESTION = {"role": "user", "content": "What is 2 + 2?"}
_ANSWER = {"role": "assistant", "content": "It is 4.\n\nAnything else?"}
_CONVERSATIONS = (
    [_QUESTION, _ANSWER],
    [
        _QUESTION,
        _ANSWER,
        {"role": "user", "content": "Thanks, naïve Zürich 🙂!"},
        {"role": "assistant", "content": "Bye."},
    ],
    [{"role": "system", "content": "Be brief."}, _QUESTION, _ANSWER],
)


def shared_vocabulary(
    teacher_tokenizer: PreTrainedTokenizerBase,
    student_tokenizer: PreTrainedTokenizerBase,
    *,
    teacher_rows: int,
    student_rows: int,
) -> int:
    """How many tokens both mean the same by: the size both heads are to be sliced to.

    Token-to-id maps are compared, not sizes: heads are padded differently within one family (151,936 and 152,064 rows for
    one tokenizer of 151,665 tokens), and equal sizes prove nothing. One tokenizer may go on where the other stops (tokens
    added for chat), and beyond the rows of its own head; ids at or beyond the returned size must not occur in the text.
    Raises VocabularyError with the first id below it that differs.
    """
    teacher = {token_id: token for token, token_id in teacher_tokenizer.get_vocab().items()}
    student = {token_id: token for token, token_id in student_tokenizer.get_vocab().items()}
    shared = min(max(teacher, default=-1), max(student, default=-1)) + 1
    for token_id in range(shared):
        if teacher.get(token_id) != student.get(token_id):
            raise VocabularyError(
                f"teacher has {len(teacher):,} tokens, student {len(student):,}, and they differ first at id {token_id} "
                f"({teacher.get(token_id)!r} / {student.get(token_id)!r}): {_ADVICE}"
            )
    size = min(shared, teacher_rows, student_rows)
    if size == 0:
        raise VocabularyError(f"teacher has {len(teacher):,} tokens, student {len(student):,}: one is empty; {_ADVICE}")
    return size


def shared_predictions(
    teacher: PreTrainedModel,
    student: PreTrainedModel,
    teacher_tokenizer: PreTrainedTokenizerBase,
    student_tokenizer: PreTrainedTokenizerBase,
) -> int:
    """How many tokens, or classes, both mean the same by. VocabularyError where they predict other things, or name them otherwise."""
    tasks = task_of(teacher), task_of(student)
    if tasks[0] != tasks[1]:
        raise VocabularyError(
            f"the teacher ({type(teacher).__name__}) and the student ({type(student).__name__}) don't predict the same kind of thing: "
            "take two of one kind"
        )
    if tasks[0] != "classes":
        rows = {"teacher_rows": head_of(teacher).num_tokens, "student_rows": head_of(student).num_tokens}
        return shared_vocabulary(teacher_tokenizer, student_tokenizer, **rows)
    theirs, ours = teacher.config.label2id, student.config.label2id
    if theirs != ours:
        raise VocabularyError(
            f"the teacher's classes are {theirs}, the student's {ours}: give both the same (label2id)"
        )
    rows = {"teacher_rows": teacher.config.vocab_size, "student_rows": student.config.vocab_size}
    shared_vocabulary(teacher_tokenizer, student_tokenizer, **rows)
    return int(teacher.config.num_labels or 0)


def check_chat_rendering(
    teacher_tokenizer: PreTrainedTokenizerBase, student_tokenizer: PreTrainedTokenizerBase
) -> None:
    """Both write sample conversations as the same text and the same token ids.

    A teacher that sees another rendering than it was trained on marks as a stranger. Raises VocabularyError with the first
    difference.
    """
    for conversation in _CONVERSATIONS:
        for asks in (False, True):
            teacher = _rendered(teacher_tokenizer, conversation, asks=asks)
            student = _rendered(student_tokenizer, conversation, asks=asks)
            if teacher != student:
                raise VocabularyError(
                    f"teacher and student render a conversation differently: {_difference(teacher, student)}; {_ADVICE}"
                )
            if teacher is not None and (where := _first_other_id(teacher_tokenizer, student_tokenizer, teacher)):
                raise VocabularyError(f"teacher and student cut a conversation into other tokens: {where}; {_ADVICE}")


def _rendered(tokenizer: PreTrainedTokenizerBase, conversation: list[dict[str, str]], *, asks: bool) -> str | None:
    """The conversation as text; None where there is no template, or it refuses (as Gemma 2 refuses a system turn)."""
    if tokenizer.chat_template is None:
        return None
    try:
        return str(tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=asks))
    except TemplateError:
        return None


def _difference(teacher: str | None, student: str | None) -> str:
    if teacher is None or student is None:
        return f"the {'teacher' if teacher is None else 'student'} has no chat template for it"
    same = _num_agreeing(teacher, student)
    return f"from character {same} on, {teacher[same : same + 40]!r} / {student[same : same + 40]!r}"


def _first_other_id(
    teacher_tokenizer: PreTrainedTokenizerBase, student_tokenizer: PreTrainedTokenizerBase, text: str
) -> str | None:
    teacher = teacher_tokenizer(text, add_special_tokens=False).input_ids
    student = student_tokenizer(text, add_special_tokens=False).input_ids
    if teacher == student:
        return None
    at = _num_agreeing(teacher, student)
    return (
        f"from token {at} on, {teacher_tokenizer.convert_ids_to_tokens(teacher[at : at + 5])} / "
        f"{student_tokenizer.convert_ids_to_tokens(student[at : at + 5])}"
    )


def _num_agreeing(first: Sequence[str | int], second: Sequence[str | int]) -> int:
    differing = (i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b)
    return next(differing, min(len(first), len(second)))
