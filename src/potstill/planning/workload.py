"""How much text goes through which model, how often; and what each of its tokens costs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from potstill.planning.labels import LabelFormat
from potstill.planning.shapes import ModelShape
from potstill.search.planning import LOOKS, share_besides

Stage = Literal["label", "distill", "compress"]
Action = Literal["mark", "weigh", "learn", "learn_hard", "read_teacher", "read_student", "write"]


@dataclass(frozen=True)
class Writing:
    """What a student that learns from its own text writes: completions a step on average, tokens of each, those written side by side; and
    the tokens that a step reads, on average."""

    rows: float
    new_tokens: int
    side_by_side: int
    read: float


@dataclass(frozen=True)
class Workload:
    """A run.

    kind          distill: one student and its controls; compress: the smallest student, searched among many
    steps         optimizer steps of a whole training
    rows          sequences a step; `micro_rows` of them a pass (None: all at once), of `length` tokens each
    is_stored     whether labels on disk mark, not the teacher
    is_translated  whether the teacher has a tokenizer of its own
    tensor_parallel  whether the processes run the teacher together, each a part of its layers: all (True), or each so many
    labelled      predictions that the teacher is to put on disk; 0 for none
    labels        what is kept of each, `label_rows` sequences a pass of the teacher
    held_out      tokens that every model is measured on
    chosen_by     tokens that a search chooses by
    looked_at     tokens that are looked at for what matters in the teacher
    cuts          ways that a search cuts a size
    looks         candidates that a search may judge on held-out text
    controls      further students that learn from labels of the text over the same tokens
    same_time     and one more, for as long as the student took
    untouched     whether the student is measured as it was, too
    text          tokens of the whole text, which are kept with the run
    teacher_bytes  a weight of the teacher; `bytes` a number of the forward pass
    checkpoint_every  steps between the states that are kept
    gradient_checkpointing  activations are computed twice
    lora          share of the student's weights that learn through adapters; None: all learn
    writing       of a student that learns from its own text
    """

    kind: Literal["distill", "compress"]
    teacher: ModelShape
    student: ModelShape
    steps: int
    rows: int
    length: int
    micro_rows: int | None = None
    is_stored: bool = False
    is_translated: bool = False
    tensor_parallel: bool | int = False
    labelled: int = 0
    labels: LabelFormat = field(default_factory=LabelFormat)
    label_rows: int = 8
    held_out: int = 0
    chosen_by: int = 0
    looked_at: int = 0
    cuts: int = 1
    looks: int = 0
    controls: int = 0
    same_time: bool = False
    untouched: bool = False
    text: int = 0
    teacher_bytes: int = 2
    bytes: int = 2
    checkpoint_every: int = 200
    gradient_checkpointing: bool = False
    lora: float | None = None
    writing: Writing | None = None

    @property
    def reads_head(self) -> bool:
        """Whether labels from disk are hidden states, which become logits by the teacher's head."""
        return self.is_stored and self.labels.tier == "hidden"

    def together(self, count: int) -> int:
        """How many of `count` processes run one teacher; 1 where each runs its own, or labels are on disk."""
        if count == 1 or self.is_stored or not self.tensor_parallel:
            return 1
        return count if self.tensor_parallel is True else int(self.tensor_parallel)

    @property
    def gathered_bytes(self) -> int:
        """A weight of a divided layer of the student, as it is gathered: in the forward pass's own format, but for experts'."""
        return 4 if self.student.is_mixture else self.bytes

    @property
    def tokens_per_step(self) -> int:
        """Read by the student."""
        return self.rows * self.length if self.writing is None else round(self.writing.read)

    @property
    def tokens(self) -> int:
        """Read by the student in a whole training."""
        return self.steps * self.tokens_per_step

    @property
    def trained(self) -> float:
        """Parameters with a gradient and moments."""
        return self.student.parameters * (1.0 if self.lora is None else self.lora)


@dataclass(frozen=True)
class Phase:
    """One thing after another: so many tokens of one kind of work, in so many optimizer steps where it learns."""

    stage: Stage
    name: str
    action: Action
    tokens: float
    steps: float = 0.0


def phases_of(work: Workload) -> list[Phase]:
    """What happens, in this order; what has nothing to do is left out."""
    phases = _of_search(work) if work.kind == "compress" else _of_distillation(work)
    label = _phase("label", "the teacher marks the text for the store", "mark", work.labelled)
    return [phase for phase in (label, *phases) if phase.tokens > 0]


def _of_distillation(work: Workload) -> list[Phase]:
    students = 1 + work.controls + work.same_time + work.untouched
    written = 0 if work.writing is None else work.steps * work.writing.rows * work.writing.new_tokens
    return [
        _phase("distill", "looking for what matters in the teacher", "weigh", work.looked_at),
        # It is read twice: by itself, and for what students are compared with, which is remembered from the first of them on.
        _phase("distill", "measuring the teacher", "read_teacher", 2 * work.held_out),
        _phase("distill", "the student writes its own text", "write", written),
        _phase("distill", "the student learns", "learn", work.tokens, work.steps),
        _of_control(work, "distill"),
        _phase("distill", "measuring students", "read_student", students * work.held_out),
    ]


def _of_search(work: Workload) -> list[Phase]:
    """The search decides what it trains as it goes: so much as others did (benchmarks/search.md)."""
    trained = 1 + share_besides(work.cuts)
    judged = work.looks + 4  # the untouched student, the control, and the two looks at four bits
    return [
        _phase("compress", "looking for what matters in the teacher", "weigh", work.looked_at),
        _phase("compress", "measuring the teacher", "read_teacher", work.held_out + work.chosen_by),
        _phase("compress", "candidates learn", "learn", trained * work.tokens, trained * work.steps),
        _of_control(work, "compress"),
        _phase("compress", "measuring candidates", "read_student", LOOKS * work.chosen_by + judged * work.held_out),
    ]


def _of_control(work: Workload, stage: Stage) -> Phase:
    return _phase(
        stage, "controls learn from the text", "learn_hard", work.controls * work.tokens, work.controls * work.steps
    )


def _phase(stage: Stage, name: str, action: Action, tokens: int | float, steps: int | float = 0) -> Phase:
    return Phase(stage, name, action, float(tokens), float(steps))


def flops_a_token(work: Workload, action: Action) -> float:
    """Operations of one token's part in an action, matmuls and attention alone."""
    of_teacher, of_student = (2 * _multiplied(shape, work.length) for shape in (work.teacher, work.student))
    of_teachers_head, of_students_head = 2 * work.teacher.head, 2 * work.student.head
    match action:
        case "mark" | "read_teacher" | "weigh":
            return float(of_teacher + of_teachers_head)
        case "read_student":
            return float(of_student + of_students_head + of_teachers_head)
        case "write":
            return float(of_student + of_students_head)
        case "learn" | "learn_hard":
            # Forward, gradient of what goes in, gradient of the weights: the last for those that learn.
            passes = 2 + (1 if work.lora is None else work.lora) + work.gradient_checkpointing
            learning = passes * of_student + 3 * of_students_head
            if action == "learn":
                learning += of_teachers_head if work.reads_head else 0
                learning += 0 if work.is_stored else of_teacher + of_teachers_head
            return float(learning)


def _multiplied(shape: ModelShape, length: int) -> int:
    """Multiply-adds of a token's way through the layers: every weight once, and half the context in attention, scores and values."""
    return shape.active + shape.layers * shape.attention * length
