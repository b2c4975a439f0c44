"""The fused loss beside bare matmuls and beside what a user would pick instead: time, memory, error. One run, one machine.

    make bench-setup                                        (brings TRL, torchtune and Liger)
    .venv/bin/python benchmarks/fused_loss.py --quick       (under a minute; --json adds one JSON object as the last line)
    .venv/bin/python benchmarks/fused_loss.py               (also how cost grows; writes fused_loss.md and fused_loss.svg here)

SmolLM2's head: width 576, vocabulary 49,152. Every contender takes the same hidden states to the same gradients of student rows and
student head. "The limit" is the four bare matmuls (student forward, two of the student's backward, teacher forward) in their best
blocking of rows, in the same dtype and run; for stored labels it is the three of the student. Contenders take turns, and the figure
is the median over rounds. bf16 is measured where it is faster than fp32 (asked of the machine); elsewhere its figures are null.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass, replace
from datetime import date
from importlib.metadata import version
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from potstill.losses import Divergence, ForwardKL, JensenShannon, ReverseKL, SoftLabelLoss, Workspace, linear_loss
from potstill.types import DenseTargets, Head, HiddenStates, SparseTargets

HERE = Path(__file__).parent
WIDTH, VOCABULARY, SLOTS = 576, 49_152, 12
BLOCKINGS = (64, 128, 256, 512, 1024, None)
Run = Callable[[], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Problem:
    """Hidden states and heads of teacher and student; the student is the teacher, somewhat moved."""

    rows: Tensor
    weight: Tensor
    teacher_rows: Tensor
    teacher_weight: Tensor
    tokens: Tensor

    def to(self, dtype: torch.dtype) -> Problem:
        made = [tensor.to(dtype) for tensor in (self.rows, self.weight, self.teacher_rows, self.teacher_weight)]
        return Problem(made[0].requires_grad_(), made[1].requires_grad_(), made[2], made[3], self.tokens)

    def head(self, rows: int) -> Problem:
        return replace(self, rows=self.rows[:rows], teacher_rows=self.teacher_rows[:rows], tokens=self.tokens[:rows])


def new_problem(rows: int, vocabulary: int = VOCABULARY, width: int = WIDTH) -> Problem:
    draw = torch.Generator().manual_seed(0)
    teacher_rows, noise = (torch.randn(rows, width, generator=draw) for _ in range(2))
    # Logits with a standard deviation of 3: distributions of a few bits, as a language model's.
    teacher_weight = torch.randn(vocabulary, width, generator=draw) * (3 / width**0.5)
    weight = teacher_weight + 0.3 * torch.randn(vocabulary, width, generator=draw) * (3 / width**0.5)
    tokens = torch.randint(0, vocabulary, (rows,), generator=draw)
    return Problem(teacher_rows + 0.3 * noise, weight, teacher_rows, teacher_weight, tokens)


def gradients(problem: Problem, loss: Tensor) -> tuple[Tensor, Tensor]:
    return torch.autograd.grad(loss, (problem.rows, problem.weight))


def bare_matmuls(problem: Problem, block: int | None, *, teacher: bool = True) -> Callable[[], None]:
    rows, weight = problem.rows.detach(), problem.weight.detach()
    step = block or len(rows)
    shape = (min(step, len(rows)), len(weight))
    # Zeros, so that the memory is there: the matmuls need no warm-up.
    logits, teacher_logits = (torch.zeros(shape, dtype=rows.dtype) for _ in range(2))
    grad_rows, grad_weight = torch.zeros_like(rows), torch.zeros_like(weight)

    def run() -> None:
        for start in range(0, len(rows), step):
            here = slice(start, start + step)
            states = rows[here]
            torch.mm(states, weight.T, out=logits[: len(states)])
            if teacher:
                torch.mm(problem.teacher_rows[here], problem.teacher_weight.T, out=teacher_logits[: len(states)])
            torch.mm(logits[: len(states)], weight, out=grad_rows[here])
            torch.mm(logits[: len(states)].T, states, out=grad_weight)

    return run


def ours(problem: Problem, divergence: Divergence, alpha: float, *, targets: SparseTargets | None = None) -> Run:
    workspace, weights = Workspace(), torch.ones(len(problem.rows))
    measure = SoftLabelLoss(divergence, alpha=alpha)
    marks = targets or DenseTargets(problem.teacher_rows, Head(problem.teacher_weight))

    def run() -> tuple[Tensor, Tensor]:
        states = HiddenStates(problem.rows, Head(problem.weight))
        loss = linear_loss(states, marks, problem.tokens, weights, measure, workspace=workspace)
        return gradients(problem, loss.total)

    return run


def stored(problem: Problem) -> SparseTargets:
    """Twelve sampled tokens a prediction, as the store gives them."""
    draw = torch.Generator().manual_seed(1)
    some = [
        torch.multinomial((rows.float() @ problem.teacher_weight.float().T).softmax(-1), SLOTS, True, generator=draw)
        for rows in problem.teacher_rows.split(256)
    ]
    ids = torch.cat(some)
    return SparseTargets(ids, torch.full(ids.shape, 1 / SLOTS), None)


def naive(problem: Problem, alpha: float) -> Run:
    """What one writes: both logits, log-softmax in fp32, KL and cross-entropy."""

    def run() -> tuple[Tensor, Tensor]:
        z, t = (problem.rows @ problem.weight.T).float(), (problem.teacher_rows @ problem.teacher_weight.T).float()
        soft = F.kl_div(z.log_softmax(-1), t.log_softmax(-1), reduction="sum", log_target=True)
        hard = F.cross_entropy(z, problem.tokens, reduction="sum")
        return gradients(problem, alpha * soft + (1 - alpha) * hard)

    return run


def trl(problem: Problem, beta: float) -> Run:
    from trl.kernels.chunked_divergence import ChunkedDivergenceFunction

    def run() -> tuple[Tensor, Tensor]:
        per_token, _ = ChunkedDivergenceFunction.apply(
            problem.rows, problem.weight, None, problem.teacher_rows, problem.teacher_weight, None, beta
        )
        return gradients(problem, per_token.sum())

    return run


def torchtune(problem: Problem) -> Run:
    # The file alone: the package wants a torchao that today's torch doesn't go with.
    found = find_spec("torchtune")
    if found is None or found.origin is None:
        raise ImportError("torchtune")
    spec = spec_from_file_location("kd_losses", Path(found.origin).parent / "modules/loss/kd_losses.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    measure = module.ForwardKLWithChunkedOutputLoss()

    def run() -> tuple[Tensor, Tensor]:
        student = [chunk @ problem.weight.T for chunk in problem.rows[None].chunk(8, dim=1)]
        teacher = [chunk @ problem.teacher_weight.T for chunk in problem.teacher_rows[None].chunk(8, dim=1)]
        return gradients(problem, measure(student, teacher, problem.tokens[None]) * len(problem.tokens))

    return run


def liger(problem: Problem) -> Run:
    from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss

    measure = LigerFusedLinearJSDLoss(weight_hard_loss=0.0, weight_soft_loss=1.0, beta=0.0, compiled=False)

    def run() -> tuple[Tensor, Tensor]:
        loss = measure(problem.rows, problem.weight, problem.teacher_rows, problem.teacher_weight, problem.tokens)
        return gradients(problem, loss * len(problem.tokens))

    return run


def linear_cross_entropy(problem: Problem) -> Run:
    def run() -> tuple[Tensor, Tensor]:
        loss = F.linear_cross_entropy(problem.rows, problem.weight, problem.tokens, reduction="sum")  # type: ignore[attr-defined]
        return gradients(problem, loss)

    return run


def contenders(problem: Problem, *, quick: bool = False) -> dict[str, Run]:
    made: dict[str, Callable[[], Run]] = {
        "ours: forward KL + hard": lambda: ours(problem, ForwardKL(), 0.5),
        "ours: reverse KL": lambda: ours(problem, ReverseKL(), 1.0),
        "ours: Jensen-Shannon": lambda: ours(problem, JensenShannon(0.5), 1.0),
        "ours: stored, 12 samples": lambda: ours(problem, ForwardKL(), 1.0, targets=stored(problem)),
        "naive PyTorch: forward KL + hard": lambda: naive(problem, 0.5),
        "TRL chunked divergence: forward KL": lambda: trl(problem, 0.0),
    }
    more: dict[str, Callable[[], Run]] = {
        "ours: hard labels": lambda: ours(problem, ForwardKL(), 0.0),
        "torchtune chunked: forward KL": lambda: torchtune(problem),
        "Liger chunked: forward KL": lambda: liger(problem),
        "F.linear_cross_entropy: hard labels": lambda: linear_cross_entropy(problem),
    }
    found = {}
    for name, make in (made if quick else made | more).items():
        try:
            found[name] = make()
        except (ImportError, AttributeError) as error:
            print(f"left out: {name} ({error})")
    return found


def timed(runs: dict[str, Callable[[], object]], rounds: int, *, once: Container[str] = ()) -> dict[str, float]:
    """Median seconds; the contenders take turns, after a warm-up each, so that a slow moment of the machine is nobody's own.

    Those in `once` run a single time and have to be warm. What fails is left out, with its reason.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name, run in runs.items():
            is_warm = name in once or "blocks of" in name
            if name not in seconds or (number == 0 and is_warm) or (number > 1 and name in once):
                continue
            started = time.perf_counter()
            try:
                run()
            except Exception as error:  # noqa: BLE001  # a peer may fail in any way; that is a result
                print(f"failed: {name}: {type(error).__name__}: {str(error)[:200]}")
                del seconds[name]
                continue
            if number > 0:
                seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(values) for name, values in seconds.items()}


