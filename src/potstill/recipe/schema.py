"""What a recipe can say: one frozen class a TOML table, each setting with its default, range and unit.

The choices by `kind` are in kinds.py, what is compared beside labels is in features.py.
They import pydantic and nothing else, so a recipe is refused before anything heavy is loaded.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, model_validator

from potstill.recipe.features import AttentionTable, BalanceTable, EmbeddingsTable, HiddenTable
from potstill.recipe.four_bits import Int4Table, check_four_bits
from potstill.recipe.kinds import (
    CosineTable,
    DivergenceTable,
    ForwardKLTable,
    ScheduleTable,
    StudentTable,
)
from potstill.recipe.on_policy import OnPolicyTable, check_can_mark, check_on_policy
from potstill.recipe.specialists import AnnealingTable, GateTable, check_specialist
from potstill.recipe.stages import StagesTable
from potstill.recipe.table import FolderName, Share, Table, Text, mistake, needs
from potstill.recipe.teaching import AverageTable, MixtureTable, check_teaching, check_ways_of_teaching
from potstill.recipe.tensor_parallel import Processes, check_shared_teacher
from potstill.recipe.translated import TranslationTable

LENGTHS_OF_TRAINING = ("tokens", "steps", "epochs")

Sources = Annotated[
    Text | Annotated[tuple[Text, ...], Field(strict=False, min_length=1)],
    needs('a text as "notes.jsonl", or a list of such texts'),
]


class CorrectionTable(Table):
    """A copy of the teacher first learns the text itself, from hard labels, and then marks in its place (Sreenivas et al. 2024)."""

    tokens: Annotated[int, Field(ge=1)]
    """How long: tokens read."""
    learning_rate: Annotated[float, Field(gt=0.0)] = 1e-4
    """The peak of its schedule, which is that of the training."""


class TeacherTable(Table):
    """The model that marks the text."""

    kind: Literal["live", "stored", "translated"] = "live"
    """live: a model on this machine, asked for every batch. stored: its labels are on disk (`potstill label`); it is measured, no more.
    translated: a live one whose tokenizer is not the student's."""
    model: Text
    """A local folder, a name on the Hugging Face hub, a .gguf file, or "pocket": the small one that ships with potstill."""
    labels: Text | None = None
    """Where stored labels lie, a folder or a URL (s3://...). Left out: soft_labels/ beside the run."""
    translation: TranslationTable | None = None
    """How a translated teacher is listened to."""
    correction: CorrectionTable | None = None
    """For text far from what the teacher knows. Left out: it marks as it is. Scores are beside the uncorrected teacher all the same."""
    mixture: MixtureTable | None = None
    """Other teachers who mark together with this one. Left out: it marks alone."""
    average: AverageTable | None = None
    """The student's own average marks in this one's place. Left out: it marks itself."""
    gate: GateTable | None = None
    """Is it worth hearing on this text? Asked before the run; left out: not asked."""
    tensor_parallel: Processes = False
    """Among processes: they run it together while the student learns, each a part of its layers (transformers' tp_plan): all (true),
    or each so many, as those of one machine."""

    @model_validator(mode="after")
    def _one_way(self) -> TeacherTable:
        check_ways_of_teaching(self)
        return self

    @model_validator(mode="before")
    @classmethod
    def _translate_by_default(cls, table: object) -> object:
        if isinstance(table, dict) and table.get("kind") == "translated":
            return {"translation": {}, **table}
        return table

    @model_validator(mode="after")
    def _translate_once(self) -> TeacherTable:
        if self.translation is not None and self.kind != "translated":
            raise mistake(
                '`translation` is for a teacher of another tokenizer: set kind = "translated", or leave it out'
            )
        return self


class LabelsTable(Table):
    """What `potstill label` keeps of the teacher's opinions. Their temperature and context are those of loss and training."""

    tier: Literal["sampled", "topk", "hidden", "dense"] = "sampled"
    """sampled: an unbiased sample, for forward KL. topk: the likeliest tokens and the exact rest. hidden: all, as hidden states."""
    tau: Annotated[float, Field(gt=0.0, le=0.5)] = 0.05
    """sampled: from which probability on a token is kept for sure, and the weight of a sampled one; smaller takes more bytes."""
    k: Annotated[int, Field(ge=1)] = 64
    """topk: how many tokens."""
    bits: Annotated[int, Field(ge=2, le=8)] = 8
    """hidden: of each number, before compression."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """sampled: of the sampling."""
    rows: Annotated[int, Field(ge=1)] = 8
    """Sequences a pass of the teacher; of `training.length` tokens each."""


class ColumnsTable(Table):
    """Which columns of JSONL, Parquet or a `datasets` table hold what."""

    text: Text = "text"
    """Plain text, all of it learned."""
    prompt: Text = "prompt"
    """What is read and not learned; goes with `completion`."""
    completion: Text = "completion"
    """What is learned after `prompt`."""
    messages: Text = "messages"
    """A chat as a list of {role, content}; only the assistant's turns are learned."""
    ids: Text = "input_ids"
    """Text that is token ids already, of the student's tokenizer."""
    label: Text = "label"
    """Beside `text`, for classifiers: its class, by name or number."""
    teacher: Text = "teacher"
    """Where teacher.mixture goes by it: the name of the teacher that marks the record."""
    domain: Text = "domain"
    """Where a record belongs: the report of a search tells of each domain by itself."""
    labels: Text = "labels"
    """Beside the ids: -100 where a token is read and not learned."""
    weight: Text = "loss_weight"
    """Beside a completion or a chat: how much each of its tokens counts, 1 where there is none."""
    split: Text = "split_key"
    """Beside a completion or a chat: rows with the same text here are learned from together or held out together."""
    ends: Text = "ends"
    """Beside a completion: false where it was cut, so that no end of text is learned behind it."""


