"""The choices of a recipe: one frozen class a `kind` of student, divergence and schedule; and what all tables share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, WrapValidator, model_validator
from pydantic_core import PydanticCustomError, ValidationError


class Table(BaseModel):
    """One TOML table: unknown settings are refused, "3" is not 3, nothing changes afterwards."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        allow_inf_nan=False,
        protected_namespaces=(),
        use_attribute_docstrings=True,
        serialize_by_alias=True,
    )


def mistake(message: str) -> PydanticCustomError:
    """What a validator raises, in our own words."""
    # The message goes through a format string: braces of the user's own must stay what they are.
    return PydanticCustomError("mistake", "{message}", {"message": message})


def needs(what: str) -> WrapValidator:
    """One message for a union, where pydantic would give one for each member."""

    def validate(value: object, handler: Callable[[object], object]) -> object:
        try:
            return handler(value)
        except ValidationError as error:
            raise mistake(f"needs {what}") from error

    return WrapValidator(validate)


Share = Annotated[float, Field(ge=0.0, le=1.0)]
Text = Annotated[str, Field(min_length=1)]
Layer = Annotated[int, Field(ge=0)]
Layers = Annotated[
    Annotated[int, Field(ge=1)] | Annotated[tuple[Layer, ...], Field(strict=False, min_length=1)],
    needs("a number of layers (from 1), or a list of teacher layers as [0, 2, 4] (from 0)"),
]
ConfigValue = Annotated[
    bool
    | int
    | float
    | str
    | Annotated[tuple[int, ...], Field(strict=False)]
    | Annotated[tuple[str, ...], Field(strict=False)],
    needs("a number, a text, true or false, or a list of whole numbers or texts"),
]


class CopiedStudent(Table):
    """The student begins as some of its teacher's layers and everything that is not a layer."""

    kind: Literal["copy_layers"]
    """copy_layers: begin as some of the teacher's layers."""
    layers: Layers
    """How many layers, or which of the teacher's, counted from 0, in the student's order."""
    choose: Literal["even", "first_last"] | None = None
    """Which layers when `layers` is a number: at even distances (the default), or from both ends."""

    @model_validator(mode="before")
    @classmethod
    def _choose_evenly(cls, table: object) -> object:
        if isinstance(table, dict) and isinstance(table.get("layers"), int):
            return {"choose": "even", **table}
        return table

    @model_validator(mode="after")
    def _choose_once(self) -> CopiedStudent:
        if self.choose is not None and not isinstance(self.layers, int):
            raise mistake(
                f"`layers` lists the teacher layers already, and `choose` = {self.choose!r} would choose again: "
                "give a number of layers, or leave `choose` out"
            )
        return self


class ModelStudent(Table):
    """The student is a model that exists."""

    kind: Literal["model"]
    """model: begin as a model that exists."""
    model: Text
    """A local folder, a name on the Hugging Face hub, or a .gguf file; of the teacher's vocabulary."""


class FreshStudent(Table):
    """The student has the teacher's architecture, in a smaller shape, with random weights."""

    kind: Literal["fresh"]
    """fresh: begin with random weights in another shape."""
    changes: dict[str, ConfigValue] = Field(min_length=1)
    """What differs from the teacher's configuration, in the names of its config.json."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of the random weights."""


