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
    from potstill.data import ClassBatches, MaskedBatches, Masking, PackedBatches, TokenCorpus, read_documents, tokenize
    from potstill.evaluation import difference, measure, retention, score
    from potstill.losses import (
        AlphaBeta,
        AttentionMapLoss,
        AttentionRelationLoss,
        FeatureLoss,
        ForwardKL,
        HiddenLoss,
        JensenShannon,
        Projection,
        ReverseKL,
        SkewForwardKL,
        SkewReverseKL,
        SoftLabelLoss,
        TotalVariation,
    )
    from potstill.models import load_model, load_tokenizer, save_model
    from potstill.students import (
        Shape,
        choose_layers,
        copy_layers,
        ends_of_blocks,
        evenly_spaced,
        first_and_last,
        fresh,
        last_layers,
        measure_importance,
        prune,
    )
    from potstill.teachers import FakeTeacher, LiveTeacher, shared_vocabulary
    from potstill.training import TrainingSettings, train, train_classifier
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
    "AttentionMapLoss",
    "AttentionRelationLoss",
    "Batch",
    "ClassBatches",
    "DataError",
    "DenseTargets",
    "FakeTeacher",
    "FeatureLoss",
    "ForwardKL",
    "Head",
    "HiddenLoss",
    "HiddenStates",
    "JensenShannon",
    "Lineage",
    "LiveTeacher",
    "Loss",
    "LossError",
    "MaskedBatches",
    "Masking",
    "MissingExtraError",
    "ModelError",
    "NotFiniteError",
    "PackedBatches",
    "PotstillError",
    "Projection",
    "RecipeError",
    "ReverseKL",
    "RunDirectoryError",
    "Score",
    "Shape",
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
    "choose_layers",
    "copy_layers",
    "difference",
    "ends_of_blocks",
    "evenly_spaced",
    "first_and_last",
    "fresh",
    "last_layers",
    "load_model",
    "load_tokenizer",
    "measure",
    "measure_importance",
    "prune",
    "read_documents",
    "retention",
    "save_model",
    "score",
    "shared_vocabulary",
    "tokenize",
    "train",
    "train_classifier",
]

_ROOMS = {
    "data": ("ClassBatches", "MaskedBatches", "Masking", "PackedBatches", "TokenCorpus", "read_documents", "tokenize"),
    "evaluation": ("difference", "measure", "retention", "score"),
    "losses": (
        "AlphaBeta",
        "AttentionMapLoss",
        "AttentionRelationLoss",
        "FeatureLoss",
        "ForwardKL",
        "HiddenLoss",
        "JensenShannon",
        "Projection",
        "ReverseKL",
        "SkewForwardKL",
        "SkewReverseKL",
        "SoftLabelLoss",
        "TotalVariation",
    ),
    "models": ("load_model", "load_tokenizer", "save_model"),
    "students": (
        "Shape",
        "choose_layers",
        "copy_layers",
        "ends_of_blocks",
        "evenly_spaced",
        "first_and_last",
        "fresh",
        "last_layers",
        "measure_importance",
        "prune",
    ),
    "teachers": ("FakeTeacher", "LiveTeacher", "shared_vocabulary"),
    "training": ("TrainingSettings", "train", "train_classifier"),
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
