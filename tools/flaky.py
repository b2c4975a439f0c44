"""The fast tests, again and again: those that don't always end the same way.

    .venv/bin/python tools/flaky.py                 (ten times; what is given behind the number goes to pytest)
    .venv/bin/python tools/flaky.py 3 tests/runs

Exits with 1 where a test failed at all, and says how often, and how long the slowest took at least and at most.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from pathlib import Path
from xml.etree import ElementTree

SHOWN = 15


def outcomes(report: Path) -> dict[str, tuple[str, float]]:
    """(how it ended, seconds) of each test of one run."""
    found = {}
    for case in ElementTree.parse(report).iter("testcase"):
        ended = next((child.tag for child in case if child.tag in ("failure", "error", "skipped")), "passed")
        found[f"{case.get('classname')}::{case.get('name')}"] = (ended, float(case.get("time", 0)))
    return found


def main() -> None:
    times = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    ended: dict[str, Counter[str]] = defaultdict(Counter)
    seconds: dict[str, list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        for number in range(1, times + 1):
            report = Path(folder, f"{number}.xml")
            command = [sys.executable, "-m", "pytest", f"--junitxml={report}", *sys.argv[2:]]
            code = subprocess.run(command, check=False).returncode
            print(f"run {number} of {times}: pytest ended with {code}", flush=True)
            if not report.exists():
                raise SystemExit(f"pytest wrote no report, and ended with {code}")
            for name, (how, took) in outcomes(report).items():
                ended[name][how] += 1
                seconds[name].append(took)
    differing = {name: how for name, how in ended.items() if len(how) > 1 or how.total() != times}
    failing = {name: how for name, how in ended.items() if {*how} & {"failure", "error"}}
    print(
        f"\n{len(ended)} tests, {times} times: {len(failing)} failed at least once, {len(differing)} did not always end the same way"
    )
    for name in sorted({**failing, **differing}):
        print(f"  {name}: {', '.join(f'{how} {number}' for how, number in ended[name].most_common())}")
    print(f"\nthe slowest {SHOWN}, seconds at least and at most:")
    for name in sorted(seconds, key=lambda one: -max(seconds[one]))[:SHOWN]:
        print(f"  {min(seconds[name]):7.1f} {max(seconds[name]):7.1f}  {name}")
    raise SystemExit(1 if failing else 0)


if __name__ == "__main__":
    main()
