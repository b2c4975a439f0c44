"""The door in front of a fake engine, through OpenAI's own client and curl: who answers, and what the client sees."""

import json
import logging
import subprocess

import httpx
import openai
import pytest
from doors import metrics_with, open_door, policy, sample
from fake_engine import SURE, UNSURE, engine

from potstill.serving import Limits

EASY, HARD = "an easy question", "a hard question"


def chat(client: openai.OpenAI, text: str, **how):
    return client.chat.completions.create(
        model=how.pop("model", "potstill"), messages=[{"role": "user", "content": text}], **how
    )


@pytest.fixture(scope="module")
def routed():
    with (
        engine(name="student") as student,
        engine(name="teacher") as teacher,
        open_door(student=student, teacher=teacher, by=policy()) as door,
    ):
        yield door, student.behaviour, teacher.behaviour


def test_a_student_answers_alone():
    with engine() as student, open_door(student=student) as door:
        client = door.client()
        whole = chat(client, EASY)
        assert whole.choices[0].message.content == f"student to {EASY}"
        assert whole.usage is not None
        assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (7, 5)
        assert whole.model == "potstill"
        assert whole.model_extra is not None
        assert whole.model_extra["potstill"]["answered_by"] == "student"
        streamed = list(chat(client, EASY, stream=True))
        assert "".join(one.choices[0].delta.content or "" for one in streamed) == f"student to {EASY}"
        assert streamed[-1].choices[0].finish_reason == "stop"
        counted = list(chat(client, EASY, stream=True, stream_options={"include_usage": True}))
        assert counted[-1].usage is not None
        assert counted[-1].usage.completion_tokens == 5
        completed = client.completions.create(model="student", prompt="one two", max_tokens=2)
        assert completed.choices[0].text == "student to"
        assert [one.id for one in client.models.list()] == ["potstill", "student"]
        assert client.models.retrieve("student").owned_by == "potstill"
        with pytest.raises(openai.NotFoundError):
            client.models.retrieve("teacher")
        assert student.behaviour.keys == {"Bearer key-of-the-student"}
        assert {body["model"] for body in student.behaviour.bodies} == {"student-of-the-server"}
        assert {body["max_tokens"] for body in student.behaviour.bodies} == {2, Limits().max_tokens}
        assert not any("logprobs" in body for body in student.behaviour.bodies)
        assert student.behaviour.connections == 1


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("text", "who", "why"), [(EASY, "student", "confident"), (HARD, "teacher", "unsure")])
def test_a_policy_says_who_answers(text, who, why, stream, routed):
    door, student, teacher = routed
    asked = len(teacher.bodies)
    reply = httpx.post(
        f"{door.url}/v1/chat/completions", json={"messages": [{"role": "user", "content": text}], "stream": stream}
    )
    logprob = SURE if text == EASY else UNSURE
    assert reply.headers["x-potstill-answered-by"] == who
    assert reply.headers["x-potstill-reason"] == why
    assert float(reply.headers["x-potstill-confidence"]) == pytest.approx(1 + logprob / 5)
    assert float(reply.headers["x-potstill-threshold"]) == 0.8
    parts = (
        [json.loads(line[6:]) for line in reply.text.splitlines() if line.startswith("data: {")]
        if stream
        else [reply.json()]
    )
    key = "delta" if stream else "message"
    assert "".join(part["choices"][0][key]["content"] for part in parts) == f"{who} to {text}"
    assert parts[0]["potstill"] == {
        "answered_by": who,
        "reason": why,
        "confidence": pytest.approx(1 + logprob / 5),
        "threshold": 0.8,
    }
    assert not any(part["choices"][0].get("logprobs") for part in parts)
    assert ("usage" in parts[-1]) is not stream
    assert student.bodies[-1]["top_logprobs"] == 3
    assert len(teacher.bodies) == asked + (who == "teacher")
    assert not any("logprobs" in body for body in teacher.bodies)


@pytest.mark.parametrize(("wished", "seen"), [(0, 0), (2, 2), (3, 3), (5, 5)])
@pytest.mark.parametrize("text", [EASY, HARD])
def test_log_probabilities_are_those_that_were_wished(text, wished, seen, routed):
    client = routed[0].client()
    whole = chat(client, text, logprobs=True, top_logprobs=wished)
    assert whole.choices[0].logprobs is not None
    assert [len(one.top_logprobs) for one in whole.choices[0].logprobs.content] == [seen] * 5
    assert whole.choices[0].logprobs.content[1].token == " to"
    parts = [part.choices[0] for part in chat(client, text, logprobs=True, top_logprobs=wished, stream=True)]
    assert [len(one.top_logprobs) for part in parts for one in part.logprobs.content] == [seen] * 5


