"""A ladder of students cut from one teacher: in width and in depth, distilled and on hard labels, beside ones that begin at random.

    make real-models
    .venv/bin/python benchmarks/prune_ladder.py --text path/to/texts                        (SmolLM2-135M, hours; resumes)
    .venv/bin/python benchmarks/prune_ladder.py --teacher pocket --text standard-library --tokens 1000000 --seeds 3

Width: `potstill prune --to` (channels and neurons, Minitron); depth: a run of layers by what the hidden state turns in it, or the least
turning layers one by one. All students read the same tokens in the same order; soft labels come from potstill's store (`sampled`,
tau 0.05), made once. Scores are on held-out documents, differences paired by document. SmolLM2's text here: the Linux kernel's
documentation (Debian package linux-doc-6.1, its .rst.txt files, 4 to 40 kB each, GPL-2).
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
import warnings
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import asdict, dataclass
from datetime import date
from importlib.metadata import version
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from smollm2 import smollm2
from store import manifest_of
from transformers import AutoModelForCausalLM, PreTrainedModel

from potstill.data import PackedBatches, TokenCorpus, read_documents, tokenize
from potstill.engines import LlamaServer
from potstill.engines.reading import speed_of
from potstill.evaluation import Measurement, measure
from potstill.export import save_gguf
from potstill.losses import ForwardKL, SoftLabelLoss
from potstill.models import faster_dtype, head_of, load_model, load_tokenizer, save_model
from potstill.soft_labels import Sampled, Store, begin_store, label
from potstill.students import (
    Importance,
    Shape,
    cuttable_axes,
    least_influential,
    measure_importance,
    prune,
    shape_of_share,
    sizes_of,
    without_block,
)
from potstill.teachers import LiveTeacher, RememberingTeacher, StoredTeacher
from potstill.training import Cosine, TrainingSettings, train
from potstill.types import Teacher

HERE = Path(__file__).parent
LENGTH = 512
WORDS = "<!-- words -->"
SHARES = (0.60, 0.75, 0.45)
SOFT, HARD = SoftLabelLoss(ForwardKL()), SoftLabelLoss(ForwardKL(), alpha=0.0)
HALF = SoftLabelLoss(ForwardKL(), alpha=0.5)
MEASURES = {"distilled": SOFT, "hard labels": HARD, "half and half": HALF, "corrected teacher": SOFT}
# How fast and how long a copy of the teacher learns the text first: its rate, and the share of the tokens.
CORRECTION_RATE = 1e-4


@dataclass(frozen=True)
class Arm:
    """`cut` of the student, the share it keeps, and how it learns ("untouched": not at all)."""

    cut: str
    share: float
    by: str

    @property
    def name(self) -> str:
        return f"{self.cut} {self.share:.0%}, {self.by}"


def arms() -> Iterator[Arm]:
    """The ones that say most first."""
    first = SHARES[0]
    for by in ("untouched", "distilled", "hard labels"):
        yield Arm("width", first, by)
    for by in ("distilled", "hard labels"):
        yield Arm("width, random", first, by)
    for by in ("untouched", "distilled", "hard labels"):
        yield Arm("depth, a run", first, by)
    for by in ("untouched", "distilled"):
        yield Arm("depth, one by one", first, by)
    yield Arm("width", first, "half and half")
    yield Arm("width", first, "corrected teacher")
    for share in SHARES[1:]:
        for cut in ("width", "depth, a run"):
            for by in ("untouched", "distilled", "hard labels"):
                yield Arm(cut, share, by)


def corpora(source: str, tokenizer, tokens: int, held_out: int) -> tuple[TokenCorpus, TokenCorpus]:
    """(to learn from, held out): beginnings of documents, so that both have many of them; in an order of their own."""
    documents = [one for one in read_documents(source) if 2_000 < len(one.text) < 40_000]
    order = np.random.default_rng(0).permutation(len(documents))
    ends = np.cumsum([min(len(documents[index].text), 10_000) for index in order])
    some = [documents[index] for index in order[: 1 + int(np.searchsorted(ends, 4.5 * (tokens + 12 * held_out)))]]
    corpus = tokenize(some, tokenizer)
    found = []
    for split, most in (("train", tokens), ("held_out", held_out)):
        part = corpus.part(split, held_out=0.10, search=0.05)
        part = part.beginnings(4 * LENGTH if split == "train" else LENGTH, range(len(part)))
        found.append(part.select([d for d in range(len(part)) if part.offsets[d] < most]))
    return found[0], found[1]


def labels_of(teacher: LiveTeacher, learn: TokenCorpus, folder: Path) -> Store:
    begin_store(folder, manifest_of(Sampled(0.05), teacher), learn, head_of(teacher.model))
    for state in label(teacher, learn, folder):
        print(f"labelling: {state}"[:120], flush=True)
    return Store(folder)


def shape_of(arm: Arm, teacher: PreTrainedModel, importance: Importance) -> Shape:
    layers = teacher.config.num_hidden_layers
    gone = layers - round(arm.share * layers)
    if arm.cut.startswith("width"):
        return shape_of_share(teacher, dict(cuttable_axes(teacher)), arm.share)
    return Shape(layers=(least_influential if arm.cut.endswith("one by one") else without_block)(importance, gone))


def student_of(arm: Arm, teacher: PreTrainedModel, importance: Importance, seed: int) -> PreTrainedModel:
    shape = shape_of(arm, teacher, importance)
    student, _ = prune(teacher, shape, importance)
    if arm.cut.endswith("random"):
        torch.manual_seed(seed)
        student = AutoModelForCausalLM.from_config(student.config, dtype=torch.float32)
    return student.requires_grad_(True)


def learned(
    arm: Arm, seed: int, student: PreTrainedModel, marker: Teacher, learn: TokenCorpus, wanted: argparse.Namespace
) -> float:
    """Trains the student; seconds."""
    rate = wanted.random_rate if arm.cut.endswith("random") else wanted.rate
    steps = learn.num_tokens // (wanted.rows * LENGTH)
    schedule = Cosine(warmup=0.1, floor=0.1)
    settings = TrainingSettings(
        steps=steps, learning_rate=rate, schedule=schedule, seed=seed, dtype=faster_dtype("cpu")
    )
    batches = PackedBatches(learn, LENGTH, wanted.rows, seed=seed)
    began = time.perf_counter()
    for step in train(student, marker, batches, MEASURES[arm.by], settings):
        if step.index % max(1, steps // 8) == 0:
            print(f"  {arm.name}, seed {seed}: step {step.index} of {steps}, loss {step.loss:.3f}", flush=True)
    return time.perf_counter() - began


def corrected(teacher: LiveTeacher, learn: TokenCorpus, wanted: argparse.Namespace, out: Path) -> LiveTeacher:
    """A copy of the teacher that has read the same tokens once, from hard labels."""
    kept = out.with_name(f"{out.stem}-corrected")
    if not (kept / "config.json").exists():
        copy = deepcopy(teacher.model).float().requires_grad_(True)
        steps = learn.num_tokens // (wanted.rows * LENGTH)
        schedule = Cosine(warmup=0.1, floor=0.1)
        settings = TrainingSettings(steps, CORRECTION_RATE, schedule, dtype=faster_dtype("cpu"))
        for step in train(copy, None, PackedBatches(learn, LENGTH, wanted.rows), HARD, settings):
            if step.index % max(1, steps // 8) == 0:
                print(f"  correcting the teacher: step {step.index} of {steps}, loss {step.loss:.3f}", flush=True)
        copy.save_pretrained(kept)
    return LiveTeacher(load_model(str(kept)), size=teacher.num_tokens)


def decode_speed(model: PreTrainedModel, tokenizer, prompt: list[int]) -> float:
    """New tokens a second in llama.cpp: one thread, an f16 file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.gguf"
        save_gguf(model, tokenizer, path, "f16")
        with LlamaServer(path, context=512, threads=1) as server:
            return speed_of(server, prompt, new_tokens=64)[1]


