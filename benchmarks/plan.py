"""What `potstill plan` predicts, beside what real runs then took: time, memory, disk.

    make real-models                                            (brings SmolLM2-135M)
    .venv/bin/python benchmarks/plan.py path/to/text            (about 20 minutes on one core; writes plan.md here)
    .venv/bin/python benchmarks/plan.py path/to/text --only live

Each plan and each run is a process of its own on one thread, and both are timed by their processes' CPU time, user's and system's: others
may use this machine at the same time. On one thread of a machine by itself that is the time on the wall. Memory is the most a process
had resident, disk the most its folder held, looked at four times a second.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path

from smollm2 import smollm2

HERE = Path(__file__).parent
POTSTILL = [sys.executable, "-m", "potstill"]
PLAN = """
import json, sys, time
from dataclasses import asdict
from pathlib import Path
from potstill.planning import plan_of
from potstill.recipe import load_recipe
from potstill.recipe.trying import measure_here
work, measured = measure_here(load_recipe(Path(sys.argv[1])), say=lambda _: None, clock=time.process_time)
plan = plan_of(work, measured)
phases = [(one.phase.stage, one.phase.name, one.seconds) for one in plan.phases]
memory = {stage: room.total for stage, room in plan.memory.items()}
print(json.dumps({"phases": phases, "seconds": plan.seconds, "memory": max(memory.values()), "disk": sum(plan.disk.values()),
                  "took": measured.took + measured.seconds_before}))
"""
POCKET = """
[teacher]
kind = "{kind}"
model = "pocket"
{labels}
[student]
kind = "copy_layers"
layers = 3
[data]
source = "standard-library"
max_documents = {documents}
[training]
steps = {steps}
length = 256
rows = 8
[evaluation]
tokens = 20_000
"""
SMOLLM2 = """
[teacher]
model = "{model}"
[student]
kind = "copy_layers"
layers = 20
[data]
source = "{text}"
held_out = 0.3
max_documents = 200
[training]
steps = 10
length = 128
rows = 2
learning_rate = 3e-4
[evaluation]
tokens = 1_000
control = false
"""
COMPRESS = """
[teacher]
model = "pocket"
[student]
kind = "search"
bars = [{ metric = "accuracy", least = 0.80 }]
shares = [0.85, 0.70, 0.60, 0.50]
cuts = ["width"]
tokens = 20_000
[data]
source = "standard-library"
[training]
tokens = 60_000
length = 256
rows = 4
learning_rate = 1.5e-3
[evaluation]
tokens = 20_000
"""
WORDS = """\
Planned and real seconds are the CPU time of the processes, on one thread, label and distil together where both are run: other work was done
on this machine meanwhile, and the time on the wall tells more of that than of the runs. Planned is everything from the start of the process
to its end, with what loading took when it was planned. Disk is at most: three checkpoints, a student an arm, the text, the labels.

What a plan can't know: how many candidates a search will train (it takes what other searches trained, `search.md`), how busy the machine
will be, and what writing models and the report takes. Against accelerators nothing was checked: there was none here.

Every time is within 25 % of the real one, and every one too low: what writing models and the report takes is not counted. A soak on
another core kept its pace all the while. Earlier on the same day, with four to eight other processes on the two cores, the same plans were
between 26 % too low and 28 % too high: the CPU time of the same work swung with them. Memory of small runs is up to 42 % too low.
"""


@dataclass(frozen=True)
class Case:
    """A run: its name, what it is, its recipe, the verbs that are run, one after the other; and whether it is planned again afterwards."""

    name: str
    title: str
    recipe: str
    verbs: tuple[str, ...]
    twice: bool = False


@dataclass(frozen=True)
class Took:
    """CPU and wall seconds, bytes."""

    seconds: float
    wall: float
    memory: float
    disk: float


def cases(text: Path, folder: Path) -> list[Case]:
    stored = POCKET.format(kind="stored", labels=f'labels = "{folder}/stored/labels"', documents=40, steps=40)
    return [
        Case(
            "live",
            "pocket teaches, live",
            POCKET.format(kind="live", labels="", documents=300, steps=60),
            ("distill",),
        ),
        Case("stored", "pocket labels, then labels teach", stored, ("label", "distill"), twice=True),
        Case(
            "smollm2", "SmolLM2-135M teaches 20 of its layers", SMOLLM2.format(model=smollm2(), text=text), ("distill",)
        ),
        Case("compress", "a search for the smallest student of pocket", COMPRESS, ("compress",)),
    ]


def run(command: list[str], folder: Path) -> tuple[Took, str]:
    """One process to its end; its output."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "TOKENIZERS_PARALLELISM": "false"}
    most, began = 0.0, time.perf_counter()
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(command, stdout=said, env=environment)
        while True:
            pid, status, used = os.wait4(process.pid, os.WNOHANG)
            if pid:
                break
            most = max(most, held(folder))
            time.sleep(0.25)
        said.seek(0)
        output = said.read()
    if status:
        raise SystemExit(f"{' '.join(command)} ended with {os.waitstatus_to_exitcode(status)}")
    wall = time.perf_counter() - began
    return Took(used.ru_utime + used.ru_stime, wall, 1024.0 * used.ru_maxrss, max(most, held(folder))), output


