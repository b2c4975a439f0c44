"""One run, many processes: which verbs can be shared, and who of them speaks when one fails."""

from __future__ import annotations

import os
from datetime import timedelta

from potstill.errors import RecipeError

# These have one writer and divide their work; all others would do all of it once in each process.
_SHARED = ("distill", "label")
_SECONDS = 5


def num_fellows() -> int:
    """How many processes the launcher (accelerate, torchrun) says there are, this one among them; 1 without one."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def check_is_shared(verb: str) -> None:
    """RecipeError where several processes were begun for what is one's work."""
    if num_fellows() > 1 and verb not in _SHARED:
        raise RecipeError(
            f"`potstill {verb}` is one process's work, and {num_fellows()} were begun for it: start it without accelerate launch. Several "
            f"share {' and '.join(f'`potstill {name}`' for name in _SHARED)}"
        )


def part() -> None:
    """Take leave of the others, as they are told to expect; nothing is left to be shared."""
    if num_fellows() > 1:
        from accelerate import PartialState

        PartialState().destroy_process_group()


def is_first_to_fail() -> bool:
    """Whether none of the others has failed before: who comes later fails because of the first, or in the same way.

    They count in the store through which they met, which outlives them where a launcher keeps it. If nobody answers there, it was the
    main process that kept it, and its word counts.
    """
    if num_fellows() == 1:
        return True
    from torch.distributed import TCPStore  # type: ignore[attr-defined]  # documented there, exported for all but checkers

    try:
        place = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        store = TCPStore(*place, is_master=False, timeout=timedelta(seconds=_SECONDS), wait_for_workers=False)
        return store.add(f"potstill/failed/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", 1) == 1
    except (KeyError, RuntimeError):
        return os.environ.get("RANK", "0") == "0"
