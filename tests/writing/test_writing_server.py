"""A real HTTP server that often fails: every prompt is answered once, whatever happens, and the key is seen nowhere."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from commands import Workshop
from faulty_server import Behaviour, serving

from potstill.errors import ServerError
from potstill.writing import Asking, Framing, Sampling, Server, ServerWriter, Unanswered, read_prompts
from potstill.writing.asking import told_wait, wait_after

KEY = "sk-a-secret-that-nobody-may-see"
RECIPE = """
[writer]
kind = "server"
url = "{url}"
model = "m"
key_from = "KEY_OF_THE_TEST"
concurrency = 16
timeout = 0.4
attempts = 30
first_wait = 0.005
price = {{ read = 1.0, written = 10.0 }}
[prompts]
source = "prompts.jsonl"
[sampling]
max_new_tokens = 8
"""


@pytest.fixture
def workshop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workshop:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KEY_OF_THE_TEST", KEY)
    return Workshop(tmp_path)


def write_prompts(path: Path, number: int) -> list[str]:
    texts = [f"question {n % (number - 10)}" for n in range(number)]  # the last ten are those of the beginning
    (path / "prompts.jsonl").write_text("".join(json.dumps({"prompt": text}) + "\n" for text in texts))
    return texts


def check_each_is_there_once(folder: Path, texts: list[str]) -> None:
    found = [json.loads(line) for line in (folder / "written.jsonl").read_text().splitlines()]
    assert [one["messages"][-1]["content"] for one in found] == [f"answer to {text}" for text in texts]
    assert len({one["id"] for one in found}) == len(texts)
    journal = [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]
    assert Counter(one["id"] for one in journal[1:]) == Counter(one["id"] for one in found)


def check_the_key_is_nowhere(folder: Path, *outputs: str) -> None:
    for path in folder.rglob("*"):
        assert not path.is_file() or KEY not in path.read_text("utf-8"), path
    assert not any(KEY in output for output in outputs)


def test_a_thousand_prompts_with_faults(workshop):
    texts = write_prompts(workshop.path, 1000)
    behaviour = Behaviour(share=0.25)
    with serving(behaviour) as url:
        (workshop.path / "w.toml").write_text(RECIPE.format(url=url))
        result = workshop.run("write", "w.toml")
    assert result.exit_code == 0, (result.output, result.exception)
    assert set(behaviour.gone_wrong) == set(behaviour.faults)
    assert behaviour.keys == {f"Bearer {KEY}"}
    check_each_is_there_once(workshop.path / "runs" / "w", texts)
    check_the_key_is_nowhere(workshop.path, result.output, result.stderr)
    manifest = json.loads((workshop.path / "runs" / "w" / "manifest.json").read_text())
    counts = manifest["counts"]
    assert counts["requests"] == sum(behaviour.asked.values()) > 1200
    assert (counts["written"], counts["kept"], counts["prompt_tokens"], counts["tokens"]) == (1000, 1000, 2000, 4000)
    assert manifest["cost"] == pytest.approx((2000 * 1 + 4000 * 10) / 1e6)


def test_killed_and_started_again(workshop):
    texts = write_prompts(workshop.path, 300)
    behaviour = Behaviour(share=0.2, seconds=0.05)
    folder = workshop.path / "out"
    with serving(behaviour) as url:
        (workshop.path / "w.toml").write_text(RECIPE.format(url=url).replace("concurrency = 16", "concurrency = 4"))
        command = [sys.executable, "-m", "potstill", "write", "w.toml", "-o", str(folder)]
        with subprocess.Popen(
            command, cwd=workshop.path, env=os.environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as killed:
            assert killed.stdout is not None
            wait_for(lambda: len(lines_of(folder / "journal.jsonl")) > 60)
            os.kill(killed.pid, signal.SIGKILL)
            said = killed.stdout.read()
        number = len(lines_of(folder / "journal.jsonl")) - 1
        assert 60 <= number < 300
        with (folder / "journal.jsonl").open("ab") as file:  # what a kill leaves in the middle of a line
            file.write(b'{"id": "half a li')
        before = sum(behaviour.asked.values())
        planned = workshop.run("write", "w.toml", "-o", folder, "--dry-run")
        assert f"of which {number} are written and {300 - number} are not" in planned.output
        assert sum(behaviour.asked.values()) == before
        result = workshop.run("write", "w.toml", "-o", folder)
        assert result.exit_code == 0, result.output
        check_each_is_there_once(folder, texts)
        check_the_key_is_nowhere(workshop.path, said, result.output, result.stderr)
        asked = sum(behaviour.asked.values())
        assert workshop.run("write", "w.toml", "-o", folder).exit_code == 0
        assert sum(behaviour.asked.values()) == asked, "nothing was missing, and yet somebody was asked"
    # Answered twice were only those that were on their way when it was killed, or whose answer came too late on a busy machine.
    assert sum(behaviour.answered.values()) - 300 <= 30


def refused(workshop: Workshop) -> str:
    """What is said last; before it, on standard error too, how it went."""
    result = workshop.run("write", "w.toml")
    assert result.exit_code == 2, result.output
    return result.stderr.splitlines()[-1]


def lines_of(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines() if path.exists() else []


def wait_for(condition, seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def asked(tmp_path: Path, behaviour: Behaviour, *, number: int = 1, server: dict | None = None, **asking):
    """Outcomes of a few prompts."""
    rows = [{"prompt": f"question {n}"} for n in range(number)]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    prompts = read_prompts(tmp_path / "p.jsonl", framing=Framing(is_chat=asking.get("endpoint", "chat") == "chat"))
    with serving(behaviour) as url:
        settings = {"first_wait": 0.001, "attempts": 3, **(server or {})}
        sampling = asking.pop("sampling", Sampling(max_new_tokens=8))
        writer = ServerWriter(Server(url, **settings), Asking("m", sampling, **asking), concurrency=2)
        return list(writer.write(prompts, {one.id for one in prompts}))


@pytest.mark.parametrize(("status", "said"), [(401, "is the key right"), (404, "writer.url"), (307, "writer.url")])
def test_what_asking_again_can_not_mend_ends_it(tmp_path, status, said):
    behaviour = Behaviour(answer=lambda *_: (status, {"error": f"your key {KEY} is wrong"}))
    with pytest.raises(ServerError, match=said) as error:
        asked(tmp_path, behaviour, number=9, server={"key": KEY})
    assert KEY not in str(error.value)
    assert "***" in str(error.value)
    assert sum(behaviour.asked.values()) <= 2, "each of the two threads may have asked once"


@pytest.mark.parametrize("before", [150, 180, 199])
def test_a_key_at_the_end_of_what_is_shown_is_not_shown_in_part(tmp_path, before):
    behaviour = Behaviour(answer=lambda *_: (401, {"error": "x" * before + KEY}))
    with pytest.raises(ServerError) as error:
        asked(tmp_path, behaviour, number=1, server={"key": KEY})
    assert KEY[:6] not in str(error.value)


def test_one_prompt_that_is_refused_leaves_the_others_alone(tmp_path):
    def answer(_, prompt):
        return (400, {"error": "too long"}) if prompt == "question 3" else {"text": "yes"}

    behaviour = Behaviour(answer=answer)
    found = asked(tmp_path, behaviour, number=6)
    assert [type(one).__name__ for one in found].count("Written") == 5
    [refused] = [one for one in found if isinstance(one, Unanswered)]
    assert "HTTP 400" in refused.reason
    assert "too long" in refused.reason
    assert behaviour.asked["question 3"] == 1


def test_a_server_that_answers_nothing_is_left(tmp_path):
    behaviour = Behaviour(share=1.0, faults=("500",))
    with pytest.raises(ServerError, match="10 prompts in a row got no answer"):
        asked(tmp_path, behaviour, number=40)
    assert sum(behaviour.asked.values()) <= 3 * 13


def test_unanswered_prompts_are_asked_again_next_time(workshop):
    write_prompts(workshop.path, 12)
    is_ill = {"question 1"}
    behaviour = Behaviour(answer=lambda _, prompt: (400, {}) if prompt in is_ill else {"text": f"answer to {prompt}"})
    with serving(behaviour) as url:
        (workshop.path / "w.toml").write_text(RECIPE.format(url=url))
        said = refused(workshop)
        is_ill.clear()
        assert workshop.run("write", "w.toml").exit_code == 0
    assert "of 12 prompts have no answer yet" in said
    assert set(behaviour.answered.values()) <= {1, 6}
    assert len(lines_of(workshop.path / "runs" / "w" / "written.jsonl")) == 12


def test_nobody_there(workshop, monkeypatch):
    write_prompts(workshop.path, 12)
    (workshop.path / "w.toml").write_text(RECIPE.format(url="http://127.0.0.1:9/v1"))
    assert "nothing answers at http://127.0.0.1:9/v1" in refused(workshop)
    (workshop.path / "w.toml").write_text(RECIPE.format(url="http://127.0.0.1:9/v1").replace("KEY_OF", "KAY_OF"))
    assert "the environment has no KAY_OF_THE_TEST" in refused(workshop)
    monkeypatch.setenv("KAY_OF_THE_TEST", f"{KEY}\nX-Other: header")
    assert "is no key" in (said := refused(workshop))
    assert KEY not in said


def test_the_rate_is_kept(tmp_path):
    behaviour = Behaviour()
    asked(tmp_path, behaviour, number=12, server={"requests_per_minute": 1200.0})
    gaps = [later - earlier for earlier, later in zip(behaviour.times, behaviour.times[2:], strict=False)]
    assert min(gaps) > 0.05, "two requests later than 2 x 60 / 1200 s, less what a thread may lag"


def test_what_retry_after_says(tmp_path):
    told = iter([(429, {}), (429, {})])
    behaviour = Behaviour(answer=lambda *_: next(told, {"text": "yes"}))
    found = asked(tmp_path, behaviour, number=2)
    assert all(not isinstance(one, Unanswered) for one in found)
    assert told_wait("3") == 3.0
    assert told_wait("100000") == 600.0
    assert told_wait("soon") is None
    assert told_wait(None) is None
    assert told_wait("Wed, 21 Oct 2015 07:28:00 GMT") == 0.0


def test_waits_double_and_are_not_the_same_for_all():
    waits = [[wait_after(attempt, 1.0) for _ in range(200)] for attempt in (1, 2, 3, 20)]
    for some, most in zip(waits, (1.0, 2.0, 4.0, 60.0), strict=True):
        assert most / 2 <= min(some) < 0.6 * most
        assert 0.9 * most < max(some) <= most


def test_what_is_sent(tmp_path):
    behaviour = Behaviour()
    asked(tmp_path, behaviour, sampling=Sampling(temperature=0.0, max_new_tokens=8))
    assert behaviour.bodies == [
        {"model": "m", "messages": [{"role": "user", "content": "question 0"}], "max_tokens": 8, "temperature": 0.0}
    ]
    behaviour = Behaviour()
    sampling = Sampling(temperature=0.5, top_p=0.9, top_k=3, min_p=0.1, best_of=2, max_new_tokens=8, stop=("\n",))
    [found] = asked(tmp_path, behaviour, sampling=sampling, endpoint="completions", top_logprobs=5)
    assert len(found.samples) == 2
    first, second = behaviour.bodies
    assert first.pop("seed") != second.pop("seed")
    wanted = {"temperature": 0.5, "top_p": 0.9, "top_k": 3, "min_p": 0.1, "stop": ["\n"], "logprobs": 5}
    assert first == second == {"model": "m", "prompt": "question 0", "max_tokens": 8, **wanted}


def test_what_was_reasoned_stays_in_the_text(tmp_path):
    said = {"text": None, "message": {"content": "42", "reasoning_content": "6 x 7\n"}}
    [found] = asked(tmp_path, Behaviour(answer=lambda *_: {**said, "usage": None}))
    assert found.samples[0].text == "<think>\n6 x 7\n</think>\n\n42"


def test_log_probabilities_of_both_forms(tmp_path):
    top = [{"token": "a", "logprob": -0.5}, {"token": "b", "logprob": -1.0}]
    new = {
        "content": [
            {"token": "a", "logprob": -0.5, "bytes": [97], "top_logprobs": top},
            {"token": "c", "logprob": -1.5},
        ]
    }
    old = {"tokens": ["a", "c"], "token_logprobs": [-0.5, -1.5], "top_logprobs": [{"b": -1.0, "a": -0.5}, None]}
    for form, endpoint in ((new, "chat"), (old, "completions")):
        answer = {"text": "ac", "logprobs": form, "finish_reason": "length"}
        [found] = asked(tmp_path, Behaviour(answer=lambda *_, answer=answer: dict(answer)), endpoint=endpoint)
        sample = found.samples[0]
        assert (sample.mean_logprob, sample.is_cut) == (-1.0, True)
        assert sample.listed is not None
        assert [one["token"] for one in sample.listed] == ["a", "c"]
        assert sample.listed[0]["top_logprobs"] == top