def measure_speeds(wanted: argparse.Namespace, out: Path) -> dict:
    """Of the teacher and of every shape that has been trained, in turns and in one go."""
    source = str(smollm2()) if wanted.teacher == "smollm2" else wanted.teacher
    tokenizer, model = load_tokenizer(source), load_model(source)
    importance, found = Importance.load(out.with_suffix(".safetensors")), json.loads(out.read_text("utf-8"))
    prompt = tokenizer("The kernel keeps a list of all devices that are bound to a driver. " * 8)["input_ids"][:128]
    shapes = {f"{arm.cut.removesuffix(', random')} {arm.share:.0%}": arm for arm in arms()}
    models = {"teacher": model} | {name: student_of(arm, model, importance, 0) for name, arm in shapes.items()}
    rounds = [{name: decode_speed(one, tokenizer, prompt) for name, one in models.items()} for _ in range(3)]
    found["speeds"] = {name: sorted(one[name] for one in rounds)[1] for name in models}
    out.write_text(json.dumps(found), "utf-8")
    return found


def kept(found: Measurement) -> dict[str, list[float]]:
    return {name: getattr(found, name).tolist() for name in ("tokens", "nll", "hits", "kl", "agreements")}


def run(wanted: argparse.Namespace, out: Path) -> dict:
    source = str(smollm2()) if wanted.teacher == "smollm2" else wanted.teacher
    tokenizer, model = load_tokenizer(source), load_model(source)
    teacher = LiveTeacher(model, size=head_of(model).num_tokens)
    learn, held_out = corpora(wanted.text, tokenizer, wanted.tokens, wanted.held_out)
    found = json.loads(out.read_text("utf-8")) if out.exists() else {"arms": {}}
    beside = RememberingTeacher(teacher)
    if "teacher" not in found:
        found["teacher"] = kept(measure(model, held_out, length=LENGTH)) | {"sizes": asdict(sizes_of(model))}
    scores = out.with_suffix(".safetensors")
    if not scores.exists():
        began = time.perf_counter()
        few = learn.select(range(min(len(learn), 16)))
        measure_importance(model, few, length=LENGTH).save(scores)
        found["importance"] = {"seconds": time.perf_counter() - began, "tokens": few.num_tokens}
    importance = Importance.load(scores)
    folder = out.with_suffix("")
    store = Store(folder) if folder.exists() else labels_of(teacher, learn, folder)
    marker = StoredTeacher(store, learn, tokenizer="", measure=SOFT)
    found |= {"learn": learn.num_tokens, "documents": len(learn), "held_out": held_out.num_tokens}
    found["dtype"] = str(faster_dtype("cpu")).removeprefix("torch.")
    for seed in range(wanted.seeds):
        for arm in islice(arms(), wanted.arms):
            key = f"{arm.name}/{0 if arm.by == 'untouched' else seed}"
            if key in found["arms"]:
                continue
            student = student_of(arm, model, importance, seed)
            marks = corrected(teacher, learn, wanted, out) if arm.by == "corrected teacher" else marker
            seconds = 0.0 if arm.by == "untouched" else learned(arm, seed, student, marks, learn, wanted)
            sums = kept(measure(student, held_out, length=LENGTH, teacher=beside))
            found["arms"][key] = sums | {"seconds": seconds, "sizes": asdict(sizes_of(student))}
            if wanted.keep and arm.by != "untouched":
                save_model(
                    student, tokenizer, folder.with_name(f"{folder.name}-students") / key.replace("/", ", seed ")
                )
            out.write_text(json.dumps(found), "utf-8")
            leave_page(found, wanted)
            mean = np.sum(sums["nll"]) / np.sum(sums["tokens"])
            print(f"{key}: {mean:.3f} nats, accuracy {np.sum(sums['hits']) / np.sum(sums['tokens']):.1%}", flush=True)
    return found


