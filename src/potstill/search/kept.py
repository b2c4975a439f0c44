"""What a search has made, and from what: a step is done again when something it was made from has changed, and only then."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from potstill.runs import RunFolder

Facts = Mapping[str, object]
_FOLDER = "steps"


@dataclass(frozen=True)
class Kept:
    """The steps of the run in `folder`. Facts are flat: `training.length` -> 512; a step has those of the steps before it as well."""

    folder: RunFolder

    def begin(self, step: str, facts: Facts, places: Sequence[Path]) -> str | None:
        """Take up a step: where it was made from other facts, `places` are deleted first.

        What has changed, in words; None if nothing has."""
        now = {name: str(value) for name, value in facts.items()}
        name = f"{_FOLDER}/{step}.json"
        before = self._before(step)
        if before == now:
            return None
        changed = self.difference(step, facts)
        for place in places:
            shutil.rmtree(place, ignore_errors=True) if place.is_dir() else place.unlink(missing_ok=True)
        (self.folder.path / name).parent.mkdir(parents=True, exist_ok=True)
        self.folder.keep_json(name, now)
        return changed

    def difference(self, step: str, facts: Facts) -> str | None:
        """What has changed since the step was made, in words; None for nothing, and for a step that wasn't. Nothing is touched."""
        before, now = self._before(step), {name: str(value) for name, value in facts.items()}
        return None if before is None or before == now else self._difference(before, now)

    def _before(self, step: str) -> dict[str, object] | None:
        name = f"{_FOLDER}/{step}.json"
        return self.folder.read_json(name) if (self.folder.path / name).exists() else None

    @staticmethod
    def _difference(before: Mapping[str, object], now: Mapping[str, str]) -> str:
        for name in (*now, *before):
            if before.get(name) != now.get(name):
                was, is_now = before.get(name, "not there"), now.get(name, "not there")
                is_fingerprint = len(str(was)) == 32 and "." not in name
                return f"the {name} is another" if is_fingerprint else f"{name} was {was}, is {is_now}"
        return ""