@pytest.mark.parametrize("shape", ["llama", "openai"])
def test_completions_have_log_probabilities_in_their_own_shape(shape):
    with (
        engine(shape=shape) as student,
        engine(name="teacher", shape=shape) as teacher,
        open_door(student=student, teacher=teacher, by=policy()) as door,
    ):
        client = door.client()
        for text, who in ((EASY, "student"), (HARD, "teacher")):
            found = client.completions.create(model="potstill", prompt=text, logprobs=2).choices[0]
            assert found.text == f"{who} to {text}"
            assert found.logprobs is not None
            assert found.logprobs.tokens == [who, " to", *(f" {word}" for word in text.split())]
            assert [len(top) for top in found.logprobs.top_logprobs] == [2] * 5
            assert found.logprobs.text_offset[:3] == [0, 7, 10]
            streamed = [
                one.choices[0]
                for one in client.completions.create(model="potstill", prompt=text, logprobs=2, stream=True)
            ]
            offsets = [at for one in streamed if one.logprobs for at in one.logprobs.text_offset or ()]
            assert offsets == found.logprobs.text_offset
            plain = client.completions.create(model="potstill", prompt=text).choices[0]
            assert plain.logprobs is None


@pytest.mark.parametrize("who", ["student", "teacher"])
def test_a_client_may_name_who_answers(who, routed):
    for text in (EASY, HARD):
        reply = (
            routed[0]
            .client()
            .chat.completions.with_raw_response.create(model=who, messages=[{"role": "user", "content": text}])
        )
        assert reply.parse().choices[0].message.content == f"{who} to {text}"
        assert reply.headers["x-potstill-reason"] == "asked for"
        assert "x-potstill-confidence" not in reply.headers


def test_what_can_not_be_judged_is_the_teachers():
    with (
        engine(gives_logprobs=False) as student,
        engine(name="teacher") as teacher,
        open_door(student=student, teacher=teacher, by=policy()) as door,
    ):
        reply = door.client().chat.completions.with_raw_response.create(
            model="potstill", messages=[{"role": "user", "content": EASY}]
        )
        assert reply.headers["x-potstill-answered-by"] == "teacher"
        assert reply.headers["x-potstill-reason"] == "not judged"


def test_a_policy_that_promises_nothing_asks_the_teacher_alone():
    with (
        engine() as student,
        engine(name="teacher") as teacher,
        open_door(student=student, teacher=teacher, by=policy(None)) as door,
    ):
        assert chat(door.client(), EASY).choices[0].message.content == f"teacher to {EASY}"
        assert student.behaviour.bodies == []


