"""The conformance list on each library's public loss functions: the same checks, by the same code, ours among them.

    make bench-setup                                        (brings TRL, torchtune, Liger; the page says what else was installed)
    .venv/bin/python benchmarks/peers_losses.py             (a minute; writes peers_losses.md here)

Four sequences of 12 predictions, of which 11, 3, 7 and 2 count; logits with a standard deviation of 3. Closed forms are worked out
in fp64 from the very numbers that a function was given, in the scale that its documentation names. What isn't installed is left out,
and the page says so.
"""

from __future__ import annotations

import os
import platform
import warnings
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import date
from importlib.metadata import version
from pathlib import Path

import torch
from peers import deviations, words
from peers.accumulation import Split, all_splits
from peers.losses import BETA, IGNORED, Contender, Problem, TopK, all_contenders, all_top_k, versions
from torch import Tensor

HERE = Path(__file__).parent
COUNTED = (11, 3, 7, 2)
# Relative, in fp32: rounding is far below, a wrong formula far above.
CLOSE = 1e-4
MILLINAT = 1e-3
CALLERS = "caller's"


def new_problem(
    tokens: int = 97, width: int = 16, *, lines: int = 4, length: int = 12, counted: tuple[int, ...] = COUNTED
) -> Problem:
    draw = torch.Generator().manual_seed(3)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw)

    labels = torch.randint(0, tokens, (lines, length), generator=draw)
    for row, number in enumerate(counted):
        labels[row, : (length - number) // 2] = IGNORED
        labels[row, (length - number) // 2 + number :] = IGNORED
    size = 3 / width**0.5
    return Problem(
        normal(lines, length, width),
        normal(tokens, width) * size,
        normal(lines, length, width),
        normal(tokens, width) * size,
        labels,
    )


def gradients(problem: Problem, loss: Tensor) -> Tensor:
    found = torch.autograd.grad(loss, (problem.rows, problem.weight), allow_unused=True)
    return torch.cat([tensor.flatten().double() for tensor in found if tensor is not None])


def closed_form(one: Contender, problem: Problem, temperature: float, *, from_logits: bool) -> tuple[float, Tensor]:
    """Value and gradient in fp64; `from_logits`: from the rounded logits that the function saw."""
    exact = problem.to(torch.float64)
    z, t = exact.z, exact.t
    if from_logits:
        z, t = z + (problem.z.double() - z).detach(), problem.t.double()
    log_q, log_p = ((logits / temperature).log_softmax(-1) for logits in (z, t.detach()))
    p, q = log_p.exp(), log_q.exp()
    # 0 · log 0 = 0
    log_p = log_p.clamp_min(-1e300)
    forward, reverse = (p * (log_p - log_q)).sum(-1), (q * (log_q - log_p)).sum(-1)
    if one.form in ("JSD", "JSD ½"):
        beta = 0.5 if one.form == "JSD ½" else BETA
        log_m = (beta * p + (1 - beta) * q).log()
        value = beta * (p * (log_p - log_m)).sum(-1) + (1 - beta) * (q * (log_q - log_m)).sum(-1)
    else:
        both = BETA * forward + (1 - BETA) * reverse
        value = {"forward KL": forward, "reverse KL": reverse, "forward + reverse KL": both}[one.form]
    value = (value * one.factor * (temperature**2 if one.has_square else 1))[problem.counted].sum()
    loss = value / (problem.counted.sum() if one.mean else 1)
    return loss.item(), gradients(exact, loss)


def entropy(one: Contender, problem: Problem, *, from_logits: bool = False) -> float:
    """What a value that is a cross-entropy has more than a KL."""
    if not one.entropy:
        return 0.0
    log_p = (problem.t.double() if from_logits else problem.to(torch.float64).t).log_softmax(-1).clamp_min(-1e300)
    share = BETA if one.form == "forward + reverse KL" else 1.0
    return share * -(log_p.exp() * log_p).sum(-1)[problem.counted].mean().item()


def errors(one: Contender, temperature: float) -> str:
    problem = new_problem().to(torch.float32)
    value, gradient = closed_form(one, problem, temperature, from_logits=False)
    loss = one.call(problem, temperature)
    found = gradients(problem, loss)
    value_error = abs(loss.item() - entropy(one, problem) - value) / value
    return f"{marked(value_error)} / {marked(((found - gradient).norm() / gradient.norm()).item())}"


def at_the_teacher(one: Contender) -> str:
    problem = new_problem()
    problem = replace(problem, rows=problem.teacher_rows, weight=problem.teacher_weight).to(torch.float32)
    other = new_problem().to(torch.float32)
    loss, scale = one.call(problem, 1.0), one.call(other, 1.0)
    value = loss.item() / scale.item()
    gradient = (gradients(problem, loss).norm() / gradients(other, scale).norm()).item()
    return f"{marked(abs(value))} / {marked(gradient)}"


def in_parts(one: Contender) -> str:
    """Four micro-batches of a sequence each, summed, the count of the whole being known."""
    if not one.masks:
        return CALLERS
    if one.split is None:
        return "a mean only"
    whole = new_problem().to(torch.float32)
    count = int(whole.counted.sum())
    loss = one.split(whole, count)
    expected, rows, head = loss.item(), [], torch.zeros_like(whole.weight)
    for row in range(4):
        part = whole.of(slice(row, row + 1))
        more = one.split(part, count)
        expected -= more.item()
        found = torch.autograd.grad(more, (part.rows, part.weight))
        rows.append(found[0])
        head += found[1]
    gradient = torch.cat([torch.cat(rows).flatten(), head.flatten()]).double()
    exact = gradients(whole, loss)
    return f"{marked(abs(expected / loss.item()))} / {marked(((gradient - exact).norm() / exact.norm()).item())}"


def of_what_does_not_count(one: Contender) -> str:
    """Other hidden states of both at prompt and padding, and two predictions more that don't count."""
    if not one.masks:
        return CALLERS
    plain = new_problem()
    junk = torch.randn(plain.rows.shape, generator=torch.Generator().manual_seed(9)) * 5
    skipped = ~plain.counted.unsqueeze(-1)
    other = replace(
        plain, rows=torch.where(skipped, junk, plain.rows), teacher_rows=torch.where(skipped, -junk, plain.teacher_rows)
    )
    more = torch.nn.functional.pad
    longer = Problem(
        more(other.rows, (0, 0, 0, 2), value=1.0), other.weight, more(other.teacher_rows, (0, 0, 0, 2)), other.teacher_weight,
        more(other.labels, (0, 2), value=IGNORED),
    )  # fmt: skip
    results = []
    for problem in (plain.to(torch.float32), longer.to(torch.float32)):
        loss = one.call(problem, 1.0)
        results.append((loss.item(), torch.autograd.grad(loss, problem.weight)[0].double()))
    (value, gradient), (other_value, other_gradient) = results
    return f"{marked(abs(other_value / value - 1))} / {marked(((other_gradient - gradient).norm() / gradient.norm()).item())}"


def with_nothing_to_learn(one: Contender) -> str:
    """A micro-batch in which no prediction counts: a zero that backward goes through."""
    if not one.masks:
        return CALLERS
    problem = new_problem()
    problem = replace(problem, labels=torch.full_like(problem.labels, IGNORED)).to(torch.float32)
    loss = one.call(problem, 1.0)
    if not torch.isfinite(loss):
        return f"**{loss.item()}**"
    if not loss.requires_grad:
        return "**0, no graph: backward() raises**"
    return "0" if loss.item() == 0 and not gradients(problem, loss).any() else f"**{loss.item():.2g}**"


def with_forbidden_tokens(one: Contender) -> str:
    """Six tokens have the logit -inf at the teacher's, as a decoder that forbids them makes it."""
    bias = torch.zeros(97)
    bias[3:9] = -torch.inf
    problem = replace(new_problem(), bias=bias).to(torch.float32)
    loss = one.call(problem, 1.0)
    gradient = gradients(problem, loss)
    if one.form in ("reverse KL", "forward + reverse KL"):
        # Infinite by definition; a function may say so, or set a floor.
        is_finite = bool(torch.isfinite(loss)) and bool(torch.isfinite(gradient).all())
        return f"finite: {loss.item() / (1 if one.mean else sum(COUNTED)):.2g}" if is_finite else f"{loss.item():.2g}"
    value, exact = closed_form(one, problem, 1.0, from_logits=False)
    error = abs(loss.item() - entropy(one, problem) - value) / value
    return f"{marked(error)} / {marked(((gradient - exact).norm() / exact.norm()).item())}"


def in_bf16(one: Contender, *, from_logits: bool) -> str:
    """Nats a prediction from the closed form, and the relative error of the gradient, on 256 predictions of 2,000 tokens."""
    if from_logits and one.fused:
        return "fused"
    problem = new_problem(2000, 64, lines=8, length=32, counted=(32,) * 8).to(torch.bfloat16)
    value, gradient = closed_form(one, problem, 1.0, from_logits=from_logits)
    loss = one.call(problem, 1.0)
    more = entropy(one, problem, from_logits=from_logits)
    gap = abs(loss.item() - more - value) / (1 if one.mean else 256)
    shown = f"{gap:.0e}" if gap < MILLINAT else f"**{gap:.0e}**"
    return f"{shown} / {((gradients(problem, loss) - gradient).norm() / gradient.norm()).item():.0e}"


def marked(error: float) -> str:
    if error == 0:
        return "0"
    return f"{error:.0e}" if error < CLOSE else f"**{error:.2g}**"


def safely(check: Callable[[], str]) -> str:
    try:
        return check()
    except Exception as error:  # noqa: BLE001  # a peer may fail in any way; that is a result
        return f"**{type(error).__name__}**"


CHECKS: dict[str, Callable[[Contender], str]] = {
    "T = 1": lambda one: errors(one, 1.0),
    "T = 2": lambda one: errors(one, 2.0) if one.has_temperature else "no T",
    "student = teacher": at_the_teacher,
    "in parts": in_parts,
    "prompt, padding": of_what_does_not_count,
    "nothing counts": with_nothing_to_learn,
    "teacher's −∞": with_forbidden_tokens,
    "bf16 states": lambda one: in_bf16(one, from_logits=False),
    "bf16 logits": lambda one: in_bf16(one, from_logits=True),
}


def top_k_row(one: TopK) -> str:
    """What is left at student = teacher, and what bf16 logits cost."""
    draw = torch.Generator().manual_seed(5)
    t, z = (3 * torch.randn(64, 97, generator=draw) for _ in range(2))
    same, apart = t.clone().requires_grad_(), z.clone().requires_grad_()
    loss, other = one.call(same, t, 8), one.call(apart, t, 8)
    at_teacher = torch.autograd.grad(loss, same)[0].norm().item()
    usual = torch.autograd.grad(other, apart)[0].norm().item()
    rough = [(3 * torch.randn(256, 2000, generator=draw)).bfloat16() for _ in range(2)]
    gap = (one.call(*rough, 64).double() - one.call(rough[0].float(), rough[1].float(), 64).double()).abs().item()
    return f"| {one.peer} | `{one.function}` | {one.rest} | {loss.item():.3f} | {at_teacher / usual:.0e} | {gap:.0e} |"


def main() -> None:
    warnings.filterwarnings("ignore")
    contenders, missing = all_contenders()
    rows = []
    for one in contenders:
        found = [safely(lambda check=check, one=one: check(one)) for check in CHECKS.values()]
        rows.append((one, found))
        print(one.peer, one.function, *found, sep=" | ", flush=True)
    splits, left = all_splits()
    text = page(rows, [top_k_row(one) for one in all_top_k()], splits, versions(contenders), missing | left)
    (HERE / "peers_losses.md").write_text("\n".join(text) + "\n", "utf-8")


def page(
    rows: list[tuple[Contender, list[str]]],
    top_k: list[str],
    splits: list[Split],
    packages: dict[str, str],
    missing: dict[str, str],
) -> Iterable[str]:
    yield "# Loss functions, checked alike"
    yield ""
    named = ", ".join(f"{name} {number}" for name, number in packages.items())
    yield f"*{date.today().isoformat()}; `benchmarks/peers_losses.py`; {os.cpu_count()} cores ({torch.backends.cpu.get_cpu_capability()}),*"
    yield f"*Python {platform.python_version()}, transformers {version('transformers')}; {named}.*"
    yield words.INTRODUCTION
    yield f"| | function | measures | documented scale | {' | '.join(CHECKS)} |"
    yield "| --- " * 4 + "| ---: " * len(CHECKS) + "|"
    for one, found in rows:
        yield f"| {one.peer} | `{one.function}` | {one.form} | {one.scale} | {' | '.join(found)} |"
    yield words.COLUMNS
    yield "| | function | the other tokens | value | gradient | bf16 |"
    yield "| --- | --- | --- | ---: | ---: | ---: |"
    yield from top_k
    yield words.TOP_K
    yield "| | at once, from the closed form | one row at a time, from at once | × as long | × as long, where rows count alike |"
    yield "| --- | ---: | ---: | ---: | ---: |"
    for split in splits:
        apart = f"{marked(split.from_reference)} | {marked(split.from_at_once)}"
        yield f"| {split.trainer} | {apart} | {split.ratio:.2f} | {split.ratio_of_equal:.2f} |"
    yield words.DEVIATIONS
    for name, reproduce in deviations.ALL.items():
        code, printed = deviations.shown(reproduce)
        yield from (
            f"**{name}.** {words.WHAT_IT_MEANS[reproduce.__name__]}",
            "",
            "```python",
            code,
            "```",
            "```text",
            printed,
            "```",
            "",
        )
    yield words.DISTILLKIT_MASK.strip()
    yield from ("", "## Better than ours", "", words.BETTER_THAN_OURS.strip())
    if missing:
        yield ""
        yield "Not run: " + "; ".join(f"{name} ({why})" for name, why in missing.items()) + "."


if __name__ == "__main__":
    main()