def held(folder: Path) -> float:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:
            continue
    return float(total)


def compare(case: Case, folder: Path) -> list[dict[str, object]]:
    """The plan, then the run, then where it is wanted a plan once more."""
    place = folder / case.name
    (place / "run").mkdir(parents=True)
    recipe = place / f"{case.name}.toml"
    recipe.write_text(case.recipe, "utf-8")
    plans = [planned(recipe, place)]
    took = []
    for verb in case.verbs:
        out = place / ("labels" if verb == "label" else "run")
        took.append(run([*POTSTILL, verb, str(recipe), "--out", str(out)], place)[0])
    real = Took(
        sum(one.seconds for one in took),
        sum(one.wall for one in took),
        max(one.memory for one in took),
        max(one.disk for one in took),
    )
    if case.twice:
        shutil.rmtree(place / "labels")  # else it would plan a run that has its labels
        plans.append(planned(recipe, place))
    found = []
    for number, (plan, seconds) in enumerate(plans):
        title = case.title if number == 0 else f"{case.title}; planned again afterwards"
        found.append({"case": case.name, "title": title, "planned": plan, "planning": seconds, "real": vars(real)})
        print(json.dumps(found[-1]), flush=True)
    return found


def planned(recipe: Path, place: Path) -> tuple[dict, float]:
    """The plan of a recipe, and the CPU seconds it took to make."""
    took, said = run([sys.executable, "-c", PLAN, str(recipe)], place)
    return json.loads(said.splitlines()[-1]), took.seconds


def page(found: list[dict]) -> str:
    lines = [
        "# Planned and real",
        "",
        f"*{date.today()}; `benchmarks/plan.py`; one thread of a {platform.machine()} CPU that others use too; "
        f"torch {version('torch')}, transformers {version('transformers')}.*",
        "",
        "| | CPU seconds, planned | real | error | wall | memory, planned, GB | real | disk, planned at most, MB | real | planning, s |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for one in found:
        planned, real = one["planned"], one["real"]
        error = planned["seconds"] / real["seconds"] - 1
        lines.append(
            f"| {one['title']} | {planned['seconds']:.0f} | {real['seconds']:.0f} | **{error:+.0%}** | {real['wall']:.0f} | "
            f"{planned['memory'] / 1e9:.2f} | {real['memory'] / 1e9:.2f} | {planned['disk'] / 1e6:.0f} | {real['disk'] / 1e6:.0f} | "
            f"{one['planning']:.0f} |"
        )
    return "\n".join([*lines, "", WORDS])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path, help="a folder of text files, for SmolLM2")
    parser.add_argument("--only", action="append", help="live, stored, smollm2, compress; may be repeated")
    parser.add_argument(
        "--kept", type=Path, help="JSON lines of what was compared, added to; what is there is not done again"
    )
    arguments = parser.parse_args()
    known = (
        [] if arguments.kept is None or not arguments.kept.exists() else arguments.kept.read_text("utf-8").splitlines()
    )
    found: list[dict] = [json.loads(line) for line in known]
    with tempfile.TemporaryDirectory() as folder:
        for case in cases(arguments.text.resolve(), Path(folder)):
            if any(one["case"] == case.name for one in found) or (arguments.only and case.name not in arguments.only):
                continue
            found += compare(case, Path(folder))
            if arguments.kept is not None:
                arguments.kept.write_text("".join(json.dumps(one) + "\n" for one in found), "utf-8")
    if not arguments.only:
        (HERE / "plan.md").write_text(page(found), "utf-8")


if __name__ == "__main__":
    main()
