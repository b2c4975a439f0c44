"""Workers in processes of their own, through Ray on this machine: the bytes of one process, whoever is killed when."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import psutil
import pytest
from processes import command, processes
from small_stores import Small, files_of, small

from potstill.errors import ModelError, ServerError
from potstill.soft_labels import Store
from potstill.soft_labels.planning import plan_of
from potstill.workers import Crew, label_with

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Small:
    """Some ten seconds of labelling, in seven shards."""
    return small(tmp_path_factory.mktemp("work"), documents=1500, shard_tokens=10_000)


@pytest.fixture(scope="module")
def whole(work: Small, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What one process makes of it."""
    return files_of(work.label(tmp_path_factory.mktemp("whole") / "store"))


@pytest.fixture
def crew(cluster: Crew, work: Small) -> Crew:
    return replace(cluster, model=str(work.model), workers=[])


def test_two_workers_make_the_bytes_of_one_process(crew, work, whole, tmp_path):
    done = list(label_with(crew, work.corpus, work.begin(tmp_path / "store")))
    assert files_of(tmp_path / "store") == whole
    assert done[-1].tokens == done[-1].total > 0
    assert crew.workers == []
    assert list(label_with(crew, work.corpus, tmp_path / "store")) == []


def test_a_worker_killed_at_work_costs_nothing_but_its_time(crew, work, whole, tmp_path):
    """SIGKILL, twice, while a shard is half labelled; once more before there is anything."""
    killed, done = [], None
    for done in label_with(crew, work.corpus, work.begin(tmp_path / "store")):
        is_at_work = bool(list((tmp_path / "store").glob("*.journal")))
        wanted = len(killed) < 2 and done.tokens > len(killed) * done.total / 3 and is_at_work
        if wanted and (found := processes("ray::Worker")):
            found[0].kill()
            killed.append(found[0].pid)
    assert len(set(killed)) == 2
    assert files_of(tmp_path / "store") == whole
    assert done.tokens == done.total


def test_workers_go_on_where_one_process_was_broken_off(crew, work, whole, tmp_path):
    folder = work.label(tmp_path / "store", passes=3)
    assert [path for path in folder.iterdir() if path.suffix == ".journal"]
    missing = sum(shard.tokens for shard in plan_of(work.corpus, Store(folder)))
    done = list(label_with(crew, work.corpus, folder))[-1]
    assert done.tokens == done.total < missing
    assert files_of(folder) == whole


def test_what_a_worker_cannot_mend_is_said_once(crew, work, tmp_path):
    folder = work.begin(tmp_path / "store")
    with pytest.raises(ModelError, match="nowhere") as caught:
        list(label_with(replace(crew, model=str(tmp_path / "nowhere")), work.corpus, folder))
    assert "Traceback" not in str(caught.value)
    assert "ray" not in str(caught.value).lower()
    until = time.monotonic() + 60  # Ray ends a process that is still starting when it has started
    while processes("ray::Worker") and time.monotonic() < until:
        time.sleep(0.2)
    assert not processes("ray::Worker")


def test_workers_that_always_die_end_the_work(crew, work, tmp_path):
    """Before they have a teacher: nobody gets further by more of them."""
    passes = label_with(replace(crew, count=1), work.corpus, work.begin(tmp_path / "store"))
    killer = subprocess.Popen([sys.executable, "-c", KILLER, str(os.getpid())])
    try:
        with pytest.raises(ServerError, match="died 3 times before it had its teacher"):
            list(passes)
    finally:
        killer.kill()
        killer.wait()


KILLER = """
import sys, time, psutil
while True:
    for one in psutil.Process(int(sys.argv[1])).children(recursive=True):
        if any("ray::Worker" in word for word in one.cmdline()[:1]):
            one.kill()
    time.sleep(0.02)
"""


def test_nobody_outside_this_machine_is_listened_to(crew):
    ours = psutil.Process().children(recursive=True)
    assert len(ours) >= 3
    places = {
        place.laddr.ip
        for process in (psutil.Process(), *ours)
        for place in process.net_connections("inet")
        if place.status == psutil.CONN_LISTEN
    }
    assert places
    assert {place.removeprefix("::ffff:") for place in places} == {"127.0.0.1"}


def test_the_command_line_is_killed_and_goes_on_elsewhere(cluster, workshop):
    """On a cluster that it is told of; the labels of a plain `potstill label`."""
    import ray

    assert workshop.run("label", "recipe.toml", "-o", "whole").exit_code == 0
    address = ray.get_runtime_context().gcs_address
    words = ("label", "recipe.toml", "-o", "many", "--workers", "2", "--ray", address)
    broken = command(workshop, *words)
    assert broken.stdout is not None
    while "waiting for workers" not in (line := broken.stdout.readline()):
        assert line, "it ended before it had workers"
    time.sleep(2.0)
    broken.send_signal(signal.SIGKILL)
    broken.communicate()
    ended = command(workshop, *words)
    said, _ = ended.communicate(timeout=300)
    assert ended.returncode == 0, said
    assert "labels   many" in said
    assert files_of(workshop.path / "many") == files_of(workshop.path / "whole")
    lost = command(workshop, *words[:-1], "127.0.0.1:1")
    said, _ = lost.communicate(timeout=300)
    assert lost.returncode == 2, said
    assert "no Ray cluster answers at 127.0.0.1:1" in said
    assert "Traceback" not in said
