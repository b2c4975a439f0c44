"""A clock that finds another number format faster whenever it is asked, as on a busy machine: what began in one goes on in it."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from harm import Begin, Ended
from safetensors.torch import load_file, save_file
from verbs import VERBS, Jobs, outcome

# A file that is there when it is decided, and work has begun.
BEGUN = {
    "label": "labels/*.journal",
    "distill": "run/checkpoints/step-*/state.json",
    "write": "written/journal.jsonl",
    "compress": "small/**/checkpoints/step-*/state.json",
}
AUTO = {"distill": ("-s", "training.dtype=auto"), "compress": ("-s", "training.dtype=auto")}
NAMES = [pytest.param(one, marks=pytest.mark.slow) if one == "compress" else one for one in BEGUN]


@dataclass
class Clock:
    """Commands that decide by a clock, which is told what to find."""

    begin: Begin
    jobs: Jobs
    _whole: dict[tuple[str, str], dict[str, object]] = field(default_factory=dict)

    def folder(self, place: Path, name: str) -> Path:
        folder = self.jobs.copy(place, without=name)
        # To what bfloat16 holds: only such weights are held in it.
        file = folder / "teacher" / "model.safetensors"
        rounded = {key: one.bfloat16().float() for key, one in load_file(file).items()}
        save_file(rounded, file, metadata={"format": "pt"})
        return folder

    def run(self, folder: Path, name: str, finds: str, **harm: float | str) -> Ended:
        command = (*VERBS[name].command, *AUTO.get(name, ()))
        return self.begin.command(*command, folder=folder, finds=finds, **harm)  # type: ignore[arg-type]

    def left(self, folder: Path, name: str, finds: str) -> dict[str, object]:
        ended = self.run(folder, name, finds)
        assert ended.code == 0, ended.said
        return outcome(folder / VERBS[name].out)

    def whole(self, place: Path, name: str, finds: str) -> dict[str, object]:
        """What it leaves undisturbed where this is always found; made once."""
        if (name, finds) not in self._whole:
            self._whole[name, finds] = self.left(self.folder(place / finds, name), name, finds)
        return self._whole[name, finds]


@pytest.fixture(scope="session")
def clock(begin: Begin, jobs: Jobs) -> Clock:
    return Clock(begin, jobs)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_faster_is_asked_once(name, clock: Clock, tmp_path):
    in_half, in_full = (clock.whole(tmp_path, name, finds) for finds in ("bfloat16", "float32"))
    assert in_half != in_full
    folder = clock.folder(tmp_path / "killed", name)
    ended = clock.run(folder, name, "bfloat16", kill_at=BEGUN[name], kill_after=0.02)
    assert ended.code is None, ended.said
    assert clock.left(folder, name, "float32") == in_half


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("name", BEGUN)
def test_a_full_disk_mixes_no_formats(name, seed, clock: Clock, tmp_path):
    """Where nothing was kept before the disk was full, all is begun anew; otherwise it goes on."""
    draw, wholes = random.Random(seed), [clock.whole(tmp_path, name, finds) for finds in ("bfloat16", "float32")]
    largest = max(len(one) for one in wholes[0].values() if isinstance(one, bytes))
    folder = clock.folder(tmp_path / "full", name)
    ended = clock.run(folder, name, "bfloat16", most_bytes=int(largest * draw.random() ** 2))
    assert ended.code == 0 or ended.is_named, ended.said
    assert clock.left(folder, name, "float32") in wholes
