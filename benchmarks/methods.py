"""Every way of teaching beside forward KL and hard labels, for the same tokens and for the same seconds.

    .venv/bin/python benchmarks/methods.py           (hours on one core; a seed after another; resumes; writes methods.md beside this file)

The pocket teacher, and a student of three of its six layers. Arms of a seed read the same text in the same order: the standard library's
source, no token twice. Forward KL and hard labels also read 1.5, 2.25 and 3.4 times as much, and what an arm gains is compared with what
they have after as many seconds (interpolated in the logarithm of the seconds). Seconds are the process's own, and an arm's are all that it
needs: copies, assistants and former selves that must be trained, text that must be written, labels that must be stored. Differences are
paired by document, and their intervals come from a bootstrap over documents and seeds.
"""

from __future__ import annotations

import argparse
import json
import os
import time
import warnings
from collections.abc import Callable, Container, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from datetime import date
from functools import partial
from importlib.metadata import version
from pathlib import Path
from shutil import rmtree

import numpy as np
import torch
from prune_ladder import corpora, kept, labels_of
from transformers import AutoModelForCausalLM, PreTrainedModel

from potstill.data import PackedBatches, TokenCorpus, prompts_of
from potstill.evaluation import measure
from potstill.losses import (
    HARD_LABELS,
    AttentionRelationLoss,
    FeatureLoss,
    ForwardKL,
    HiddenLoss,
    JensenShannon,
    Measure,
    ReverseKL,
    SoftLabelLoss,
    TotalVariation,
)
from potstill.models import Sampling, complete, head_of, load_model, load_tokenizer
from potstill.students import copy_layers, ends_of_blocks, last_layers
from potstill.teachers import (
    AveragedTeacher,
    LiveTeacher,
    MixtureTeacher,
    RememberingTeacher,
    SmoothingTeacher,
    StoredTeacher,
    entropies,
    smoothing_of_entropy,
)
from potstill.training import Annealing, Cosine, OnPolicy, TrainingSettings, train
from potstill.types import Teacher

HERE, OUT = Path(__file__).parent, Path("runs") / "methods"
LENGTH, ROWS, RATE = 512, 2, 1.5e-3
# Of what the student goes on from, and writes.
PROMPT, NEW, COMPLETIONS = 32, 96, 8
FURTHER = (1.0, 1.5, 2.25, 3.4)
HARD, PLAIN = "hard labels", "forward KL"
SOFT = SoftLabelLoss(ForwardKL())


@dataclass(frozen=True)
class Subject:
    """Who teaches whom on which text, and how a step looks. `title` and `teacher_words` are of the page."""

    title: str
    teacher_words: str
    teacher: PreTrainedModel
    start: PreTrainedModel
    learn: TokenCorpus
    held_out: TokenCorpus
    length: int = LENGTH
    rows: int = ROWS
    rate: float = RATE
    dtype: torch.dtype = torch.float32


def pocket(tokens: int, held_out: int) -> Subject:
    tokenizer, teacher = load_tokenizer("pocket"), load_model("pocket")
    learn, judge = corpora("standard-library", tokenizer, round(3.6 * tokens), held_out)
    title = "Every way of teaching, for the same tokens and the same seconds"
    return Subject(title, "The pocket teacher", teacher, copy_layers(teacher, (0, 3, 5))[0].float(), learn, judge)


