"""A piece of work in parts: parts are given out, what comes back is kept, what was lost is given out again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar, runtime_checkable

from potstill.errors import PotstillError, ServerError
from potstill.workers.cluster import Crew
from potstill.workers.loading import numbering

if TYPE_CHECKING:
    from ray import ObjectRef
    from ray.actor import ActorHandle

_MOST_DEATHS = 3

Part = TypeVar("Part")
Item = TypeVar("Item")
Sent_contra = TypeVar("Sent_contra", contravariant=True)


@runtime_checkable
class Work(Protocol[Part, Sent_contra, Item]):
    """What is shared. Its parts are made of items, which workers send as they have them, the last ones of a part when it is whole."""

    def hire(self, crew: Crew) -> ActorHandle:
        """A new worker, which has yet to `load`."""
        ...

    def take(self) -> Part | None:
        """The next part; None where there is none, or others have the rest."""
        ...

    def begin(self, worker: ActorHandle, part: Part) -> None:
        """Give the part to the worker."""
        ...

    def go_on(self, worker: ActorHandle, part: Part) -> ObjectRef:
        """Have the worker do some of the part it was given; what it will send."""
        ...

    def is_whole(self, sent: Sent_contra) -> bool:
        """Whether this is the last that a worker sends of its part."""
        ...

    def keep(self, part: Part, sent: Sent_contra) -> list[Item]:
        """Write down what came; what it was."""
        ...

    def leave(self, part: Part) -> None:
        """Let others have a part that is not whole."""
        ...

    def name_of(self, part: Part) -> str:
        """For a person, behind "a worker died while it"."""
        ...


def shared(crew: Crew, work: Work[Part, Sent_contra, Item], num_parts: int) -> Iterator[list[Item]]:
    """Until every part is whole, or in the hands of others: what was done meanwhile, with an empty list when a worker is ready.

    Raises what a worker can't mend (its teacher is not there, is another one, gives NaN), and ServerError where workers die again and
    again.
    """
    yield from _Shift(crew, work).through(num_parts)


@dataclass(eq=False)
class _Hand(Generic[Part]):
    """A part that was taken, and how often a worker died of it. One is another, whatever is in it."""

    part: Part
    deaths: int = 0


class _Shift(Generic[Part, Sent_contra, Item]):
    """Who does what at this moment."""

    def __init__(self, crew: Crew, work: Work[Part, Sent_contra, Item]) -> None:
        self._crew, self._work = crew, work
        self._lost, self._in_hand, self._is_all_given = list[_Hand[Part]](), list[_Hand[Part]](), False
        self._turns: dict[ObjectRef, tuple[ActorHandle, _Hand[Part] | None]] = {}
        self._deaths_before_work = 0

    def through(self, num_parts: int) -> Iterator[list[Item]]:
        import ray

        try:
            for _ in range(min(self._crew.count, num_parts)):
                self._hire()
            while self._in_hand or not self._is_all_given:
                [ready], _ = ray.wait(list(self._turns), num_returns=1)
                yield self._after(ready)
        finally:
            for hand in self._in_hand:
                self._work.leave(hand.part)
            for worker in self._crew.workers[:]:
                self._crew.dismiss(worker)

    def _after(self, ready: ObjectRef) -> list[Item]:
        """Take what a worker has for us, and give it something to do."""
        import ray
        from ray.exceptions import RayError, RayTaskError

        worker, hand = self._turns.pop(ready)
        try:
            sent = ray.get(ready)
        except RayTaskError as error:
            if isinstance(error.cause, PotstillError | OSError | MemoryError | RuntimeError):
                raise error.cause from error
            raise
        except RayError as error:
            self._mourn(worker, hand, error)
            return []
        if hand is None:
            self._deaths_before_work = 0
            self._give(worker)
            return []
        if not self._work.is_whole(sent):
            kept = self._work.keep(hand.part, sent)
            self._turns[self._work.go_on(worker, hand.part)] = (worker, hand)
            return kept
        self._give(worker)  # before the disk is waited for
        kept = self._work.keep(hand.part, sent)
        self._in_hand.remove(hand)
        return kept

    def _hire(self) -> None:
        worker = self._work.hire(self._crew)
        self._turns[worker.load.remote(numbering())] = (worker, None)

    def _give(self, worker: ActorHandle) -> None:
        """The next part to this worker, or its leave."""
        hand = self._lost.pop() if self._lost else self._next()
        if hand is None:
            self._is_all_given = True
            self._crew.dismiss(worker)
            return
        self._work.begin(worker, hand.part)
        self._turns[self._work.go_on(worker, hand.part)] = (worker, hand)

    def _next(self) -> _Hand[Part] | None:
        part = self._work.take()
        if part is None:
            return None
        self._in_hand.append(hand := _Hand(part))
        return hand

    def _mourn(self, worker: ActorHandle, hand: _Hand[Part] | None, error: Exception) -> None:
        """Another worker in its place, and its part to whoever is free next; ServerError where that has not helped before."""
        self._crew.dismiss(worker)
        if hand is not None:
            hand.deaths += 1
            self._lost.append(hand)
        else:
            self._deaths_before_work += 1
        if max(self._deaths_before_work, hand.deaths if hand is not None else 0) >= _MOST_DEATHS:
            what = "before it had its teacher" if hand is None else f"while it {self._work.name_of(hand.part)}"
            said = (str(error).strip() or type(error).__name__).splitlines()[-1].strip()
            raise ServerError(
                f"a worker died {_MOST_DEATHS} times {what}: {said} Is its machine out of memory, "
                "and is potstill installed there? Ray keeps its logs in session_latest/logs of its temporary folder there"
            ) from None
        self._hire()
