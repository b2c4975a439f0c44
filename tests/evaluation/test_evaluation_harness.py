"""Tasks of lm-evaluation-harness, on a file of our own."""

import json
from pathlib import Path

import numpy as np
import pytest

from potstill.errors import DataError
from potstill.evaluation import answer_scores, read_task
from potstill.models import load_model, load_tokenizer

TASK = """task: {name}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
output_type: multiple_choice
test_split: test
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: gold
metric_list:
  - metric: acc
  - metric: acc_norm
"""


def task_file(folder: Path, num: int = 24) -> Path:
    """Which word goes on with a line of Python: the right one is always the second."""
    beginnings = ["import os, ", "from typing import ", "def main(", "for i in range(", "return ", "if x is "]
    endings = ["sys", "Any", "self", "10", "None", "not None"]
    items = [
        {"question": f"# {n}\n{beginnings[n % 6]}", "choices": ["qzqz", endings[n % 6], "xjxj vq"], "gold": 1}
        for n in range(num)
    ]
    data = folder / "words.jsonl"
    data.write_text("".join(json.dumps(item) + "\n" for item in items), "utf-8")
    path = folder / "words.yaml"
    path.write_text(TASK.format(name="words", data=data), "utf-8")
    return path


def test_scores_are_the_tasks_own_in_the_order_of_its_questions(tmp_path: Path) -> None:
    task = read_task(str(task_file(tmp_path)))
    model, tokenizer = load_model("pocket"), load_tokenizer("pocket")

    found = answer_scores(model, tokenizer, task, length=128)

    assert (task.name, task.score) == ("words", "acc_norm")
    assert found.shape == (24,)
    assert found.mean() > 0.8  # two of three choices are no words
    one, other = task.split()
    assert sorted(one.items + other.items) == list(range(24))
    assert np.array_equal(answer_scores(model, tokenizer, one, length=128), found[list(one.items)])


def test_each_call_asks_the_same_and_leaves_the_tokenizer_as_it_was(tmp_path: Path, monkeypatch) -> None:
    """Student and teacher are compared question by question: both must see the same few-shot examples."""
    path = task_file(tmp_path)
    path.write_text(path.read_text() + "num_fewshot: 3\nfewshot_split: test\n")
    task, tokenizer, asked = read_task(str(path)), load_tokenizer("pocket"), []
    of_request = type(task.task).construct_requests
    monkeypatch.setattr(
        type(task.task),
        "construct_requests",
        lambda self, doc, ctx, **more: asked.append(ctx) or of_request(self, doc, ctx, **more),
    )
    model, before = load_model("pocket"), tokenizer.pad_token
    for _ in range(2):
        answer_scores(model, tokenizer, task, length=256)
    assert len(asked) == 48
    assert asked[:24] == asked[24:]
    assert asked[0].count("#") == 4
    assert tokenizer.pad_token == before


def test_the_fingerprint_is_of_documents_and_score(tmp_path: Path) -> None:
    one = read_task(str(task_file(tmp_path)))
    other_score = read_task(str(tmp_path / "words.yaml"), score="acc")
    (tmp_path / "more").mkdir()
    more = read_task(str(task_file(tmp_path / "more", 30)))

    (tmp_path / "functions.py").write_text("def shots():\n    return []\n")
    with_function = (tmp_path / "words.yaml").read_text() + "fewshot_config:\n  samples: !function functions.shots\n"
    (tmp_path / "words.yaml").write_text(with_function)
    assert read_task(str(tmp_path / "words.yaml")).fingerprint == read_task(str(tmp_path / "words.yaml")).fingerprint
    assert len({one.fingerprint, other_score.fingerprint, more.fingerprint}) == 3


def test_mistakes_are_told(tmp_path: Path) -> None:
    path = task_file(tmp_path)
    with pytest.raises(DataError, match="no score 'bleu'"):
        read_task(str(path), score="bleu")
    with pytest.raises(DataError, match="no task of lm-eval"):
        read_task("no_such_task")
    (tmp_path / "empty.yaml").write_text("dataset_path: json\n", "utf-8")
    with pytest.raises(DataError, match="no line `task: NAME`"):
        read_task(str(tmp_path / "empty.yaml"))
    with pytest.raises(DataError, match="can't be read"):
        read_task(str(tmp_path / "none.yaml"))
