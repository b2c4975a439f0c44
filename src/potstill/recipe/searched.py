"""A student that is searched for: the bars it must clear, the ladder it is chosen from, its limits."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from potstill.recipe.table import Table, Text, mistake


class BarTable(Table):
    """What the student must reach, on held-out text or on questions of your own."""

    metric: Literal["accuracy", "bits", "agreement", "questions", "task"] = "accuracy"
    """accuracy: next tokens right. bits: bits a byte better than token frequencies. agreement: with the teacher. Or questions, a task."""
    least: Annotated[float, Field(gt=0.0)]
    """As a share of what the teacher reaches (0.95), or of itself if absolute."""
    absolute: bool = False
    """Whether `least` is the metric's own value; of bits: at most so many bits a byte."""
    questions: Text | None = None
    """A JSONL file of questions: {"prompt": ..., "answer": ...}, and "choices" where the answer is one of several."""
    task: Text | None = None
    """A task of lm-evaluation-harness, by name or as a YAML file (needs the extra `lm-eval`)."""
    judging: Literal["exact", "choice", "regex", "python"] | None = None
    """How answers are judged; left out: by choice where there are choices, else exact."""
    how: str = ""
    """regex: the pattern whose last match is the answer. python: module:function of (prompt, answer, written). task: which score of it."""
    new_tokens: Annotated[int, Field(ge=1)] = 32
    """How much the model writes as an answer, at most."""

    @model_validator(mode="after")
    def _has_what_it_needs(self) -> BarTable:
        for name, given in (("questions", self.questions), ("task", self.task)):
            if (self.metric == name) != (given is not None):
                raise mistake(f'`{name}` = "..." goes with metric = "{name}", and the one needs the other')
        if not self.absolute and self.least > 1:
            raise mistake(
                f"`least` is a share of what the teacher reaches, found {self.least:g}: 0.95, or set absolute = true"
            )
        if self.judging in ("regex", "python") and not self.how:
            raise mistake(f"judging by {self.judging} needs `how`: a pattern, or module:function")
        if self.how and self.judging not in ("regex", "python") and self.metric != "task":
            raise mistake('`how` goes with judging = "regex" or "python": say which')
        return self

    @property
    def asks(self) -> str | None:
        """What the questions are called; None where none are asked."""
        given = self.questions or self.task
        return None if given is None else given.rsplit("/", 1)[-1].rsplit(".", 1)[0]


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
