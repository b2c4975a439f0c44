"""Models here and on a server answer queries; what they say of their tokens is what a forward pass says; a kill loses nothing."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import Workshop
from faulty_server import Behaviour, serving
from tiny_job import tiny_llama
from tiny_models import byte_tokenizer

from potstill.data import judge_of
from potstill.errors import DataError
from potstill.evaluation import answer_scores, read_questions
from potstill.routing import Policy, listed_tokens, signals_of
from potstill.routing.answering import ChoosingWriter, scored
from potstill.routing.queries import read_queries, read_scored
from potstill.writing import Journal, LocalWriter, Sampling, write

CHOICES = ["7", "22", "return"]


def write_queries(path: Path, number: int = 60, **more) -> Path:
    rows = [{"prompt": f"number {n} is", "domain": "ab"[n % 2], **more} for n in range(number)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def refused(workshop: Workshop, *words: str) -> str:
    """The message of a command that ends with 2; what was done before it may have been said."""
    result = workshop.run(*words)
    assert result.exit_code == 2, (result.exit_code, result.output, result.exception)
    assert "Traceback" not in result.output
    assert "potstill: " in result.stderr
    return result.stderr.replace("\n", " ")


def answered(queries, writer, path: Path) -> Journal:
    journal = Journal(path, {"model": "x"})
    for _ in write([one.prompt for one in queries], writer, journal):
        pass
    return journal


def test_what_a_model_here_lists_is_what_a_forward_pass_says(pocket, tmp_path: Path):
    model, tokenizer = pocket
    queries = read_queries(write_queries(tmp_path / "q.jsonl", 50))[:4]
    writer = LocalWriter(model, tokenizer, Sampling(temperature=0.0, max_new_tokens=6), rows=4, top_logprobs=3)
    with answered(queries, writer, tmp_path / "j.jsonl") as journal:
        for query in queries:
            [sample] = journal.read(query.prompt.id).samples
            assert sample.listed is not None
            begin = torch.tensor([tokenizer(str(query.prompt.sent))["input_ids"]])
            ids = model.generate(begin, attention_mask=torch.ones_like(begin), max_new_tokens=6, do_sample=False)
            with torch.no_grad():
                log_p = model(ids).logits[0].log_softmax(-1)
            tops = log_p[begin.shape[1] - 1 : begin.shape[1] - 1 + len(sample.listed)].topk(3)
            tokens = listed_tokens(sample.listed)
            assert [one.logprob for one in tokens] == pytest.approx(tops.values[:, 0].tolist(), abs=1e-4)
            assert np.array([one.top for one in tokens]) == pytest.approx(tops.values.numpy(), abs=1e-4)
            assert signals_of(tokens).margin is not None


def test_choices_are_those_of_the_evaluation(tmp_path: Path):
    model, tokenizer = tiny_llama(), byte_tokenizer()
    rows = [
        {"prompt": prompt, "choices": CHOICES, "answer": n % 3}
        for n, prompt in enumerate(["x = ", "def f():\n   ", "a ="] * 20)
    ]
    path = tmp_path / "q.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    theirs = answer_scores(model, tokenizer, read_questions(path), length=64)
    queries = read_queries(path)
    writer = ChoosingWriter(model, tokenizer, {one.prompt.id: one.choices for one in queries})
    with answered(queries, writer, tmp_path / "j.jsonl") as journal:
        found = scored(queries, journal, journal, judge_of("exact"))
    assert found.student.tolist() == theirs.tolist()
    assert found.references
    one = found.signals[0]
    assert one.entropy is not None
    assert 0 < one.entropy <= np.log(3)


def test_behind_nothing_a_choice_is_predicted_from_the_beginning(tmp_path: Path):
    """A tokenizer that puts nothing before a text: the first token counts as others do."""
    model, tokenizer = tiny_llama(), byte_tokenizer()
    choices = ["a", "bc"]
    path = write_queries(tmp_path / "q.jsonl", 50, prompt="", choices=choices)
    query = read_queries(path)[0]
    writer = ChoosingWriter(model, tokenizer, {query.prompt.id: query.choices})
    with answered([query], writer, tmp_path / "j.jsonl") as journal:
        [sample] = journal.read(query.prompt.id).samples
    ids = torch.tensor([[tokenizer.eos_token_id, *tokenizer("bc")["input_ids"]]])
    with torch.no_grad():
        log_p = model.eval()(ids).logits[0].log_softmax(-1)
    totals = torch.stack([log_p[0, tokenizer("a")["input_ids"][0]], (log_p[0, ids[0, 1]] + log_p[1, ids[0, 2]]) / 2])
    expected = dict(zip(choices, totals.log_softmax(-1).tolist(), strict=True))
    assert sample.listed is not None
    assert {one["token"]: one["logprob"] for one in sample.listed[0]["top_logprobs"]} == pytest.approx(
        expected, abs=1e-4
    )


def test_without_right_answers_the_teacher_is_right(tmp_path: Path):
    tiny = tiny_llama(), byte_tokenizer()
    queries = read_queries(write_queries(tmp_path / "q.jsonl"))
    writers = [LocalWriter(*tiny, Sampling(temperature=0.0, max_new_tokens=n), rows=16, top_logprobs=2) for n in (1, 2)]
    with (
        answered(queries, writers[0], tmp_path / "a.jsonl") as one,
        answered(queries, writers[1], tmp_path / "b.jsonl") as two,
    ):
        same, other = (scored(queries, one, journal, judge_of("exact")) for journal in (one, two))
    assert same.student.min() == 1
    assert other.teacher.min() == 1
    assert other.student.mean() < 1
    assert not same.references


def test_a_query_that_is_too_long_is_answered_wrongly(tmp_path: Path):
    model, tokenizer = tiny_llama(), byte_tokenizer()
    rows = [{"prompt": "x" * (200 if n == 7 else 3), "choices": ["ab", "cd"], "answer": 0} for n in range(60)]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    queries = read_queries(tmp_path / "q.jsonl")
    writer = ChoosingWriter(model, tokenizer, {one.prompt.id: one.choices for one in queries})
    with answered(queries, writer, tmp_path / "j.jsonl") as journal:
        found = scored(queries, journal, journal, judge_of("exact"))
    assert found.student[7] == 0
    assert found.signals[7] == signals_of(())


def test_rows_of_other_columns_are_told_what_columns_are_called(tmp_path):
    (tmp_path / "q.jsonl").write_text('{"question": "a", "answer": "b"}\n')
    with pytest.raises(DataError, match=r"has columns 'question', 'answer'.* needs 'prompt'.* Name the columns so"):
        read_queries(tmp_path / "q.jsonl")


def test_the_command_goes_on_after_a_kill(workshop: Workshop):
    write_queries(workshop.path / "q.jsonl", answer="odd")
    tiny_llama(seed=3).save_pretrained("student")
    byte_tokenizer().save_pretrained("student")
    command = (
        "route",
        "q.jsonl",
        "-o",
        "out",
        "-s",
        "student",
        "-t",
        "teacher",
        "--new-tokens",
        "4",
        "--judge",
        "regex",
        "--how",
        r"\w",
    )
    first = workshop.run(*command)
    assert first.exit_code == 2, first.output  # random models get nothing right
    said = " ".join(first.stderr.split())
    assert "teacher gets no query right" in said
    assert "out/answers/teacher.jsonl" in said
    assert "--judge, now regex" in said
    journal = workshop.path / "out" / "answers" / "student.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    assert len(lines) == 61
    journal.write_bytes(b"".join(lines[:30]) + lines[30][:40])
    write_queries(workshop.path / "q.jsonl")  # the same prompts; now the teacher is right
    again = workshop.run(*command)
    assert again.exit_code == 0, again.output
    assert "AUROC nan" not in again.output
    assert (
        "next potstill serve student --teacher teacher --policy out/policy.json" in " ".join(again.output.split())
    ) != ("Nothing can be promised" in again.output)
    assert "31 queries answered" in again.output
    assert "29 were there already" in again.output
    assert sorted(json.loads(line)["id"] for line in journal.read_bytes().splitlines()[1:]) == sorted(
        json.loads(line)["id"] for line in lines[1:]
    )
    policy = Policy.load(workshop.path / "out" / "policy.json")
    assert policy.calibration.answering == "written"
    assert policy.calibration.student.startswith("student ")
    assert {path.name for path in (workshop.path / "out").iterdir()} == {
        "answers", "manifest.json", "policy.json", "report.html", "report.md", "route.json",
    }  # fmt: skip
    elsewhere = [str(workshop.path / word) if word in ("student", "teacher") else word for word in command]
    assert "60 were there already" in workshop.run(*elsewhere).output  # the same models by other paths
    assert "was written with new_tokens = 4" in refused(workshop, *command[:-5], "5")


@pytest.mark.parametrize("right", [1, 0])
def test_a_policy_leads_to_the_door_where_it_promises_something(right: int, workshop: Workshop):
    rows = [{"student_score": right or n % 2, "teacher_score": 1, "mean_logprob": -1.0 - n / 600} for n in range(600)]
    (workshop.path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = workshop.run("route", "q.jsonl", "-o", "out", "--by", "mean_logprob")
    assert done.exit_code == 0, done.output
    door = "next potstill serve STUDENT --teacher TEACHER --policy out/policy.json"
    assert (door in " ".join(done.output.split())) == bool(right)
    assert ("Nothing can be promised" in done.output) != bool(right)
    assert (Policy.load(workshop.path / "out" / "policy.json").threshold is None) != bool(right)


def test_a_server_and_a_model_here(workshop: Workshop):
    write_queries(workshop.path / "q.jsonl")

    def said(_: dict, prompt: str) -> dict:
        logprob = -0.1 * (len(prompt) % 7)
        listed = {"tokens": ["a"], "token_logprobs": [logprob], "top_logprobs": [{"a": logprob, "b": -9.0}]}
        return {"text": "a", "logprobs": listed}

    with serving(Behaviour(answer=said)) as url:
        found = workshop.run("route", "q.jsonl", "-o", "out", "-s", f"{url}#small-0.5B", "-t", f"{url}#large")
    assert found.exit_code == 0, found.output
    assert Policy.load(workshop.path / "out" / "policy.json").calibration.student == "small-0.5B on a server"
    assert "What small-0.5B may answer" in (workshop.path / "out" / "report.html").read_text()
    with serving(Behaviour(answer=lambda *_: {"text": "a"})) as url:
        message = refused(workshop, "route", "q.jsonl", "-o", "none", "-s", f"{url}#small", "-t", f"{url}#large")
    assert "gave no log-probabilities" in message


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"prompt": "a"}] * 3, "3 queries, too few"),
        ([{"prompt": "a", "choices": ["b"]}] * 60, "at least two different"),
        ([{"prompt": "a", "choices": ["b", "c"], "answer": 2}] * 60, "none of the choices"),
        ([{"prompt": "1+1=", "choices": [1, 2, 3], "answer": 2}] * 60, "may be the choice '2' or the number"),
        ([{"prompt": "a", "choices": ["b", ""], "answer": 0}] * 60, "is empty"),
        ([{"prompt": "a", "answer": "b"}] * 59 + [{"prompt": "a"}], "'answer', and others have"),
        ([{"prompt": "a", "choices": ["b", "c"]}] * 59 + [{"prompt": "a"}], "'choices', and others have"),
        ([{"text": "a"}] * 60, "a prompt needs"),
    ],
)
def test_rows_that_are_no_queries(rows, said, tmp_path: Path):
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(DataError, match=said):
        read_queries(tmp_path / "q.jsonl")


GIVEN = {"student_score": 1, "teacher_score": 0.5, "mean_logprob": -0.1}


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (GIVEN | {"student_score": 2}, "'student_score' is a number from 0 to 1"),
        (GIVEN | {"teacher_score": None}, "'teacher_score' is a number from 0 to 1"),
        (GIVEN | {"mean_logprob": "x"}, "'mean_logprob' is a finite number"),
        ({"student_score": 1, "teacher_score": 1}, "says nothing of how sure"),
        (GIVEN | {"logprobs": [{"logprob": 3.0}]}, "line 60: 3.0 is no log-probability"),
        ({"student_answer": "a", "margin": 1}, "`student_answer` and `teacher_answer` as texts"),
        ({"student_answer": "a", "teacher_answer": "a", "margin": 1}, "give all of them one"),
    ],
)
def test_rows_that_are_no_answers(row, said, tmp_path: Path):
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(one) + "\n" for one in [GIVEN] * 59 + [row]))
    with pytest.raises(DataError, match=said):
        read_scored(tmp_path / "q.jsonl", judge_of("exact"))


@pytest.mark.parametrize("worth", [10.0, -1.0, float("nan")])
def test_a_judge_beyond_0_and_1_promises_nothing(worth: float, tmp_path: Path):
    row = {"student_answer": "a", "teacher_answer": "b", "mean_logprob": -1.0}
    for more in ({}, {"answer": "b"}):
        (tmp_path / "q.jsonl").write_text((json.dumps(row | more) + "\n") * 60)
        with pytest.raises(DataError, match="the judge gives"):
            read_scored(tmp_path / "q.jsonl", lambda asked, right, answer: worth)


def test_among_other_choices_it_is_another_question(tmp_path: Path):
    ids = []
    for choices in (["even", "odd"], ["evven", "odd"]):
        ids.append({one.prompt.id for one in read_queries(write_queries(tmp_path / "q.jsonl", choices=choices))})
        assert len(ids[-1]) == 60
    assert not ids[0] & ids[1]


def test_answers_given_are_judged(tmp_path: Path):
    rows = [
        {"student_answer": " Paris\nor so", "teacher_answer": "Rome", "answer": "paris", "logprobs": {"content": [{"logprob": -1.0}]}},
        {"student_answer": "x", "teacher_answer": "Paris", "answer": "paris", "logprobs": [{"logprob": -2.0, "top_logprobs": []}]},
    ] * 30  # fmt: skip
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    found = read_scored(tmp_path / "q.jsonl", judge_of("exact"))
    assert found.student.tolist() == [1, 0] * 30
    assert found.teacher.tolist() == [0, 1] * 30
    assert [one.mean_logprob for one in found.signals] == [-1, -2] * 30
    assert found.prompts is None
    agreeing = [{name: value for name, value in row.items() if name != "answer"} for row in rows]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(one) + "\n" for one in agreeing))
    found = read_scored(tmp_path / "q.jsonl", judge_of("exact"))
    assert found.teacher.tolist() == [1.0] * 60
    assert found.student.tolist() == [0.0] * 60


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ((), "say who answers"),
        (("-s", "teacher"), "both answer or none"),
        (("--keep", "0"), "--keep is a share"),
        (("--sure", "100%"), "--sure is a share"),
        (("--cost", "3"), "--cost is what one query costs"),
        (("--by", "luck"), "--by is one of"),
        (("--judge", "regex"), "--judge regex needs --how"),
        (("-s", "teacher", "-t", "http://127.0.0.1:9/v1"), "#NAME"),
        (("-s", "teacher", "-t", "http://127.0.0.1:9/v1#x"), "nothing answers at"),
        (("-s", "teacher", "-t", "http://127.0.0.1:9/v1#x", "--key-from", "NO_KEY_HERE"), "no NO_KEY_HERE"),
    ],
)
def test_commands_that_can_not_work(more, said, workshop: Workshop):
    write_queries(workshop.path / "q.jsonl", answer="x")
    assert said in refused(workshop, "route", "q.jsonl", "-o", "out", "--new-tokens", "2", *more)
