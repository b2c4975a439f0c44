"""The command line run in this process, and what a folder needs for it: a tiny teacher, a recipe, some text."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from click.testing import Result
from tiny_job import tiny_llama
from tiny_models import byte_tokenizer
from typer.testing import CliRunner

from potstill.cli.app import app

RECIPE = """
[teacher]
model = "teacher"

[student]
kind = "copy_layers"
layers = 2

[data]
source = "text.jsonl"
held_out = 0.3

[training]
steps = 4
length = 24
rows = 4
checkpoint_every = 2

[evaluation]
speed = false
"""


@dataclass(frozen=True)
class Workshop:
    """A folder to work in."""

    path: Path

    def run(self, *words: str | Path) -> Result:
        """`potstill WORDS`, with the recipe's paths relative to the folder (the test changes into it)."""
        return CliRunner().invoke(app, [str(word) for word in words], env={"COLUMNS": "160"})

    def refused(self, *words: str | Path) -> str:
        """The one message of a command that ends with 2, without a traceback."""
        result = self.run(*words)
        assert result.exit_code == 2, (result.exit_code, result.output, result.exception)
        assert "Traceback" not in result.output
        assert result.stderr.startswith("potstill: "), result.stderr
        return result.stderr


def set_up(path: Path) -> Workshop:
    """Teacher, text and recipe.toml in this folder."""
    tiny_llama().save_pretrained(path / "teacher")
    byte_tokenizer().save_pretrained(path / "teacher")
    records = [{"text": f"number {n} is {'even' if n % 2 == 0 else 'odd'}. " * (1 + n % 3)} for n in range(30)]
    (path / "text.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (path / "recipe.toml").write_text(RECIPE)
    return Workshop(path)
