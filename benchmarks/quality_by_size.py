"""Quality against size: the pocket teacher cut to seven sizes, each taught by it, each taught by the text alone, each untouched.

    .venv/bin/python benchmarks/quality_by_size.py              (minutes a size on 2 cores, offline; resumes)

Each size is one run as `potstill distill` makes it, with its control. Writes quality_by_size.md and the picture of README.md,
docs/pictures/quality_by_size.svg, which is drawn from that table: with --draw alone.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from potstill.cli.console import new_console
from potstill.cli.running import run_recipe
from potstill.evaluation import ModelScores
from potstill.recipe import decode
from potstill.reports import Chart, Curve
from potstill.reports.charts import svg_file
from potstill.runs import RunScores

HERE = Path(__file__).parent
PAGE, PICTURE = HERE / "quality_by_size.md", HERE.parent / "docs" / "pictures" / "quality_by_size.svg"
SHARES = (0.85, 0.70, 0.60, 0.50, 0.40, 0.30, 0.20)
# Rows of the scores, as the page calls them; the first is highlighted.
TAUGHT = {"distilled": "taught by the teacher", "hard_labels": "taught by the text alone", "untouched": "not taught"}
FIGURE = re.compile(r"(\d+\.\d)% \((\d+\.\d)% to (\d+\.\d)%\)")


def scores_of_share(share: float, out: Path) -> tuple[RunScores, Mapping]:
    recipe = decode(
        {
            "name": f"quality-{share:.0%}",
            "teacher": {"model": "pocket"},
            "student": {"kind": "prune", "to": share},
            "data": {"source": "standard-library"},
            "training": {"tokens": 160_000, "length": 512, "rows": 2, "learning_rate": 1.5e-3},
            "evaluation": {"tokens": 30_000, "control": True, "speed": False},
        }
    )
    folder = out / f"{share:.0%}".rstrip("%")
    scores = run_recipe(recipe, folder, new_console())
    return scores, json.loads((folder / "manifest.json").read_text("utf-8"))


def kept(model: ModelScores) -> str:
    found = model.kept["accuracy"]
    return f"{found.value:.1%} ({found.low:.1%} to {found.high:.1%})"


def page(found: Sequence[tuple[RunScores, Mapping]]) -> Iterator[str]:
    manifest = found[0][1]
    run, machine, versions = manifest["run"], manifest["machine"], manifest["versions"]
    whole = found[0][0].sizes["teacher"].non_embedding
    yield "# Quality against size"
    yield ""
    yield f"*{manifest['date'][:10]}; `benchmarks/quality_by_size.py`; {machine['cores']} cores ({machine['instructions']}),"
    yield f"{run['dtype']}; torch {versions['torch']}, transformers {versions['transformers']}.*"
    yield ""
    yield f"The pocket teacher ({whole / 1e6:.2f} M parameters that are not embeddings) cut in width by importance (`student.kind` is"
    yield "`prune`); each student reads 160,000 tokens of the standard library in steps of 2 x 512, taught by the teacher (forward"
    yield "KL) or by the text alone. In the cells: how much of the teacher's next-token accuracy is kept on held-out files; in brackets"
    yield "95 % intervals, from a bootstrap over files."
    yield ""
    yield f"| size | not embeddings | {' | '.join(TAUGHT.values())} |"
    yield f"| ---: | ---: |{' ---: |' * len(TAUGHT)}"
    for scores, _ in found:
        models = {model.name: model for model in scores.models}
        size = scores.sizes["distilled"].non_embedding
        yield f"| {size / whole:.1%} | {size / 1e6:.2f} M | {' | '.join(kept(models[name]) for name in TAUGHT)} |"
    yield ""
    yield "One seed, a cosine schedule. The [demo](demo.md) searches on a schedule of another kind, from stored labels, and its figures for"
    yield "half of the size are a little lower."
    yield ""
    yield "![quality against size](../docs/pictures/quality_by_size.svg)"


def drawing(page: str) -> str:
    """The picture, from the table of the page."""
    rows = [line.split(" | ") for line in page.splitlines() if FIGURE.search(line)]
    sizes = [float(row[0].strip("|% ")) for row in rows]
    curves = []
    for place, name in enumerate(TAUGHT.values()):
        figures = [[float(one) for one in FIGURE.findall(row[2 + place])[0]] for row in rows]
        value, low, high = zip(*figures, strict=True)
        curves.append(Curve(name, sizes, value, place == 0, low, high))
    return svg_file(
        Chart(
            "Quality against size",
            "size, % of the teacher's parameters (embeddings not counted)",
            "% of the teacher's next-token accuracy that is kept",
            curves,
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs") / "quality_by_size")
    parser.add_argument("--draw", action="store_true", help="the picture alone, from the page that is there")
    wanted = parser.parse_args()
    if not wanted.draw:
        PAGE.write_text("\n".join(page([scores_of_share(share, wanted.out) for share in SHARES])) + "\n", "utf-8")
    PICTURE.parent.mkdir(exist_ok=True)
    PICTURE.write_text(drawing(PAGE.read_text("utf-8")), "utf-8")


if __name__ == "__main__":
    main()