def limits(problem: Problem, *, quick: bool) -> dict[str, Callable[[], object]]:
    """The bare matmuls in every blocking of rows."""
    blocks = [block for block in BLOCKINGS if block is None or (256 if quick else 0) <= block < len(problem.rows)]
    four = {f"four in blocks of {block or len(problem.rows)}": bare_matmuls(problem, block) for block in blocks}
    three = {
        f"three in blocks of {block or len(problem.rows)}": bare_matmuls(problem, block, teacher=False)
        for block in blocks[-1 if quick else 0 :]
    }
    return four | three


def error_of(dtype: torch.dtype) -> dict[str, float]:
    """Largest relative error of the gradients (by norm) against fp64, on fewer rows and tokens."""
    problem, errors = new_problem(256, vocabulary=4096), {}
    exact, rough = problem.to(torch.float64), problem.to(dtype)
    for name, divergence, alpha in (
        ("forward KL + hard", ForwardKL(), 0.5),
        ("reverse KL", ReverseKL(), 1.0),
        ("Jensen-Shannon", JensenShannon(0.5), 1.0),
    ):
        both = zip(ours(rough, divergence, alpha)(), reference(exact, divergence, alpha), strict=True)
        errors[name] = max(((one.double() - other).norm() / other.norm()).item() for one, other in both)
    return errors


