from pathlib import Path

from potstill.cli.console import next_step


def test_a_student_is_exported_and_then_served():
    assert next_step(Path("runs/a")) == "next     potstill export runs/a --to gguf   (then: potstill serve runs/a)"
    assert "export 'two words' --to" in next_step(Path("two words"))