def page(found: dict, wanted: argparse.Namespace) -> str:
    """What is finished: a row an arm, over all its seeds."""
    teacher = {name: np.array(found["teacher"][name]) for name in ("tokens", "nll", "hits")}
    tokens = teacher["tokens"]
    draws = np.random.default_rng(0).integers(0, len(tokens), (4_000, len(tokens)))

    def interval(values: np.ndarray, over: np.ndarray) -> tuple[float, float, float]:
        """(sum over documents / the other sum, and its 95 % interval)."""
        low, high = np.quantile(values[draws].sum(1) / over[draws].sum(1), (0.025, 0.975))
        return values.sum() / over.sum(), low, high

    rows = []
    for arm in arms():
        seeds = [one for key, one in found["arms"].items() if key.rpartition("/")[0] == arm.name]
        if not seeds:
            continue
        sums = {name: np.mean([one[name] for one in seeds], 0) for name in ("nll", "hits", "kl", "agreements")}
        mean, low, high = interval(sums["nll"], tokens)
        kept, kept_low, kept_high = interval(sums["hits"], teacher["hits"])
        against = ""
        others = [
            one
            for key, one in found["arms"].items()
            if key.rpartition("/")[0] == Arm(arm.cut, arm.share, "hard labels").name
        ]
        if arm.by not in ("untouched", "hard labels") and others:
            hard = np.mean([one["nll"] for one in others], 0)
            against = "{:+.3f} ({:+.3f} to {:+.3f})".format(*interval(sums["nll"] - hard, tokens))
        size = seeds[0]["sizes"]["model"]["non_embedding"]
        rows.append(
            f"| {arm.cut} | {arm.by} | {size / 1e6:.1f} M | {mean:.3f} ({low:.3f} to {high:.3f}) | {against} | "
            f"{kept:.1%} ({kept_low:.1%} to {kept_high:.1%}) | {sums['agreements'].sum() / tokens.sum():.1%} | "
            f"{sums['kl'].sum() / tokens.sum():.3f} | {speed_in(found, arm)} | {len(seeds)} |"
        )
    own = teacher["nll"].sum() / tokens.sum()
    right = teacher["hits"].sum() / tokens.sum()
    size = found["teacher"]["sizes"]["model"]["non_embedding"]
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "xllamacpp"))
    speeds = found.get("speeds")
    writes = (
        "" if speeds is None else f", writes {speeds['teacher']:.0f} tokens/s (llama.cpp, f16, one thread, 64 tokens)"
    )
    return "\n".join(
        [
            f"# A ladder of students: {wanted.name}",
            "",
            f"*{date.today().isoformat()}; `benchmarks/prune_ladder.py`; {os.cpu_count()} cores "
            f"({torch.backends.cpu.get_cpu_capability()}), students trained in {found['dtype']}; {packages}.*",
            f"*{found['learn']:,} tokens of {Path(wanted.text).name} read once in steps of {wanted.rows} x {LENGTH}; loss on "
            f"{int(tokens.sum()):,} tokens of {len(tokens)} held-out documents. The teacher: {size / 1e6:.1f} M parameters without",
            f"embeddings, loss {own:.3f}, next token right {right:.1%}{writes}.*",
            "",
            "| cut | learns by | not embeddings | loss, nats | minus hard labels' | accuracy kept | agrees | KL to teacher "
            "| writes | seeds |",
            "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
            *rows,
            "",
            "In brackets 95 % intervals from a bootstrap over documents, of means over seeds; differences are paired by document.",
            "",
        ]
    )