def test_curl_is_enough(routed):
    body = json.dumps({"messages": [{"role": "user", "content": EASY}], "stream": True})
    said = subprocess.run(
        ["curl", "-sN", f"{routed[0].url}/v1/chat/completions", "-H", "Content-Type: application/json", "-d", body],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    events = said.split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    assert all(event.startswith("data: ") for event in events[:-1])


def test_errors_have_openais_shape(routed):
    client = routed[0].client()
    with pytest.raises(openai.NotFoundError, match="potstill, student, teacher"):
        chat(client, EASY, model="gpt-4o")
    with pytest.raises(openai.BadRequestError) as refused:
        chat(client, EASY, temperature=3)
    assert refused.value.param == "temperature"
    for method, path, status in (("GET", "/v1/completions", 405), ("POST", "/nowhere", 404)):
        error = httpx.request(method, routed[0].url + path).json()["error"]
        assert set(error) == {"message", "type", "param", "code"}, status
    form = httpx.post(f"{routed[0].url}/v1/completions", data={"prompt": "a"})
    assert form.status_code == 415
    with open_door_with_limit() as door:
        long = httpx.post(f"{door.url}/v1/completions", json={"prompt": "a" * 3000})
        assert (long.status_code, long.json()["error"]["code"]) == (413, "request_too_large")
        pieces = httpx.post(
            f"{door.url}/v1/completions", content=iter([b"a" * 1500] * 2), headers={"content-type": "application/json"}
        )
        assert pieces.status_code == 413


def open_door_with_limit():
    from contextlib import contextmanager

    @contextmanager
    def opened():
        with engine() as student, open_door(student=student, limits=Limits(body_bytes=2000)) as door:
            yield door

    return opened()


def test_a_key_is_needed_where_there_is_one(caplog):
    caplog.set_level(logging.DEBUG)
    with engine() as student, open_door(student=student, key="sk-ours-alone") as door:
        assert chat(door.client(key="sk-ours-alone"), EASY).choices[0].message.content
        for key in ("sk-ours-alonf", "sk", "sk-ours-alone2"):
            with pytest.raises(openai.AuthenticationError):
                chat(door.client(key=key), EASY)
        for told in ("Basic sk-ours-alone", "sk-ours-alone", "Bearer \xff", ""):
            raw = httpx.get(f"{door.url}/v1/models", headers=[(b"authorization", told.encode("latin-1"))])
            assert raw.status_code == 401
        assert httpx.get(f"{door.url}/metrics").status_code == 401
        assert httpx.get(f"{door.url}/health").status_code == 200
        assert httpx.get(door.url).status_code == 200
        assert len(student.behaviour.bodies) == 1
        assert "sk-ours-alone" not in str(student.behaviour.keys)
    assert "sk-ours" not in caplog.text


def test_without_a_key_only_this_machine_is_meant(routed):
    url = f"{routed[0].url}/v1/models"
    for host, status in (
        ("evil.example", 403),
        ("127.0.0.1.evil.example", 403),
        ("localhost:1", 200),
        ("[::1]:80", 200),
    ):
        assert httpx.get(url, headers={"host": host}).status_code == status, host


def test_the_log_has_no_prompts_unless_told(caplog):
    caplog.set_level(logging.INFO, "potstill.serving")
    with engine() as student, open_door(student=student) as door:
        chat(door.client(), "a secret of mine")
    entry = json.loads(caplog.messages[-1])
    assert entry["path"] == "/v1/chat/completions"
    assert (entry["status"], entry["answered_by"], entry["tokens"]) == (200, "student", 6)
    assert "secret" not in caplog.text
    with engine() as student, open_door(student=student, logs_prompts=True) as door:
        chat(door.client(), "no secret\nof mine")
    assert json.loads(caplog.messages[-1])["prompt"] == "no secret\nof mine"


def test_everything_is_counted():
    with (
        engine() as student,
        engine(name="teacher") as teacher,
        open_door(student=student, teacher=teacher, by=policy()) as door,
    ):
        client = door.client()
        for text in (EASY, EASY, HARD):
            list(chat(client, text, stream=True))
        unsure = 'potstill_requests_total{mode="routed",answered_by="teacher",reason="unsure",status="200"}'
        text = metrics_with(door.url, unsure, 1)
        assert (
            sample(text, 'potstill_requests_total{mode="routed",answered_by="student",reason="confident",status="200"}')
            == 2
        )
        assert sample(text, unsure) == 1
        assert sample(text, 'potstill_tokens_total{answered_by="student",kind="completion"}') == 10
        assert sample(text, 'potstill_confidence_bucket{le="0.2"}') == 1
        assert sample(text, 'potstill_confidence_bucket{le="+Inf"}') == 3
        assert sample(text, 'potstill_in_flight{engine="student"}') == 0
        assert sample(text, 'potstill_request_seconds_count{answered_by="teacher"}') == 1


def test_an_alarm_is_raised_when_traffic_changes(caplog):
    with (
        engine() as student,
        engine(name="teacher") as teacher,
        open_door(student=student, teacher=teacher, by=policy()) as door,
        httpx.Client() as client,
    ):
        for _ in range(500):
            client.post(f"{door.url}/v1/completions", json={"prompt": EASY})
        text = client.get(f"{door.url}/metrics").text
    assert sample(text, "potstill_drift_alarm") == 1
    assert sample(text, "potstill_drift_psi") > 0.25
    assert caplog.text.count("calibrate again") == 1


def test_several_answers_to_a_question_are_no_drift(caplog):
    """The least sure of them decides who answers; the alarm counts one of each request, as calibration did."""
    with (
        engine() as student,
        engine(name="teacher") as teacher,
        open_door(student=student, teacher=teacher, by=policy()) as door,
        httpx.Client() as client,
    ):
        for text in (EASY, HARD) * 250:
            reply = client.post(f"{door.url}/v1/completions", json={"prompt": text, "n": 3})
        unsure = 'potstill_requests_total{mode="routed",answered_by="teacher",reason="unsure",status="200"}'
        text = metrics_with(door.url, unsure, 500)
    assert reply.headers["x-potstill-reason"] == "unsure"
    assert sample(text, unsure) == 500
    assert sample(text, "potstill_drift_psi") < 0.01
    assert sample(text, "potstill_drift_alarm") == 0


def test_health_says_how_each_engine_is():
    with (
        engine() as student,
        engine(name="teacher") as teacher,
        open_door(student=student, teacher=teacher, by=policy()) as door,
    ):
        assert httpx.get(f"{door.url}/health").json() == {
            "status": "ok",
            "mode": "routed",
            "engines": {"student": {"state": "up"}, "teacher": {"state": "up"}},
        }
    with engine() as student, open_door(student=student) as door:
        student.kill()
        down = httpx.get(f"{door.url}/health")
        assert (down.status_code, down.json()["status"]) == (503, "down")
