"""Text written by a crew: prompts are given out in parts, and what comes back is what one process would have written.

A part is some passes of the model, with the same prompts beside one another as in one process. Whoever dies, the part it had is lost;
what came back stands in the journal of the process that began the work (see `potstill.writing.write`).
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from potstill.errors import ModelError
from potstill.models import load_tokenizer
from potstill.runs import fingerprint_of_tokenizer
from potstill.workers.cluster import Crew
from potstill.workers.loading import teacher_here
from potstill.workers.sharing import shared
from potstill.writing import LocalWriter, Prompt, Sampling, Written

if TYPE_CHECKING:
    from ray import ObjectRef
    from ray.actor import ActorHandle


@dataclass(frozen=True)
class Wanted:
    """How each worker is to write, and with what: fingerprints of the teacher and of its tokenizer, and the dtype it is held in."""

    fingerprint: str
    tokenizer: str
    dtype: str
    sampling: Sampling
    rows: int
    top_logprobs: int


@dataclass(frozen=True)
class CrewWriter:
    """A `Writer`: the crew writes what `writer` would, whose model does nothing here.

    `fingerprint`, `tokenizer`: those of the teacher, as it is in its files.
    """

    crew: Crew
    writer: LocalWriter
    fingerprint: str
    tokenizer: str

    def write(self, prompts: Sequence[Prompt], missing: Container[str]) -> Iterator[Written]:
        """What is written for each prompt that is missing, as parts come back.

        Raises what a worker can't mend (its teacher is not there, is another one, gives NaN), and ServerError where workers die again and
        again.
        """
        parts = [part for part in self.writer.parts(prompts) if any(prompt.id in missing for prompt in part)]
        wanted = Wanted(
            self.fingerprint,
            self.tokenizer,
            str(self.writer.model.dtype),
            self.writer.sampling,
            self.writer.rows,
            self.writer.top_logprobs,
        )
        for written in shared(self.crew, _Prompts(wanted, parts, missing), len(parts)):
            yield from written


class WritingWorker:
    """Runs in a process of its own, on any machine, and writes for the prompts it is given."""

    def __init__(self, model: str, wanted: Wanted) -> None:
        """`model`: the teacher's name, or its folder on the worker's machine. It is loaded by `load`."""
        self._model, self._wanted = model, wanted
        self._writer: LocalWriter | None = None

    def load(self, expected: Mapping[str, str]) -> None:
        """Load the teacher; `expected`: the versions of whoever keeps the text (see `numbering`).

        ModelError where it or its tokenizer is another, can't be loaded, or where this machine has other versions.
        """
        wanted = self._wanted
        model = teacher_here(
            self._model, fingerprint=wanted.fingerprint, dtype=wanted.dtype, expected=expected, rounds=True
        )
        tokenizer = load_tokenizer(self._model)
        if fingerprint_of_tokenizer(tokenizer) != wanted.tokenizer:
            raise ModelError(
                f"a worker found another tokenizer at {self._model} than the one that began the work: all machines must see the same files"
            )
        self._writer = LocalWriter(model, tokenizer, wanted.sampling, wanted.rows, wanted.top_logprobs)

    def write(self, part: Sequence[Prompt], missing: Container[str]) -> list[Written]:
        """A part of `LocalWriter.parts`: what is written for those that are missing."""
        assert self._writer is not None
        return list(self._writer.write(part, missing))


class _Prompts:
    """Parts that are not written yet."""

    def __init__(self, wanted: Wanted, parts: Sequence[Sequence[Prompt]], missing: Container[str]) -> None:
        self._wanted, self._untouched, self._missing = wanted, iter(parts), missing

    def hire(self, crew: Crew) -> ActorHandle:
        return crew.another(WritingWorker, self._wanted)

    def take(self) -> Sequence[Prompt] | None:
        return next(self._untouched, None)

    def begin(self, worker: ActorHandle, part: Sequence[Prompt]) -> None:
        pass

    def go_on(self, worker: ActorHandle, part: Sequence[Prompt]) -> ObjectRef:
        return worker.write.remote(part, {prompt.id for prompt in part if prompt.id in self._missing})

    def is_whole(self, sent: list[Written]) -> bool:
        return True

    def keep(self, part: Sequence[Prompt], sent: list[Written]) -> list[Written]:
        return sent

    def leave(self, part: Sequence[Prompt]) -> None:
        pass

    def name_of(self, part: Sequence[Prompt]) -> str:
        return f"wrote for the same prompts ({part[0].where} to {part[-1].where})"
