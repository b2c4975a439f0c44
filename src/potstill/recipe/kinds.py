"""The choices of a recipe: one frozen class a `kind` of student, divergence and schedule."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from potstill.recipe.searched import SearchedStudent
from potstill.recipe.table import ConfigValue, Layers, Share, Table, Text, mistake


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