class Lesson:
    """Teacher, text and students of one seed; what was trained already, by name, with the seconds it took."""

    def __init__(self, subject: Subject, tokens: int) -> None:
        self.subject, self.teacher, self.start = subject, subject.teacher, subject.start
        self.size, self.tokens = head_of(self.teacher).num_tokens, tokens
        self.learn, self.held_out = subject.learn, subject.held_out
        self.some = self.learn.select([d for d in range(len(self.learn)) if self.learn.offsets[d] < tokens])
        self.marker = self.live(self.teacher)
        self.beside = RememberingTeacher(self.marker)
        self.ready: dict[str, tuple[PreTrainedModel, float]] = {}
        self.seed = 0

    def live(self, model: PreTrainedModel, **more) -> LiveTeacher:
        return LiveTeacher(model, size=self.size, **more)

    def text(
        self, length: int | None = None, rows: int | None = None, corpus: TokenCorpus | None = None
    ) -> PackedBatches:
        size = length or self.subject.length, rows or self.subject.rows
        return PackedBatches(self.learn if corpus is None else corpus, *size, seed=self.seed)

    def judged(self, student: PreTrainedModel) -> dict[str, list[float]]:
        """On held-out text, beside the teacher."""
        how = {"length": self.subject.length, "dtype": self.subject.dtype}
        return kept(measure(student, self.held_out, teacher=self.beside, **how))

    def learned(
        self,
        marker: Teacher | None,
        loss: Measure,
        *,
        start: PreTrainedModel | None = None,
        share: float = 1.0,
        text: PackedBatches | OnPolicy | None = None,
        features: FeatureLoss | None = None,
        slower: float = 1.0,
        annealing: Annealing | None = None,
    ) -> PreTrainedModel:
        """A student that has read the share of the tokens."""
        student = deepcopy(self.start if start is None else start).requires_grad_(True)
        settings = TrainingSettings(
            round(share * self.tokens / (self.subject.rows * self.subject.length)),
            self.subject.rate / slower,
            Cosine(warmup=0.1, floor=0.1),
            dtype=self.subject.dtype,
            seed=self.seed,
        )
        for _ in train(student, marker, text or self.text(), loss, settings, features=features, annealing=annealing):
            pass
        return student.eval()

    def once(self, name: str, make: Callable[[], PreTrainedModel]) -> PreTrainedModel:
        """A student that several arms need; each of them pays for it."""
        if name not in self.ready:
            began = time.process_time()
            self.ready[name] = make(), time.process_time() - began
        return self.ready[name][0]


# --- the arms; each is called with a lesson and returns (student, seconds spent before that other arms paid already)

Found = tuple[PreTrainedModel, float]


def plain(loss: Measure, share: float = 1.0) -> Callable[[Lesson], Found]:
    return lambda lesson: (lesson.learned(None if loss is HARD_LABELS else lesson.marker, loss, share=share), 0.0)


def with_features(added: Callable[[int, int], FeatureLoss]) -> Callable[[Lesson], Found]:
    def arm(lesson: Lesson) -> Found:
        loss = added(lesson.start.config.num_hidden_layers, lesson.teacher.config.num_hidden_layers)
        marker = lesson.live(lesson.teacher, layers=loss.teacher_layers, attention=loss.teacher_attention)
        return lesson.learned(marker, SOFT, features=loss), 0.0

    return arm


def stored(lesson: Lesson) -> Found:
    folder = OUT / "labels"
    rmtree(folder, ignore_errors=True)
    store = labels_of(lesson.marker, lesson.some, folder)
    marker = StoredTeacher(store, lesson.some, tokenizer="", measure=SOFT)
    return lesson.learned(marker, SOFT, text=lesson.text(corpus=lesson.some)), 0.0


def smoothed(lesson: Lesson) -> Found:
    batch = next(lesson.text(rows=16).from_step(0))
    share = smoothing_of_entropy(entropies(lesson.marker.label(batch)).mean().item(), lesson.size)
    return lesson.learned(SmoothingTeacher(lesson.size, share), SOFT), 0.0


def averaged(lesson: Lesson) -> Found:
    marker = AveragedTeacher(deepcopy(lesson.start), size=lesson.size, decay=0.95)
    return lesson.learned(marker, SoftLabelLoss(ForwardKL(), alpha=0.5)), 0.0


def born_again(lesson: Lesson) -> Found:
    former = lesson.once("former", lambda: lesson.learned(None, HARD_LABELS))
    return lesson.learned(lesson.live(former), SoftLabelLoss(ForwardKL(), alpha=0.5)), lesson.ready["former"][1]


def ensemble(lesson: Lesson) -> Found:
    """Three copies, each of another order of the text, into one."""
    copies, seed = [], lesson.seed
    for number in range(3):
        lesson.seed = 100 * (seed + 1) + number
        copies.append(lesson.live(lesson.learned(None, HARD_LABELS)))
    lesson.seed = seed
    return lesson.learned(MixtureTeacher(tuple(copies), (1.0,) * 3), SOFT), 0.0


def through_an_assistant(lesson: Lesson) -> Found:
    """Half of the tokens for a student of five layers, half for its student."""
    assistant = lesson.learned(
        lesson.marker, SOFT, start=copy_layers(lesson.teacher, (0, 1, 2, 4, 5))[0].float(), share=0.5
    )
    return lesson.learned(lesson.live(assistant), SOFT, share=0.5), 0.0