class DataTable(Table):
    """The text to learn from, and the share of it that is kept for questions. Documents are split by their hash."""

    source: Sources
    """Text file, folder of text files, .jsonl, .parquet, a `datasets` folder, a hub name, or "standard-library"; or several."""
    columns: ColumnsTable = ColumnsTable()
    """Which columns hold what."""
    split: Text = "train"
    """Which split of a `datasets` folder or a hub data set."""
    held_out: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.10
    """Share of the documents nobody learns from, for the final scores."""
    search: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.05
    """Share of the documents nobody learns from, for choices made on the way."""
    max_documents: Annotated[int, Field(ge=1)] | None = None
    """Read at most so many documents; all when left out."""

    @model_validator(mode="after")
    def _leave_something(self) -> DataTable:
        if self.held_out + self.search >= 1:
            raise mistake(
                f"held_out + search must leave a share to learn from, found {self.held_out:g} + {self.search:g}: "
                "make them less than 1 together"
            )
        return self


class LossTable(Table):
    """How disagreement is measured: L = alpha·T²·D(teacher_T, student_T) + (1 - alpha)·CE(text, student)."""

    divergence: DivergenceTable = ForwardKLTable()
    """How the two distributions are compared."""
    temperature: Annotated[float, Field(gt=0.0)] = 1.0
    """T, of both softmaxes; above 1 the teacher's unlikely tokens count for more."""
    alpha: Share = 1.0
    """Share of the soft labels: 1 = the teacher alone, 0 = the text alone."""
    annealing: AnnealingTable | None = None
    """How alpha changes over the run; left out: it doesn't."""
    hidden: HiddenTable | None = None
    """Hidden states beside the labels; left out: labels alone. The teacher must be live."""
    embeddings: EmbeddingsTable | None = None
    """Embeddings beside the labels, likewise."""
    attention: AttentionTable | None = None
    """Attention beside the labels, likewise."""
    balance: BalanceTable = BalanceTable()
    """Of these three with the labels."""

    @property
    def features(self) -> tuple[str, ...]:
        """What is compared beside the labels, as it stands in the recipe."""
        tables = {"hidden": self.hidden, "embeddings": self.embeddings, "attention": self.attention}
        return tuple(f"loss.{name}" for name, table in tables.items() if table is not None)

    @model_validator(mode="after")
    def _balance_something(self) -> LossTable:
        if self.balance.kind == "dynamic" and not self.features:
            raise mistake(
                'balance.kind = "dynamic" scales `hidden`, `embeddings` and `attention`, and there is none of them: add one, or leave '
                "balance out"
            )
        return self


class LoraTable(Table):
    """The student learns through low-rank adapters alone, which are merged into its weights at the end (needs the extra `lora`)."""

    rank: Annotated[int, Field(ge=1)] = 16
    """Of the adapters."""
    alpha: Annotated[float, Field(gt=0.0)] = 32.0
    """Their factor is alpha / rank."""
    targets: Annotated[tuple[Text, ...], Field(strict=False, min_length=1)] | None = None
    """Which layers, by the ends of their names (["q_proj", "v_proj"]); left out: all linear ones but the head."""