class PrunedStudent(Table):
    """The student begins as its teacher's most important layers, neurons, heads and channels (Minitron)."""

    kind: Literal["prune"]
    """prune: begin as the most important parts of the teacher."""
    to: Annotated[float, Field(gt=0.0, lt=1.0)] | None = None
    """The share to keep of the parameters that are not embeddings: channels and neurons get narrower evenly, after what else is cut."""
    layers: Layers | None = None
    """How many layers stay, or which of the teacher's, counted from 0."""
    choose: Literal["run", "one_by_one", "perplexity", "even", "first_last"] | None = None
    """Which layers when `layers` is a number: all but the run that matters least (the default), but the least important ones, ..."""
    ffn: Annotated[int, Field(ge=1)] | None = None
    """Neurons of a feed-forward layer."""
    heads: Annotated[int, Field(ge=1)] | None = None
    """Query heads; a multiple of the key-value heads."""
    kv_heads: Annotated[int, Field(ge=1)] | None = None
    """Key-value heads, each the mean of those it stands for; a divisor of the teacher's."""
    hidden: Annotated[int, Field(ge=1)] | None = None
    """Channels."""
    tokens: Annotated[int, Field(ge=1)] = 50_000
    """How much of the text to learn from is looked at for what matters."""
    importance: Text | None = None
    """Scores of an earlier run of the same teacher (importance.safetensors); left out: measured."""

    @model_validator(mode="after")
    def _cut_something(self) -> PrunedStudent:
        if all(getattr(self, name) is None for name in ("to", "layers", "ffn", "heads", "kv_heads", "hidden")):
            raise mistake("nothing is to be cut: say `to` = 0.6, or `layers`, `ffn`, `heads`, `kv_heads`, `hidden`")
        if self.choose is not None and not isinstance(self.layers, int):
            raise mistake(
                f"`choose` = {self.choose!r} says which of a number of layers stay, and `layers` is no number: give one"
            )
        return self


class BarTable(Table):
    """What the student must reach, on held-out text or on questions of your own."""

    metric: Literal["accuracy", "bits", "agreement", "questions"] = "accuracy"
    """accuracy: next tokens right. bits: bits a byte better than token frequencies. agreement: with the teacher. questions: of a file."""
    least: Annotated[float, Field(gt=0.0)]
    """As a share of what the teacher reaches (0.95), or of itself if absolute."""
    absolute: bool = False
    """Whether `least` is the metric's own value; of bits: at most so many bits a byte."""
    questions: Text | None = None
    """A JSONL file of questions: {"prompt": ..., "answer": ...}, and "choices" where the answer is one of several."""
    judging: Literal["exact", "choice", "regex", "python"] | None = None
    """How answers are judged; left out: by choice where there are choices, else exact."""
    how: str = ""
    """regex: the pattern whose last match is the answer. python: module:function of (prompt, answer, written), 0 to 1."""
    new_tokens: Annotated[int, Field(ge=1)] = 32
    """How much the model writes as an answer, at most."""

    @model_validator(mode="after")
    def _has_what_it_needs(self) -> BarTable:
        if (self.metric == "questions") != (self.questions is not None):
            raise mistake('`questions` = "FILE" goes with metric = "questions", and the one needs the other')
        if not self.absolute and self.least > 1:
            raise mistake(
                f"`least` is a share of what the teacher reaches, found {self.least:g}: 0.95, or set absolute = true"
            )
        if self.judging in ("regex", "python") and not self.how:
            raise mistake(f"judging by {self.judging} needs `how`: a pattern, or module:function")
        if self.how and self.judging not in ("regex", "python"):
            raise mistake('`how` goes with judging = "regex" or "python": say which')
        return self


class SearchedStudent(Table):
    """The student is the smallest of many that clears the bars (`potstill compress`)."""

    kind: Literal["search"]
    """search: the smallest that clears the bars."""
    bars: Annotated[tuple[BarTable, ...], Field(strict=False)] = ()
    """What it must reach, all of them. None: the best within the limits."""
    shares: Annotated[tuple[Annotated[float, Field(gt=0.0, lt=1.0)], ...], Field(strict=False, min_length=1)] = (
        0.85,
        0.70,
        0.60,
        0.50,
        0.40,
        0.30,
        0.22,
        0.15,
    )
    """The ladder: shares of the teacher's parameters that are not embeddings."""
    cuts: Annotated[tuple[Literal["width", "depth", "both"], ...], Field(strict=False, min_length=1)] = (
        "width",
        "depth",
        "both",
    )
    """How each size is cut."""
    screened: Annotated[int, Field(ge=1)] = 3
    """Cuts of a size that go on after a look at them untrained."""
    looks: Annotated[int, Field(ge=1)] = 3
    """How many candidates may be judged on held-out text; the interval of each is as much wider."""
    until_flat: bool = False
    """A candidate that has stopped improving has learned enough."""
    tokens: Annotated[int, Field(ge=1)] = 50_000
    """How much of the text to learn from is looked at for what matters."""
    max_parameters: Annotated[int, Field(ge=1)] | None = None
    """At most so many parameters."""
    max_bytes: Annotated[int, Field(ge=1)] | None = None
    """At most so many bytes of weights, of two bytes a parameter."""
    min_speed: Annotated[float, Field(gt=1.0)] | None = None
    """At least so many times as fast a writer as the teacher, on this machine."""
    int4: bool = True
    """See whether the bars are cleared with weights of four bits as well."""

    @model_validator(mode="after")
    def _search_something(self) -> SearchedStudent:
        if not self.bars and self.max_parameters is None and self.max_bytes is None and self.min_speed is None:
            raise mistake(
                "nothing is asked of the student: say what it must keep (`bars`), or how large it may be (`max_parameters`)"
            )
        return self