def warm(lesson: Lesson) -> PreTrainedModel:
    return lesson.once("warm", lambda: lesson.learned(lesson.marker, SOFT, share=0.5))


def own_text(lesson: Lesson, *, share: float, loss: Measure) -> Found:
    """Half of the tokens by forward KL, half on what the student writes."""
    student = warm(lesson)
    prompts = prompts_of(lesson.learn, tokens=PROMPT, longest=PROMPT)
    corpus = lesson.text(PROMPT + NEW, COMPLETIONS)
    plan = OnPolicy(corpus, prompts, (0,), share, COMPLETIONS, NEW, refresh_every=4, seed=lesson.seed)
    found = lesson.learned(lesson.marker, loss, start=student, share=0.5, text=plan, slower=3)
    return found, lesson.ready["warm"][1]


def same_halves(lesson: Lesson) -> Found:
    """What the arms with text of the student's own are compared with: both halves by forward KL."""
    return lesson.learned(lesson.marker, SOFT, start=warm(lesson), share=0.5, slower=3), lesson.ready["warm"][1]


def written_text(lesson: Lesson) -> tuple[TokenCorpus, float]:
    """As many tokens as the corpus has, written by the teacher after its documents' beginnings, and the seconds it took."""
    began, path = time.process_time(), OUT / f"written-{lesson.seed}.npz"
    if path.exists():
        kept_text = np.load(path)
        ids, sizes, seconds = kept_text["ids"], kept_text["sizes"], float(kept_text["seconds"])
    else:
        prompts = prompts_of(lesson.learn, tokens=PROMPT, longest=PROMPT)
        most = LENGTH - PROMPT
        some = [prompts[number] for number in range(min(len(prompts), 1 + lesson.tokens // most))]
        draws = np.random.default_rng(lesson.seed).random((len(some), most), np.float32)
        with torch.no_grad():
            texts = complete(lesson.teacher, some, draws, sampling=Sampling(), ends=(0,), size=lesson.size, rows=64)
        whole = [np.concatenate(pair) for pair in zip(some, texts, strict=True)]
        ids, sizes = np.concatenate(whole), np.array([len(one) for one in whole])
        seconds = time.process_time() - began
        np.savez(path, ids=ids, sizes=sizes, seconds=seconds)
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    weights = np.ones(len(ids), np.float32)
    weights[offsets[:-1]] = 0
    keys = tuple(f"written-{number}" for number in range(len(sizes)))
    corpus = TokenCorpus(
        ids.astype(np.uint32), weights, offsets, keys, np.zeros(len(keys), np.bool_), lesson.learn.token_bytes
    )
    return corpus, seconds


def on_written(lesson: Lesson, *, loss: Measure) -> Found:
    corpus, seconds = written_text(lesson)
    text = lesson.text(corpus=corpus)
    return lesson.learned(None if loss is HARD_LABELS else lesson.marker, loss, text=text), seconds


def random_weights(lesson: Lesson, *, loss: Measure) -> Found:
    torch.manual_seed(lesson.seed)
    start = AutoModelForCausalLM.from_config(lesson.start.config, dtype=torch.float32)
    return lesson.learned(None if loss is HARD_LABELS else lesson.marker, loss, start=start), 0.0


def arms() -> dict[str, Callable[[Lesson], Found]]:
    """In the order in which they say most."""
    found: dict[str, Callable[[Lesson], Found]] = {}
    for share in FURTHER:
        for name, loss in ((HARD, HARD_LABELS), (PLAIN, SOFT)):
            found[name + further(share)] = plain(loss, share)
    mixed = partial(SoftLabelLoss, ForwardKL())
    return found | {
        "random weights, hard labels": partial(random_weights, loss=HARD_LABELS),
        "random weights, forward KL": partial(random_weights, loss=SOFT),
        "half hard, half soft": plain(mixed(alpha=0.5)),
        "annealed, all soft to all hard": lambda lesson: (
            lesson.learned(lesson.marker, SOFT, annealing=Annealing()),
            0.0,
        ),
        "temperature 2": plain(mixed(temperature=2.0)),
        "reverse KL": plain(SoftLabelLoss(ReverseKL())),
        "Jensen-Shannon, 0.5": plain(SoftLabelLoss(JensenShannon(0.5))),
        "total variation": plain(SoftLabelLoss(TotalVariation())),
        "stored labels (sampled)": stored,
        "+ hidden, cosine, dynamic": with_features(
            lambda ours, theirs: FeatureLoss((HiddenLoss(last_layers(1, ours, theirs)),), "dynamic")
        ),
        "+ hidden, MSE of all layers": with_features(
            lambda ours, theirs: FeatureLoss(
                (HiddenLoss(ends_of_blocks(ours, theirs), distance="mse", standardised=True),)
            )
        ),
        "+ CKA of all layers": with_features(
            lambda ours, theirs: FeatureLoss((HiddenLoss(ends_of_blocks(ours, theirs), distance="cka"),))
        ),
        "+ relations of MiniLMv2, 0.1": with_features(
            lambda ours, theirs: FeatureLoss(
                (replace(AttentionRelationLoss(last_layers(1, ours, theirs), causal=True, heads=4), weight=0.1),)
            )
        ),
        "born again": born_again,
        "three copies into one": ensemble,
        "its own average as teacher": averaged,
        "smoothed labels, as unsure as the teacher": smoothed,
        "through an assistant": through_an_assistant,
        "two halves of forward KL": same_halves,
        "half forward KL, half own text by reverse KL": partial(own_text, share=1.0, loss=SoftLabelLoss(ReverseKL())),
        "half forward KL, half GKD (0.5, JSD)": partial(own_text, share=0.5, loss=SoftLabelLoss(JensenShannon(0.5))),
        "the teacher's text, hard labels": partial(on_written, loss=HARD_LABELS),
        "the teacher's text, forward KL": partial(on_written, loss=SOFT),
    }


def further(share: float) -> str:
    return "" if share == 1 else f", {share:g} x the tokens"


# --- running


def run(
    subject: Subject,
    chosen: Mapping[str, Callable[[Lesson], Found]],
    wanted: argparse.Namespace,
    *,
    out: Path = OUT,
    script: str = "methods",
    once: Container[str] = (),
) -> None:
    """Every arm of every seed that isn't in out/results.json yet (`once`: arms of the first seed alone); writes the page after each."""
    out.mkdir(parents=True, exist_ok=True)
    path, to = out / "results.json", HERE / f"{script}.md"
    found = json.loads(path.read_text("utf-8")) if path.exists() else {"arms": {}}
    lesson = Lesson(subject, wanted.tokens)
    if "teacher" not in found:
        found["teacher"], found["untouched"] = lesson.judged(lesson.teacher), lesson.judged(lesson.start)
        found["tokens"] = wanted.tokens
    for seed in range(wanted.seeds):
        lesson.seed, lesson.ready = seed, {}
        for name, arm in chosen.items():
            if f"{name}/{seed}" in found["arms"] or (seed > 0 and name in once):
                continue
            began = time.process_time()
            before = {one: seconds for one, (_, seconds) in lesson.ready.items()}
            student, earlier = arm(lesson)
            new = sum(seconds for one, (_, seconds) in lesson.ready.items() if one not in before)
            seconds = time.process_time() - began - new + earlier
            sums = lesson.judged(student)
            found["arms"][f"{name}/{seed}"] = sums | {"seconds": seconds}
            path.write_text(json.dumps(found), "utf-8")
            to.write_text(page(found, subject, script), "utf-8")
            mean = np.sum(sums["nll"]) / np.sum(sums["tokens"])
            print(f"{name}, seed {seed}: {mean:.4f} nats, {seconds:.0f} s", flush=True)


# --- the table


def page(found: dict, subject: Subject, script: str) -> str:
    """A row an arm, the best first, over the seeds it has."""
    tokens = np.array(found["teacher"]["tokens"])
    by_arm: dict[str, dict[int, dict]] = {}
    for key, one in found["arms"].items():
        name, _, seed = key.rpartition("/")
        by_arm.setdefault(name, {})[int(seed)] = one
    lines = [
        "| learns by | loss, nats | minus forward KL's, same tokens | ... same seconds | minus hard labels', same seconds | right | "
        "KL to teacher | seconds | seeds |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, seeds in sorted(by_arm.items(), key=lambda one: np.mean([np.sum(s["nll"]) for s in one[1].values()])):
        nll = np.mean([one["nll"] for one in seeds.values()], 0)
        cells = [f"{nll.sum() / tokens.sum():.3f}"]
        for against, later in ((PLAIN, False), (PLAIN, True), (HARD, True)):
            skip = name.startswith(against) and (later or name == against)
            gaps = [] if skip else differences(by_arm, seeds, against, later=later)
            cells.append("" if not gaps else "{:+.3f} ({:+.3f} to {:+.3f})".format(*interval(gaps, tokens)))
        right = np.mean([np.sum(one["hits"]) for one in seeds.values()]) / tokens.sum()
        kl = np.mean([np.sum(one["kl"]) for one in seeds.values()]) / tokens.sum()
        seconds = np.mean([one["seconds"] for one in seeds.values()])
        lines.append(f"| {name} | {' | '.join(cells)} | {right:.1%} | {kl:.3f} | {seconds:.0f} | {len(seeds)} |")
    own, untouched = (
        f"{np.sum(one['nll']) / tokens.sum():.3f} nats, {np.sum(one['hits']) / tokens.sum():.1%} right"
        for one in (found["teacher"], found["untouched"])
    )
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers"))
    old = (HERE / f"{script}.md").read_text("utf-8") if (HERE / f"{script}.md").exists() else ""
    return "\n".join(
        [
            f"# {subject.title}",
            "",
            f"*{date.today().isoformat()}; `benchmarks/{script}.py`; one of {os.cpu_count()} cores "
            f"({torch.backends.cpu.get_cpu_capability()}), {str(subject.dtype).removeprefix('torch.')}; {packages}.*",
            f"*{found['tokens']:,} tokens in steps of {subject.rows} x {subject.length}, peak learning rate {subject.rate:g}; "
            f"{int(tokens.sum()):,} tokens of {len(tokens)} held-out documents. {subject.teacher_words}: {own}; "
            f"the student untouched: {untouched}.*",
            "",
            *lines,
            "",
            "In brackets 95 % intervals: bootstrap over documents and seeds, paired by both. Negative is better. *Same seconds*: what "
            "forward KL, or hard labels, would have after as many, interpolated between runs of 1 to 3.4 times the tokens; no figure "
            "where those don't reach.",
            "",
            "<!-- words -->" + old.partition("<!-- words -->")[2],
        ]
    )


def differences(
    by_arm: dict[str, dict[int, dict]], seeds: dict[int, dict], against: str, *, later: bool
) -> list[np.ndarray]:
    """Of each seed, by document: the arm's nats minus those of `against`, after as many tokens or (`later`) as many seconds."""
    gaps = []
    for seed, one in seeds.items():
        shares = [share for share in (FURTHER if later else (1.0,)) if against + further(share) in by_arm]
        curve = [by_arm[against + further(share)].get(seed) for share in shares]
        points = [point for point in curve if point is not None]
        if len(points) < max(len(shares), 2 if later else 1):
            continue
        if not later:
            reference = np.array(points[0]["nll"])
        else:
            times = [point["seconds"] for point in points]
            if not 0.9 * times[0] <= one["seconds"] <= 1.1 * times[-1]:
                return []
            at = np.clip(np.log(one["seconds"]), np.log(times[0]), np.log(times[-1]))
            upper = min(max(int(np.searchsorted(np.log(times), at)), 1), len(times) - 1)
            low, high = np.log(times[upper - 1]), np.log(times[upper])
            part = (at - low) / (high - low)
            reference = (1 - part) * np.array(points[upper - 1]["nll"]) + part * np.array(points[upper]["nll"])
        gaps.append(np.array(one["nll"]) - reference)
    return gaps


def interval(gaps: list[np.ndarray], tokens: np.ndarray) -> tuple[float, float, float]:
    """(mean, low, high) of the difference in nats a token, from draws of documents and of seeds."""
    rng, table = np.random.default_rng(0), np.stack(gaps)
    found = []
    for _ in range(4_000):
        documents = rng.integers(0, len(tokens), len(tokens))
        some = table[rng.integers(0, len(table), len(table))]
        found.append(some[:, documents].sum(1).mean() / tokens[documents].sum())
    low, high = np.quantile(found, (0.025, 0.975))
    return table.sum(1).mean() / tokens.sum(), low, high


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=80_000)
    parser.add_argument("--held-out", type=int, default=48_000)
    parser.add_argument("--seeds", type=int, default=3)
    wanted = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    run(pocket(wanted.tokens, wanted.held_out), arms(), wanted)


if __name__ == "__main__":
    main()
