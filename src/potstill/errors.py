"""Everything potstill refuses, and what it says to the person who can mend it.

    PotstillError                     one message: what is wrong, what was found, what to do
    ├── RecipeError      ValueError   a recipe that can't be decoded, or asks for two things that exclude each other
    ├── DataError        ValueError   text that can't be read, or from which nothing can be learned
    ├── ModelError       ValueError   a model that can't be loaded, or does what we can't express
    │   └── VocabularyError           teacher and student don't mean the same by a token id
    ├── LossError        ValueError   a divergence, temperature or target kind that don't go together
    ├── NotFiniteError   ArithmeticError  NaN or infinity in logits, loss or gradient
    ├── StoreError       ValueError   stored soft labels that are damaged, missing, or of something else
    ├── ServerError      ConnectionError  a model server that refuses us, or gives no answers
    ├── RunDirectoryError  OSError    an output folder that belongs to something else, is full, or can't be written
    └── MissingExtraError  ImportError    an optional package is needed

Each is also a standard library error, so code that knows nothing of potstill can catch it. The command line prints the
message and exits with 2: a traceback means a defect of ours.
"""

from __future__ import annotations


class PotstillError(Exception):
    """What is wrong, what was found, what to do, in one message."""


class RecipeError(PotstillError, ValueError):
    """A recipe or a setting is wrong."""


class DataError(PotstillError, ValueError):
    """The text can't be read or holds nothing to learn."""


class ModelError(PotstillError, ValueError):
    """A model can't be loaded or used."""


class VocabularyError(ModelError):
    """Teacher and student disagree about what a token id means."""


class LossError(PotstillError, ValueError):
    """A divergence, a temperature and a kind of soft targets that don't go together."""


class NotFiniteError(PotstillError, ArithmeticError):
    """NaN or infinity where a number is needed."""


class StoreError(PotstillError, ValueError):
    """Stored soft labels are damaged, missing, or of something else."""


class ServerError(PotstillError, ConnectionError):
    """A model server refuses us, or gives no answers."""


class RunDirectoryError(PotstillError, OSError):
    """A folder can't be used for this run's output."""


class MissingExtraError(PotstillError, ImportError):
    """An optional package is needed for what was asked."""

    def __init__(self, package: str, *, extra: str, purpose: str) -> None:
        super().__init__(f"{purpose} needs the package {package!r}: in a clone of potstill, pip install '.[{extra}]'")