def reference(problem: Problem, divergence: Divergence, alpha: float) -> tuple[Tensor, Tensor]:
    z, t = problem.rows @ problem.weight.T, problem.teacher_rows @ problem.teacher_weight.T
    soft = divergence(t.log_softmax(-1), z.log_softmax(-1)).sum()
    return gradients(problem, alpha * soft + (1 - alpha) * F.cross_entropy(z, problem.tokens, reduction="sum"))


def extra_memory(makes: dict[str, Callable[[], Run]]) -> dict[str, float]:
    """Bytes that one run adds to a process at its peak, each in a child of its own, side by side: nothing is left over from before."""
    children = {}
    for name, make in makes.items():
        reader, writer = os.pipe()
        if (child := os.fork()) == 0:
            torch.set_num_threads(max(1, torch.get_num_threads() // len(makes)))
            run = make()
            Path("/proc/self/clear_refs").write_text("5")
            before = resident("VmRSS")
            run()
            os.write(writer, str(resident("VmHWM") - before).encode())
            os._exit(0)
        os.close(writer)
        children[name] = (child, reader)
    found = {}
    for name, (child, reader) in children.items():
        os.waitpid(child, 0)
        found[name] = float(os.read(reader, 100) or b"nan")
    return found


def resident(what: str) -> int:
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(what)]
    return 1024 * int(line.split()[1])


def measure(dtype: torch.dtype, rows: int, rounds: int, *, quick: bool) -> dict[str, float]:
    """Seconds of each contender, the limits first. Quick: only those the JSON speaks of, and peers once."""
    problem = new_problem(rows).to(dtype)
    runs = contenders(problem, quick=quick)
    peers = {name for name in runs if quick and not name.startswith("ours")}
    for name, run in contenders(problem.head(64).to(dtype), quick=True).items():
        if name in peers:
            run()
    bare = limits(problem, quick=quick)
    times = timed({**bare, **runs}, rounds, once=peers)
    found = {}
    for count in ("four", "three"):
        best = min((name for name in bare if name.startswith(count)), key=times.__getitem__)
        found[f"the limit: {count} matmuls"] = times[best]
        print(f"bare matmuls best: {best} rows")
    found |= {name: seconds for name, seconds in times.items() if name not in bare}
    print(f"\n{str(dtype).removeprefix('torch.')}, {rows:,} rows")
    for name, seconds in found.items():
        print(f"  {name:38s} {seconds:8.3f} s  {seconds / found[limit_of(name)]:6.2f} × its limit")
    return found


def limit_of(name: str) -> str:
    """Offline and hard labels need no teacher's matmul."""
    is_alone = any(word in name for word in ("stored", "hard labels", "three"))
    return f"the limit: {'three' if is_alone else 'four'} matmuls"


def is_faster(dtype: torch.dtype) -> bool:
    """Than fp32, in a matmul as large as a chunk's."""
    seconds = {}
    for kind in (torch.float32, dtype):
        rows, weight = torch.ones(128, WIDTH, dtype=kind), torch.ones(4096, WIDTH, dtype=kind)
        seconds[kind] = timed({"matmul": lambda rows=rows, weight=weight: rows @ weight.T}, 3)["matmul"]
    return seconds[torch.float32] > 1.3 * seconds[dtype]


def keys(found: dict[str, float] | None, dtype: str) -> dict[str, float | None]:
    ratios: dict[str, tuple[str, str]] = {
        f"ratio_to_matmul_{dtype}": ("ours: forward KL + hard", "the limit: four matmuls"),
        f"ratio_to_matmul_reverse_kl_{dtype}": ("ours: reverse KL", "the limit: four matmuls"),
        f"ratio_to_matmul_jensen_shannon_{dtype}": ("ours: Jensen-Shannon", "the limit: four matmuls"),
        f"ratio_to_matmul_stored_{dtype}": ("ours: stored, 12 samples", "the limit: three matmuls"),
        f"speedup_over_trl_{dtype}": ("TRL chunked divergence: forward KL", "ours: forward KL + hard"),
        f"speedup_over_naive_{dtype}": ("naive PyTorch: forward KL + hard", "ours: forward KL + hard"),
    }
    return {
        key: round(found[one] / found[other], 3) if found and one in found and other in found else None
        for key, (one, other) in ratios.items()
    }


def growth(dtype: torch.dtype) -> dict[str, list[tuple[int, float, float]]]:
    """(size, seconds ours, seconds of the limit) by rows and by vocabulary."""
    by_rows, by_vocabulary = [], []
    for rows in (1024, 2048, 4096, 8192, 16384):
        by_rows.append((rows, *one_of_each(new_problem(rows).to(dtype))))
    for vocabulary in (32_768, 65_536, 131_072, 262_144):
        by_vocabulary.append((vocabulary, *one_of_each(new_problem(1024, vocabulary).to(dtype))))
    return {"rows": by_rows, "vocabulary": by_vocabulary}


def one_of_each(problem: Problem) -> tuple[float, float]:
    found = timed({"ours": ours(problem, ForwardKL(), 0.5), "limit": bare_matmuls(problem, 256)}, 1)
    return found["ours"], found["limit"]


def plot(grown: dict[str, list[tuple[int, float, float]]], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    for axes, (what, points) in zip(figure.subplots(1, 2), grown.items(), strict=True):
        sizes, seconds, bare = zip(*points, strict=True)
        axes.loglog(sizes, seconds, "o-", label="forward KL + hard labels")
        axes.loglog(sizes, bare, "o--", label="four bare matmuls, blocks of 256 rows")
        axes.set_xticks(sizes, [f"{size // 1024}k" for size in sizes], minor=False)
        axes.minorticks_off()
        axes.set_xlabel(what)
        axes.set_ylabel("seconds")
        axes.legend()
    figure.savefig(path, format="svg")


def table(found: dict[str, dict[str, float]]) -> Iterable[str]:
    yield "| | " + " | ".join(f"{dtype}, s | × limit" for dtype in found) + " |"
    yield "| --- |" + " ---: | ---: |" * len(found)
    for name in next(iter(found.values())):
        cells = []
        for times in found.values():
            ratio = times[name] / times[limit_of(name)] if name in times else float("nan")
            cells.append(f"{times.get(name, float('nan')):.3f} | {ratio:.2f}")
        yield f"| {name} | {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    rows, rounds = (512, 2) if arguments.quick else (1024, 3)
    # Forked before this process has threads of its own: a child would wait for them for ever.
    memory = extra_memory(memory_contenders())
    dtypes = {"fp32": torch.float32} | ({"bf16": torch.bfloat16} if is_faster(torch.bfloat16) else {})
    found = {name: measure(dtype, rows, rounds, quick=arguments.quick) for name, dtype in dtypes.items()}
    errors = {name: error_of(dtype) for name, dtype in dtypes.items()}
    result: dict[str, object] = {}
    for dtype in ("bf16", "fp32"):
        result |= keys(found.get(dtype), dtype)
    result["memory_share_of_naive"] = round(memory["ours"] / memory["naive"], 4)
    result["worst_error"] = max(max(by_name.values()) for by_name in errors.values())
    print(
        f"\nextra memory at 4,096 rows: ours {memory['ours'] / 2**20:,.0f} MiB, naive {memory['naive'] / 2**20:,.0f} MiB"
    )
    print(f"largest error of a gradient against fp64: {errors}")
    if not arguments.quick:
        plot(growth(dtypes.get("bf16", torch.float32)), HERE / "fused_loss.svg")
        (HERE / "fused_loss.md").write_text("\n".join(page(found, memory, errors)) + "\n", "utf-8")
    if arguments.json:
        print(json.dumps(result))


def memory_contenders() -> dict[str, Callable[[], Run]]:
    return {
        "ours": lambda: ours(new_problem(4096).to(torch.float32), ForwardKL(), 0.5),
        # Narrow, for time: its memory is logits, and what it is spared makes its figure smaller, not ours.
        "naive": lambda: naive(new_problem(4096, width=64).to(torch.float32), 0.5),
    }


def page(found: dict, memory: dict[str, float], errors: dict) -> Iterable[str]:
    peers = ", ".join(f"{name} {version(name)}" for name in ("torch", "trl", "torchtune", "liger-kernel"))
    yield "# The fused loss"
    yield ""
    yield f"*{date.today().isoformat()}; `benchmarks/fused_loss.py`; {os.cpu_count()} cores ({torch.backends.cpu.get_cpu_capability()}),*"
    yield f"*Python {platform.python_version()}, {peers}. Width {WIDTH}, vocabulary {VOCABULARY:,}, 1,024 rows, medians of 3.*"
    yield ""
    yield from table(found)
    yield ""
    yield f"Extra memory at 4,096 rows, fp32: ours {memory['ours'] / 2**20:,.0f} MiB, naive {memory['naive'] / 2**20:,.0f} MiB."
    for dtype, by_name in errors.items():
        listed = ", ".join(f"{name} {error:.1e}" for name, error in by_name.items())
        yield f"Largest relative error of a gradient against fp64, {dtype}: {listed}."
    yield ""
    yield "![how cost grows](fused_loss.svg)"


if __name__ == "__main__":
    main()