class TrainingTable(Table):
    """How the student learns. Exactly one of `tokens`, `steps` and `epochs` says for how long."""

    model_config = ConfigDict(json_schema_extra={"oneOf": [{"required": [name]} for name in LENGTHS_OF_TRAINING]})

    tokens: Annotated[int, Field(ge=1)] | None = None
    """How long: tokens read."""
    steps: Annotated[int, Field(ge=1)] | None = None
    """How long: optimizer steps."""
    epochs: Annotated[float, Field(gt=0.0)] | None = None
    """How long: passes over the training text."""
    length: Annotated[int, Field(ge=2)] = 512
    """Tokens of context: how long a sequence is."""
    rows: Annotated[int, Field(ge=1)] = 16
    """Sequences an optimizer step."""
    micro_rows: Annotated[int, Field(ge=1)] | None = None
    """Sequences a forward pass: fewer need less memory and give the same student. All of `rows` when left out."""
    learning_rate: Annotated[float, Field(gt=0.0)] = 1e-3
    """The peak of the schedule."""
    schedule: ScheduleTable = CosineTable()
    """The learning rate over the run."""
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.0
    """AdamW's, on matrices."""
    beta1: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.9
    """AdamW's memory of the gradient."""
    beta2: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.95
    """AdamW's memory of the squared gradient."""
    max_gradient_norm: Annotated[float, Field(gt=0.0)] = 1.0
    """Longer gradients are shortened to this norm."""
    skip_spikes: Annotated[float, Field(ge=0.0)] = 20.0
    """Steps with a gradient so many times as long as usual are left out, and counted; 0: never."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Of the order of the text and of dropout."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the forward pass; auto measures which is faster on this machine."""
    lora: LoraTable | None = None
    """Through adapters; left out: all weights learn."""
    int4: Int4Table | None = None
    """Through weights rounded to four bits; left out: in full."""
    gradient_checkpointing: bool = False
    """Compute activations twice to keep fewer of them: less memory, about a third slower."""
    compile_loss: bool = False
    """Send the loss through torch.compile, for GPUs: the first step takes a minute, the others less time."""
    packing: bool = True
    """Put several short documents into one sequence, each blind to the others."""
    checkpoint_every: Annotated[int, Field(ge=1)] = 200
    """Steps between the states a killed run goes on from."""
    trackers: Annotated[tuple[Literal["tensorboard", "wandb", "trackio"], ...], Field(strict=False)] = ()
    """Where steps are logged besides the run's folder."""
    on_policy: OnPolicyTable | None = None
    """The student learns on what it writes itself; left out: on the text alone."""

    @model_validator(mode="after")
    def _one_length(self) -> TrainingTable:
        given = [name for name in LENGTHS_OF_TRAINING if getattr(self, name) is not None]
        if len(given) != 1:
            found = " and ".join(f"{name} = {getattr(self, name)}" for name in given) or "none of them"
            raise mistake(
                f"needs exactly one of `tokens`, `steps`, `epochs` to say how long to train, found {found}: "
                + ("keep one" if given else "add, for example, `epochs = 1`")
            )
        return self

    @model_validator(mode="after")
    def _whole_rows(self) -> TrainingTable:
        if self.micro_rows is not None and self.micro_rows > self.rows:
            raise mistake(
                f"`micro_rows` are the sequences a forward pass, out of `rows` a step, found {self.micro_rows} of {self.rows}: "
                "make it smaller or leave it out"
            )
        return self

    @model_validator(mode="after")
    def _room_to_write(self) -> TrainingTable:
        check_on_policy(self.on_policy, length=self.length, epochs=self.epochs)
        return self


class EvaluationTable(Table):
    """What is measured at the end, on held-out text."""

    tokens: Annotated[int, Field(ge=1)] = 100_000
    """At most so many held-out tokens."""
    control: bool = True
    """Train the same student on hard labels too, over the same tokens: what the teacher was worth."""
    control_same_time: bool = False
    """Train a second control for as many seconds as the distilled student took: it needs no teacher, so it reads more."""
    smoothing: bool = False
    """Train the same student on smoothed hard labels too, as uncertain as the teacher: what its uncertainty alone was worth."""
    untouched: bool = True
    """Score the student as it was before training."""
    speed: bool = True
    """Measure tokens per second of teacher and student."""
    price_per_hour: Annotated[float, Field(gt=0.0)] | None = None
    """Of this machine, in your currency: the report of a search then tells what a million tokens cost."""

    @model_validator(mode="after")
    def _same_time_as_well(self) -> EvaluationTable:
        if self.control_same_time and not self.control:
            raise mistake(
                "`control_same_time` takes its speed from the control, and `control` is false: set control = true, or leave "
                "control_same_time out"
            )
        return self


class Recipe(Table):
    """A whole distillation run."""

    model_config = ConfigDict(title="potstill recipe")

    name: FolderName = "recipe"
    """Of the run and its folder; the recipe file's own name when left out."""
    teacher: TeacherTable
    """Who marks the text."""
    student: StudentTable
    """Where the student comes from."""
    data: DataTable
    """The text to learn from."""
    loss: LossTable = LossTable()
    """How disagreement is measured."""
    training: TrainingTable
    """How the student learns."""
    labels: LabelsTable = LabelsTable()
    """What `potstill label` keeps of the teacher's opinions."""
    evaluation: EvaluationTable = EvaluationTable()
    """What is measured at the end."""
    stages: StagesTable | None = None
    """A run made of runs, in which students teach; left out: one run."""

    @model_validator(mode="after")
    def _marked(self) -> Recipe:
        check_teaching(self)
        check_specialist(self)
        check_four_bits(self)
        check_shared_teacher(self)
        check_can_mark(self.training.on_policy, teacher=self.teacher, student=self.student.kind, alpha=self.loss.alpha)
        return self
