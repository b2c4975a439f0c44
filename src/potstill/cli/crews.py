"""Workers that share what a command does, on the machines of a cluster, or on this one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from potstill.errors import RecipeError
from potstill.workers import Crew, joined


def check_place(address: str | None, workers: int | None) -> None:
    """RecipeError for `--ray` alone."""
    if address is not None and workers is None:
        raise RecipeError("--ray says where workers run: say with --workers how many")


@contextmanager
def gathered(model: str, workers: int, address: str | None, say: Callable[[str], None]) -> Iterator[Crew]:
    """A crew with this teacher; a folder's name is made whole, because workers stand elsewhere."""
    say(f"waiting for workers {'of ' + address if address else 'on this machine'}")
    path = Path(model).expanduser()
    with joined(address, count=workers, model=str(path.absolute()) if path.exists() else model) as crew:
        yield crew
