"""Text that people hand in: recipes, rows of data, prompts, questions, policies. Read, or refused in a message; never anything else."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from mutating import fuzz

sys.path.insert(0, str(Path(__file__).parents[1] / "serving"))

from doors import policy

from potstill.data import judge_of, read_documents, tokenize
from potstill.evaluation.questions import read_questions
from potstill.models import load_tokenizer
from potstill.recipe import load_recipe, load_writing, recipe_toml
from potstill.routing import DriftAlarm, Policy, Signals
from potstill.routing.queries import read_queries, read_scored
from potstill.writing import read_prompts

ROOT = Path(__file__).parents[2]
STARTERS = sorted((ROOT / "src/potstill/recipe/starters").glob("*.toml"))
RECIPES = [
    path.read_bytes() for path in [*STARTERS, *sorted((ROOT / "recipes").glob("*.toml"))] if path.stem != "write"
]
WRITING = [path.read_bytes() for path in STARTERS if path.stem == "write"]
JUDGE = judge_of("exact")


def lines(*rows: object) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


CHAT = [{"role": "user", "content": "Two and two?"}, {"role": "assistant", "content": "4, \u00e9\n"}]
ENTRY = {
    "token": "4",
    "logprob": -0.25,
    "top_logprobs": [{"token": "4", "logprob": -0.25}, {"token": "5", "logprob": -2.5}],
}
SEEDS: dict[str, list[bytes]] = {
    "rows.jsonl": [
        lines({"text": "def f(x):\n    return x"}, {"text": "\u4e2d\u6587 \U0001f642", "domain": "a"}, {"text": "x = 1"}),
        lines({"prompt": "2 + 2 =", "completion": " 4"}, {"prompt": "a", "completion": "b"}),
        lines({"messages": CHAT}, {"messages": [*CHAT, *CHAT]}),
        lines({"text": "good", "label": 1}, {"text": "bad", "label": 0}),
    ],
    "notes.txt": [b"One.\n\nTwo, \xc3\xa9.\n\n" * 5, b"x" * 5_000],
    "prompts.jsonl": [
        lines({"prompt": "2 + 2 =", "answer": "4", "domain": "sums"}, {"prompt": "a", "answer": 3}),
        lines({"messages": CHAT[:1], "answer": "4"}, {"messages": CHAT[:1], "answer": "5"}),
    ],
    "scored.jsonl": [
        lines(*({"prompt": str(n), "answer": "4", "student_answer": "4", "teacher_answer": "5", "logprobs": {"content": [ENTRY]}}
                for n in range(50))),
        lines(*({"prompt": str(n), "student_score": 1, "teacher_score": 0.5, "mean_logprob": -0.5} for n in range(50))),
    ],
    "queries.jsonl": [lines(*({"prompt": str(n), "answer": "b", "choices": ["a", "b"], "domain": "c"} for n in range(50)))],
    "questions.jsonl": [
        lines(*({"prompt": f"{n} + 2?", "choices": ["x", "y"], "answer": "y"} for n in range(12))),
        lines(*({"prompt": f"{n} + 2?", "answer": "4"} for n in range(12))),
    ],
}  # fmt: skip


def parquet(rows: list[dict], path: Path) -> bytes:
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path.read_bytes()


def times(quick: int, slow: int):
    return pytest.mark.parametrize("cases", [quick, pytest.param(slow, marks=pytest.mark.slow)])


def on_disk(path: Path, reads: Callable[[Path], object]) -> Callable[[bytes], object]:
    def read(data: bytes) -> object:
        path.write_bytes(data)
        return reads(path)

    return read


@times(600, 20_000)
def test_recipes(cases, tmp_path):
    """What is accepted can be written down and says the same again."""

    def reads(path: Path) -> None:
        recipe = load_recipe(path)
        again = tmp_path / "again.toml"
        again.write_text(recipe_toml(recipe), "utf-8")
        assert load_recipe(again) == recipe

    found = fuzz(RECIPES, on_disk(tmp_path / "recipe.toml", reads), cases=cases)
    assert found.read > cases / 50
    assert found.refused > cases / 4


@times(200, 5_000)
def test_recipes_for_writing(cases, tmp_path):
    found = fuzz(WRITING, on_disk(tmp_path / "write.toml", load_writing), cases=cases)
    assert found.read > cases / 50
    assert found.refused > cases / 4


@times(300, 5_000)
def test_settings_of_the_command_line(cases, tmp_path):
    seeds = [
        b"training.steps=100",
        b"student.shape.layers=[0, 1, 2]",
        b"loss.temperature=2.0",
        b'data.source="a.jsonl"',
        b"loss={}",
    ]
    path = tmp_path / "recipe.toml"
    path.write_bytes(RECIPES[0])
    found = fuzz(seeds, lambda data: load_recipe(path, sets=[data.decode("utf-8", "surrogateescape")]), cases=cases)
    assert found.refused > cases / 4


@pytest.mark.parametrize("name", list(SEEDS))
@times(400, 8_000)
def test_rows(cases, name, tmp_path):
    tokenizer = load_tokenizer("pocket")
    tokenizer.chat_template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}"
    readers = {
        "rows.jsonl": lambda path: tokenize(read_documents(path, tokenizer=tokenizer), tokenizer),
        "notes.txt": lambda path: tokenize(read_documents(path), tokenizer),
        "prompts.jsonl": read_prompts,
        "queries.jsonl": read_queries,
        "scored.jsonl": lambda path: read_scored(path, JUDGE),
        "questions.jsonl": read_questions,
    }
    reads = on_disk(tmp_path / name, readers[name])
    for whole in SEEDS[name]:
        reads(whole)
    found = fuzz(SEEDS[name], reads, cases=cases)
    assert found.read > cases / 50
    assert found.refused > cases / 20


@times(200, 8_000)
def test_parquet(cases, tmp_path):
    tokenizer = load_tokenizer("pocket")
    tokenizer.chat_template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}"
    seeds = [
        parquet([{"text": "def f(x):", "n": 1}, {"text": "x", "n": None}], tmp_path / "a.parquet"),
        parquet([{"messages": CHAT}] * 3, tmp_path / "b.parquet"),
    ]
    reads = on_disk(tmp_path / "c.parquet", lambda path: list(read_documents(path, tokenizer=tokenizer)))
    found = fuzz(seeds, reads, cases=cases)
    assert found.read > 0
    assert found.refused > cases / 4


@times(400, 8_000)
def test_policies(cases, tmp_path):
    """What is accepted decides, watches, and is the same when it is read again."""
    policy().save(tmp_path / "policy.json")

    def reads(path: Path) -> None:
        found = Policy.load(path)
        sure = Signals(mean_logprob=-0.1)
        alarm = DriftAlarm(found.histogram)
        for _ in range(3):
            alarm.see(found.decide(sure, prompt="a").score)
        found.save(tmp_path / "again.json")
        assert Policy.load(tmp_path / "again.json") == found

    found = fuzz([(tmp_path / "policy.json").read_bytes()], on_disk(tmp_path / "b.json", reads), cases=cases)
    assert found.read > cases / 50
    assert found.refused > cases / 4
