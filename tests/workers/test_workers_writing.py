"""Prompts shared among workers: the text of one process, whoever is killed when."""

from __future__ import annotations

import json
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
from commands import Workshop
from processes import command, processes
from tiny_job import tiny_llama
from tiny_models import byte_tokenizer

from potstill.errors import ModelError
from potstill.models import load_model, load_tokenizer
from potstill.runs import fingerprint_of_model, fingerprint_of_tokenizer
from potstill.workers import Crew, CrewWriter, WritingWorker
from potstill.workers.loading import numbering
from potstill.workers.writing import Wanted
from potstill.writing import Journal, LocalWriter, Prompt, Sampling, Written, write

RECIPE = """
[writer]
kind = "local"
model = "teacher"
rows = 4
[prompts]
source = "prompts.jsonl"
[sampling]
temperature = 1.5
max_new_tokens = 44
best_of = 3
[output]
cut = true
keep = "all"
"""


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("teacher")
    tiny_llama().save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def writer(teacher: Path) -> LocalWriter:
    """Four rows for three samples a prompt: passes end in the middle of a prompt."""
    sampling = Sampling(temperature=1.5, best_of=3, max_new_tokens=12)
    return LocalWriter(load_model(str(teacher)), load_tokenizer(str(teacher)), sampling, rows=4)


def wanted_of(writer: LocalWriter) -> Wanted:
    return Wanted(
        fingerprint_of_model(writer.model),
        fingerprint_of_tokenizer(writer.tokenizer),
        "torch.float32",
        writer.sampling,
        writer.rows,
        writer.top_logprobs,
    )


def asked(number: int) -> list[Prompt]:
    texts = [f"{'so ' * (n % 5)}number {n} is" for n in range(number)]
    return [Prompt(text, text, text, text, None, f"row {n}") for n, text in enumerate(texts)]


def by_id(found: list[Written]) -> dict[str, Written]:
    assert len({one.id for one in found}) == len(found)
    return {one.id: one for one in found}


def test_what_a_worker_writes_is_what_one_process_writes(teacher, writer):
    """Exactly: the same likelihoods too. Whatever of a part is written already."""
    prompts = asked(18)
    everything = {prompt.id for prompt in prompts}
    whole = by_id(list(writer.write(prompts, everything)))
    worker = WritingWorker(str(teacher), wanted_of(writer))
    worker.load(numbering())
    parts = list(writer.parts(prompts))
    assert [len(part) for part in parts] == [4, 4, 4, 4, 2]
    assert by_id([one for part in parts for one in worker.write(part, everything)]) == whole
    some = {parts[1][2].id, parts[4][0].id}
    assert by_id([one for part in parts for one in worker.write(part, some)]) == {one: whole[one] for one in some}


def test_another_teacher_or_tokenizer_is_refused(teacher, writer):
    wanted = wanted_of(writer)
    for name in ("fingerprint", "tokenizer"):
        with pytest.raises(ModelError, match="another " + ("model" if name == "fingerprint" else name)):
            WritingWorker(str(teacher), replace(wanted, **{name: "0"})).load(numbering())
    with pytest.raises(ModelError, match=r"torch .*, not 1\.0"):
        WritingWorker(str(teacher), wanted).load(numbering() | {"torch": "1.0"})


@pytest.mark.slow
def test_a_worker_killed_at_work_is_replaced(cluster, teacher, writer, tmp_path):
    """SIGKILL, twice; nothing is missing, nothing is there twice, and it is what one process writes."""
    writer = replace(writer, sampling=replace(writer.sampling, max_new_tokens=32))
    prompts = asked(200)
    crew: Crew = replace(cluster, model=str(teacher), workers=[])
    wanted = wanted_of(writer)
    sharing = CrewWriter(crew, writer, wanted.fingerprint, wanted.tokenizer)
    killed = []
    with Journal(tmp_path / "journal.jsonl", {}) as journal:
        for progress in write(prompts, sharing, journal):
            if progress.done >= 20 * (1 + 2 * len(killed)) and len(killed) < 2:
                found = processes("ray::WritingWorker.write")
                if found:
                    found[0].kill()
                    killed.append(found[0].pid)
        assert len(set(killed)) == 2
        assert crew.workers == []
        assert (progress.done, progress.unanswered) == (200, 0)
        lines = [json.loads(line)["id"] for line in (tmp_path / "journal.jsonl").read_text().splitlines()[1:]]
        assert sorted(lines) == sorted(prompt.id for prompt in prompts)
        found = {prompt.id: replace(journal.read(prompt.id), seconds=0.0) for prompt in prompts}
    assert found == by_id(list(writer.write(prompts, {prompt.id for prompt in prompts})))


@pytest.mark.slow
def test_the_command_is_killed_and_goes_on(cluster, workshop: Workshop):
    """On a cluster that it is told of; the rows of a plain `potstill write`."""
    import ray

    (workshop.path / "w.toml").write_text(RECIPE)
    rows = [{"prompt": f"number {n} is"} for n in range(120)]
    (workshop.path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert workshop.run("write", "w.toml", "-o", "whole").exit_code == 0
    words = ("write", "w.toml", "-o", "many", "--workers", "2", "--ray", ray.get_runtime_context().gcs_address)
    journal = workshop.path / "many" / "journal.jsonl"
    broken = command(workshop, *words)
    while not journal.exists() or journal.read_bytes().count(b"\n") < 10:
        assert broken.poll() is None, broken.communicate()[0]
        time.sleep(0.05)
    broken.send_signal(signal.SIGKILL)
    broken.communicate()
    before = journal.read_bytes().count(b"\n")
    assert before < 120
    ended = command(workshop, *words)
    said, _ = ended.communicate(timeout=300)
    assert ended.returncode == 0, said
    assert "waiting for workers of" in said
    assert (workshop.path / "many" / "written.jsonl").read_bytes() == (
        workshop.path / "whole" / "written.jsonl"
    ).read_bytes()
    assert journal.read_bytes().count(b"\n") == 1 + 120
