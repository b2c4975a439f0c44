"""Questions of one's own, answered by a real model."""

import json

import numpy as np
import pytest

from potstill.errors import DataError
from potstill.evaluation import answer_scores, read_questions
from potstill.models import load_model, load_tokenizer


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def starts_with_self(prompt: str, answer: str, written: str) -> float:
    return float(written.lstrip().startswith(answer))


CHOICES = [
    {"prompt": "import os\nimport", "answer": "sys", "choices": ["sys", "qqzx vv"]},
    {"prompt": "def f(self,", "answer": 0, "choices": ["other):", ")))]]"]},
    {"prompt": "class A:\n    def __init__(", "answer": "self", "choices": ["}{", "self"]},
]
WRITTEN = [{"prompt": "class A:\n    def __init__(", "answer": "self"}] * 3


@pytest.fixture(scope="module")
def pocket():
    return load_model("pocket").float(), load_tokenizer("pocket")


def test_choices(pocket, tmp_path) -> None:
    questions = read_questions(write(tmp_path / "q.jsonl", CHOICES))
    assert questions.judging == "choice"
    found = answer_scores(*pocket, questions, length=128)
    assert found.tolist() == [1.0, 1.0, 1.0]
    wrong = [dict(one, answer=one["choices"][1 if one["answer"] in (0, one["choices"][0]) else 0]) for one in CHOICES]
    assert answer_scores(*pocket, read_questions(write(tmp_path / "w.jsonl", wrong)), length=128).sum() == 0


@pytest.mark.parametrize(
    ("judging", "how", "expected"),
    [
        ("regex", r"^(\w+)", 1.0),
        ("regex", r"nothing like it", 0.0),
        ("exact", "", 0.0),
        ("python", "test_evaluation_questions:starts_with_self", 1.0),
    ],
)
def test_what_is_written(pocket, tmp_path, judging, how, expected, monkeypatch) -> None:
    monkeypatch.syspath_prepend(str(__import__("pathlib").Path(__file__).parent))
    questions = read_questions(write(tmp_path / "q.jsonl", WRITTEN), judging=judging, how=how, new_tokens=6)
    assert answer_scores(*pocket, questions, length=128).tolist() == [expected] * 3


def test_padding_changes_no_answer(pocket, tmp_path) -> None:
    """Long and short prompts in one batch are answered as alone."""
    prompts = [
        "def f(",
        "import os\nimport sys\n\n\nclass Thing:\n    def __init__(self, name):\n        self.",
        "x = ",
    ]
    model, tokenizer = pocket
    from potstill.evaluation.questions import _written

    together = _written(model, tokenizer, prompts, 8, 128)
    assert together == [_written(model, tokenizer, [one], 8, 128)[0] for one in prompts]


def test_a_question_stays_on_one_side(tmp_path) -> None:
    rows = [{"prompt": f"{i} + {i} =", "answer": str(2 * i)} for i in range(300)]
    some, others = read_questions(write(tmp_path / "q.jsonl", rows)).split()
    assert 60 <= len(some.items) <= 140
    assert len(some.items) + len(others.items) == 300
    assert not set(some.items) & set(others.items)
    assert np.array_equal(some.items, read_questions(tmp_path / "q.jsonl").split()[0].items)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"question": "?", "answer": 1}] * 3, "line 1: a question is"),
        ([{"prompt": "a", "answer": "c", "choices": ["a", "b"]}] * 3, "none of the choices"),
        ([{"prompt": "a", "answer": "a"}] * 2, "too few"),
        (
            [{"prompt": "a", "answer": 1, "choices": ["1", "2"]}] * 3,
            "may be the choice '1' or the number of the choice '2'",
        ),
        ([{"prompt": " \n", "answer": "a"}] * 3, "line 1: its `prompt` is empty"),
        *(
            (
                [{"prompt": "a", "answer": "a", "choices": choices}] * 3,
                "line 1: `choices` is a list of at least two different",
            )
            for choices in (5, "abc", {"a": 1, "b": 2}, [], ["a"], ["a", "a", "b"])
        ),
        ([{"prompt": "a", "answer": "a", "choices": ["a", ""]}] * 3, "one of the `choices` is empty"),
    ],
)
def test_mistakes_are_told(tmp_path, rows, message) -> None:
    with pytest.raises(DataError, match=message):
        read_questions(write(tmp_path / "q.jsonl", rows))


def test_a_number_that_means_one_choice_alone_is_clear(tmp_path) -> None:
    rows = [{"prompt": "a", "answer": answer, "choices": ["0", "3"]} for answer in (0, 1, 3, "0")]
    assert [one.answer for one in read_questions(write(tmp_path / "q.jsonl", rows)).items] == ["0", "3", "3", "0"]


def test_no_such_function(tmp_path) -> None:
    with pytest.raises(DataError, match="module:function"):
        read_questions(write(tmp_path / "q.jsonl", WRITTEN), judging="python", how="nowhere:nothing")