StudentTable = Annotated[
    CopiedStudent | PrunedStudent | ModelStudent | FreshStudent | SearchedStudent, Field(discriminator="kind")
]


class ForwardKLTable(Table):
    """KL(teacher ‖ student): the student covers all the teacher does."""

    kind: Literal["forward_kl"] = "forward_kl"
    """forward_kl: KL(teacher ‖ student)."""


class ReverseKLTable(Table):
    """KL(student ‖ teacher): the student seeks the teacher's modes."""

    kind: Literal["reverse_kl"]
    """reverse_kl: KL(student ‖ teacher)."""


class JensenShannonTable(Table):
    """The generalised Jensen-Shannon divergence, scaled so that its ends are the two KLs."""

    kind: Literal["jensen_shannon"]
    """jensen_shannon: between forward (beta = 0) and reverse (beta = 1) KL."""
    beta: Share = 0.5
    """The teacher's share of the mixture both are compared with."""


class SkewForwardKLTable(Table):
    """KL(teacher ‖ a mixture of teacher and student)."""

    kind: Literal["skew_forward_kl"]
    """skew_forward_kl: forward KL with a bounded gradient."""
    skew: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.1
    """The teacher's share of the mixture."""


class SkewReverseKLTable(Table):
    """KL(student ‖ a mixture of student and teacher)."""

    kind: Literal["skew_reverse_kl"]
    """skew_reverse_kl: reverse KL that stays finite where the teacher says never."""
    skew: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.1
    """The student's share of the mixture."""


class TotalVariationTable(Table):
    """Half the sum of the differences of probability."""

    kind: Literal["total_variation"]
    """total_variation: ½ Σ |p - q|."""


class AlphaBetaTable(Table):
    """The alpha-beta divergence: alpha weighs the teacher's confident tokens, beta the student's."""

    kind: Literal["alpha_beta"]
    """alpha_beta: (1, 0) is forward KL, (0, 1) reverse KL."""
    alpha: Annotated[float, Field(ge=0.0)] = 0.2
    """Weight of the teacher's confident tokens."""
    beta: Annotated[float, Field(ge=0.0)] = 0.7
    """Weight of the student's confident tokens."""

    @model_validator(mode="after")
    def _not_both_zero(self) -> AlphaBetaTable:
        if self.alpha + self.beta == 0:
            raise mistake("alpha and beta can't both be 0")
        return self


DivergenceTable = Annotated[
    ForwardKLTable
    | ReverseKLTable
    | JensenShannonTable
    | SkewForwardKLTable
    | SkewReverseKLTable
    | TotalVariationTable
    | AlphaBetaTable,
    Field(discriminator="kind"),
]


class CosineTable(Table):
    """Up, then down along half a cosine."""

    kind: Literal["cosine"] = "cosine"
    """cosine: down along half a cosine."""
    warmup: Share = 0.05
    """Share of the steps in which the learning rate rises."""
    floor: Share = 0.0
    """Where the learning rate ends, as a share of its peak."""


class LinearTable(Table):
    """Up, then straight down."""

    kind: Literal["linear"]
    """linear: straight down."""
    warmup: Share = 0.05
    """Share of the steps in which the learning rate rises."""
    floor: Share = 0.0
    """Where the learning rate ends, as a share of its peak."""


class ConstantTable(Table):
    """Up, then level."""

    kind: Literal["constant"]
    """constant: level."""
    warmup: Share = 0.05
    """Share of the steps in which the learning rate rises."""


ScheduleTable = Annotated[CosineTable | LinearTable | ConstantTable, Field(discriminator="kind")]