def leave_page(found: dict, wanted: argparse.Namespace) -> None:
    """The page, with the words that stood below its mark."""
    path = HERE / f"prune_ladder_{wanted.name}.md"
    _, mark, words = path.read_text("utf-8").partition(WORDS) if path.exists() else ("", "", "")
    path.write_text(page(found, wanted) + (f"\n{mark}{words}" if mark else ""), "utf-8")


def speed_in(found: dict, arm: Arm) -> str:
    speed = found.get("speeds", {}).get(f"{arm.cut.removesuffix(', random')} {arm.share:.0%}")
    return "" if speed is None else f"{speed:.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", default="smollm2")
    parser.add_argument("--text", required=True)
    parser.add_argument("--tokens", type=int, default=130_000)
    parser.add_argument("--held-out", type=int, default=24_000)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--arms", type=int, default=99, help="the first so many")
    parser.add_argument("--name", help="of the page; the teacher's if left out")
    parser.add_argument("--keep", action="store_true", help="the students too, in runs/")
    parser.add_argument("--speeds", action="store_true", help="train nothing: measure how fast each shape writes")
    parser.add_argument("--rows", type=int, default=2)
    parser.add_argument("--rate", type=float, default=5e-4)
    parser.add_argument("--random-rate", type=float, default=1e-3)
    wanted = parser.parse_args()
    warnings.filterwarnings("ignore")
    wanted.name = wanted.name or wanted.teacher
    out = Path("runs") / f"prune_ladder_{wanted.name}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    found = measure_speeds(wanted, out) if wanted.speeds else run(wanted, out)
    leave_page(found, wanted)
    print(page(found, wanted))


if __name__ == "__main__":
    main()
