"""Text that a teacher wrote, filtered: what is to be learned when there is no corpus, or only questions.

In: prompts, and a model here or on a server. Out: rows of prompt and completion that `data.read_documents` reads.

    prompts = read_prompts("questions.jsonl", columns=PromptColumns(prompt="question"))
    writer = LocalWriter(model, tokenizer, Sampling(temperature=0.7, best_of=4))
    selection = Selection((judged("exact", judge_of("exact")),), Duplicates(similar=0.8))
    with Journal(Path("written/journal.jsonl"), {"model": "teacher"}) as journal:
        for progress in write(prompts, writer, journal): ...          # killed? again: what is there is not written twice
        selected = select(prompts, journal, selection)
        write_rows(Path("written/written.jsonl"), rows(prompts, journal, selected, selection))

prompts.py     read_prompts: rows with a prompt or a conversation, perhaps with the right answer
samples.py     Sampling, Sample, Written, Writer: what is asked of a writer, and what comes back
local.py       LocalWriter: a model on this machine
drawing.py     the next token, by numbers that belong to the prompt
server.py      ServerWriter: an OpenAI-compatible server, several prompts at a time
asking.py      one request until it is answered: waits, Retry-After, rate
replies.py     requests and replies of OpenAI's API
journal.py     what is written already
work.py        write: each prompt once; totals and cost
filters.py     what is kept: judged, found_in, likely, long_enough; the rationale taken apart
duplicates.py  equal and similar texts
selecting.py   select: filters, the best of several, no duplicates
records.py     rows to learn from; two tasks a prompt for distilling step by step
"""

from potstill.writing.asking import Server
from potstill.writing.duplicates import Duplicates
from potstill.writing.filters import Filter, Rationale, found_in, judged, likely, long_enough
from potstill.writing.journal import Journal, begun_with
from potstill.writing.local import LocalWriter
from potstill.writing.prompts import Framing, Prompt, PromptColumns, fingerprint_of_prompts, read_prompts
from potstill.writing.records import Steps, answers, rows, write_rows
from potstill.writing.replies import Asking
from potstill.writing.samples import Sample, Sampling, Unanswered, Writer, Written
from potstill.writing.selecting import Selected, Selection, select
from potstill.writing.server import ServerWriter
from potstill.writing.work import Price, Progress, Totals, totals, write

__all__ = [
    "Asking",
    "Duplicates",
    "Filter",
    "Framing",
    "Journal",
    "LocalWriter",
    "Price",
    "Progress",
    "Prompt",
    "PromptColumns",
    "Rationale",
    "Sample",
    "Sampling",
    "Selected",
    "Selection",
    "Server",
    "ServerWriter",
    "Steps",
    "Totals",
    "Unanswered",
    "Writer",
    "Written",
    "answers",
    "begun_with",
    "fingerprint_of_prompts",
    "found_in",
    "judged",
    "likely",
    "long_enough",
    "read_prompts",
    "rows",
    "select",
    "totals",
    "write",
    "write_rows",
]
