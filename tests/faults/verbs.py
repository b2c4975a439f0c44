"""What is harmed: small jobs of the verbs that write, and what of their outcome must come out the same."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path

from commands import set_up
from harm import Begin

WRITE = """
[writer]
kind = "local"
model = "teacher"
rows = 4
[prompts]
source = "prompts.jsonl"
[sampling]
temperature = 1.5
max_new_tokens = 12
best_of = 2
[output]
cut = true
"""
# What is faster is found out by the clock when a run begins: two runs may find differently.
_SAME = "float32"
_SEARCH = {
    "training.dtype": _SAME,
    "training.length": "24",
    "training.rows": "2",
    "training.checkpoint_every": "3",
    "evaluation.speed": "false",
    "student.tokens": "500",
    "student.shares": "[0.5]",
    "student.cuts": "['depth', 'width']",
    "data.held_out": "0.3",
    "data.search": "0.2",
}


@dataclass(frozen=True)
class Verb:
    """A command that leaves something in the folder `out`."""

    words: tuple[str, ...]
    out: str

    @property
    def command(self) -> tuple[str, ...]:
        return (*self.words, "-o", self.out)


_LEARN = ("-s", "training.steps=12", "-s", "training.checkpoint_every=3", "-s", f"training.dtype={_SAME}")
_FEW = tuple(word for name, value in _SEARCH.items() for word in ("-s", f"{name}={value}"))
_NEAR = ("--most-kl", "9", "-d", "text.jsonl", "--tokens", "300", "--length", "24")
VERBS = {
    "label": Verb(("label", "recipe.toml"), "labels"),
    "distill": Verb(("distill", "recipe.toml", *_LEARN), "run"),
    "write": Verb(("write", "write.toml"), "written"),
    "compress": Verb(
        ("compress", "teacher", "-d", "many.jsonl", "--tokens", "1k", "-k", "agreement=0.1%", *_FEW), "small"
    ),
    "export": Verb(("export", "teacher", "--to", "int4", "--group", "8", *_NEAR), "packed"),
}


def outcome(folder: Path) -> dict[str, object]:
    """Of a finished command: labels, weights and text by their bytes, scores by what they say. No times, no dates."""
    found: dict[str, object] = {}
    for file in sorted(folder.rglob("*")):
        name = file.relative_to(folder).as_posix()
        if (file.suffix in (".labels", ".safetensors") and "checkpoints" not in name) or file.name == "written.jsonl":
            found[name] = file.read_bytes()
        if name == "scores.json":
            said = json.loads(file.read_text("utf-8"))
            found[name] = {part: said[part] for part in ("models", "bars", "verdicts", "holds") if part in said}
        if name == "export.json":
            said = json.loads(file.read_text("utf-8"))
            found[name] = [said["good"], said["scores"], said["bytes"]]
    assert found
    return found


@dataclass
class Jobs:
    """A folder with all that the commands need, and what each leaves undisturbed; made when it is asked for, once."""

    path: Path
    begin: Begin
    _whole: dict[str, dict[str, object]] = field(default_factory=dict)
    _seconds: dict[str, float] = field(default_factory=dict)

    def prepare(self) -> None:
        set_up(self.path)
        (self.path / "write.toml").write_text(WRITE)
        rows = [{"prompt": f"number {n} is"} for n in range(24)]
        (self.path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        rows = [{"text": f"word{n} and " * 12} for n in range(60)]
        (self.path / "many.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def whole(self, name: str) -> tuple[dict[str, object], float]:
        """(what it leaves, the seconds it takes)."""
        if name not in self._whole:
            verb = VERBS[name]
            for _ in range(2):  # the first time, it imports
                shutil.rmtree(self.path / verb.out, ignore_errors=True)
                began = time.monotonic()
                ended = self.begin.command(*verb.command, folder=self.path)
                self._seconds[name] = time.monotonic() - began
                assert ended.code == 0, ended.said
            self._whole[name] = outcome(self.path / verb.out)
        return self._whole[name], self._seconds[name]

    def copy(self, place: Path, *, without: str | None = None) -> Path:
        """The folder once more; `without`: but for what this command left."""
        left = [] if without is None else [VERBS[without].out]
        return Path(shutil.copytree(self.path, place, ignore=shutil.ignore_patterns(*left) if left else None))
