"""Turn a large language model into the smallest student that still does the job.

    from pathlib import Path
    import potstill as ps

    tokenizer, teacher = ps.load_tokenizer("teacher/"), ps.load_model("teacher/")
    student, lineage = ps.copy_layers(teacher, ps.evenly_spaced(30, 15))
    corpus = ps.tokenize(ps.read_documents("notes/"), tokenizer)
    batches = ps.PackedBatches(corpus.part("train"), length=512, rows=16, seed=0)
    marker = ps.LiveTeacher(teacher, size=len(tokenizer))
    settings = ps.TrainingSettings(steps=1000)
    for step in ps.train(student, marker, batches, ps.SoftLabelLoss(ps.ForwardKL()), settings, folder=Path("run")):
        print(step.index, step.loss)
    ps.save_model(student, tokenizer, Path("student"))

Each name lives in the room that answers its question: data, teachers, losses, students, training, evaluation, models. A
room is imported when the first of its names is used, so importing potstill costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from potstill.errors import (
    DataError,
    LossError,
    MissingExtraError,
    ModelError,
    NotFiniteError,
    PotstillError,
    RecipeError,
    RunDirectoryError,
    VocabularyError,
)

if TYPE_CHECKING:
    from potstill.data import PackedBatches, TokenCorpus, read_documents, tokenize
    from potstill.evaluation import difference, measure, retention, score
    from potstill.losses import (
        AlphaBeta,
        ForwardKL,
        JensenShannon,
        ReverseKL,
        SkewForwardKL,
        SkewReverseKL,
        SoftLabelLoss,
        TotalVariation,
    )
    from potstill.models import load_model, load_tokenizer, save_model
    from potstill.students import copy_layers, evenly_spaced, first_and_last, fresh
    from potstill.teachers import FakeTeacher, LiveTeacher, shared_vocabulary
    from potstill.training import TrainingSettings, train
    from potstill.types import (
        Batch,
        DenseTargets,
        Head,
        HiddenStates,
        Lineage,
        Loss,
        Score,
        SoftTargets,
        SparseTargets,
        Teacher,
    )

    __version__: str

__all__ = [
    "AlphaBeta",
    "Batch",
    "DataError",
    "DenseTargets",
    "FakeTeacher",
    "ForwardKL",
    "Head",
    "HiddenStates",
    "JensenShannon",
    "Lineage",
    "LiveTeacher",
    "Loss",
    "LossError",
    "MissingExtraError",
    "ModelError",
    "NotFiniteError",
    "PackedBatches",
    "PotstillError",
    "RecipeError",
    "ReverseKL",
    "RunDirectoryError",
    "Score",
    "SkewForwardKL",
    "SkewReverseKL",
    "SoftLabelLoss",
    "SoftTargets",
    "SparseTargets",
    "Teacher",
    "TokenCorpus",
    "TotalVariation",
    "TrainingSettings",
    "VocabularyError",
    "__version__",
    "copy_layers",
    "difference",
    "evenly_spaced",
    "first_and_last",
    "fresh",
    "load_model",
    "load_tokenizer",
    "measure",
    "read_documents",
    "retention",
    "save_model",
    "score",
    "shared_vocabulary",
    "tokenize",
    "train",
]

_ROOMS = {
    "data": ("PackedBatches", "TokenCorpus", "read_documents", "tokenize"),
    "evaluation": ("difference", "measure", "retention", "score"),
    "losses": (
        "AlphaBeta",
        "ForwardKL",
        "JensenShannon",
        "ReverseKL",
        "SkewForwardKL",
        "SkewReverseKL",
        "SoftLabelLoss",
        "TotalVariation",
    ),
    "models": ("load_model", "load_tokenizer", "save_model"),
    "students": ("copy_layers", "evenly_spaced", "first_and_last", "fresh"),
    "teachers": ("FakeTeacher", "LiveTeacher", "shared_vocabulary"),
    "training": ("TrainingSettings", "train"),
    "types": (
        "Batch",
        "DenseTargets",
        "Head",
        "HiddenStates",
        "Lineage",
        "Loss",
        "Score",
        "SoftTargets",
        "SparseTargets",
        "Teacher",
    ),
}
_ROOM_OF = {name: room for room, names in _ROOMS.items() for name in names}


def __getattr__(name: str) -> object:
    """The public name, from its room; the room is imported at the first use."""
    if name == "__version__":
        from importlib.metadata import version

        value: object = version("potstill")
    elif name in _ROOM_OF:
        value = getattr(import_module(f"potstill.{_ROOM_OF[name]}"), name)
    else:
        raise AttributeError(f"module 'potstill' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Every public name and every room that is imported."""
    return sorted({*globals(), *__all__})
