"""The command line: one file a verb. Nothing heavy is imported until a verb runs, so `potstill --help` answers at once.

A user's mistake ends with one message and exit code 2, an interruption with 130 and what was kept; a traceback is a defect.

app.py       the verbs put together, and what a failure looks like
demo.py compress.py distill.py write.py label.py inspect.py import_labels.py export_labels.py prune.py check.py plan.py preview.py
evaluate.py information.py route.py export.py draft.py report.py recipes.py serve.py   one verb each
fellows.py   one run in many processes: who speaks when one fails
options.py   arguments that several verbs take
running.py   a recipe run from beginning to end
crews.py     workers that share what a command does
staging.py   a run made of runs, from beginning to end
compressing.py  a search from beginning to end
deploying.py after a search: an export, a draft
exporting.py writing for an engine, measuring there
climbers.py  what a person sees of a search
writing.py   writing with a person watching
learning.py  learning curves with a person watching
planning.py  a plan in front of a person
labelling.py labelling with a person watching
routing.py   a calibration with a person watching
drafting.py  a student tried as a draft
serving.py   serving with a person watching
pruning.py   a model cut with a person watching
inspecting.py  a store of soft labels in front of a person
console.py   where a person reads
watching.py  what a person sees while it runs
tables.py    scores on the terminal
"""

from __future__ import annotations


def main() -> None:
    """Run the command line; ends the process."""
    from potstill.cli.app import app

    app()
