"""Who writes the text?

In: a file, a folder, a dataset, or the standard library's own source. Out: `Batch`es by step number, in which every
prediction knows its target, its weight and its document.

    corpus = tokenize(read_documents("notes.jsonl", tokenizer=tokenizer), tokenizer)
    train, held_out = corpus.part("train"), corpus.part("held_out")
    batches = PackedBatches(train, length=512, rows=16, seed=0)
    batch = next(batches.from_step(0))

documents.py         read_documents: text, JSONL, Parquet, datasets -> Document, a run of parts that count or are only read
records.py           read_records: rows of JSONL, Parquet and datasets, each with its place
chat.py              a conversation through the tokenizer's template; only the assistant's turns count
standard_library.py  the corpus that every machine with Python has
tokenizing.py        tokenize -> TokenCorpus, flat arrays; bytes a token stands for
judging.py           judge_of: whether what a model wrote is right; choices_among, answer_among: what there is to choose, which is
spelling.py          spelled_tokens: which bytes each stands for
splits.py            train, search, held out: decided by the hash of a document's key
masking.py           MaskedBatches, Masking: windows with tokens hidden, for masked language models
classes.py           ClassBatches: labelled texts, one prediction each, for classifiers
rows.py              padded_rows: texts of several lengths as one batch
packing.py           PackedBatches, ordered_batches: windows of documents side by side; where the shift happens
prompts.py           Prompts, prompts_of: what a model goes on from, for text that it writes itself
preview.py           what will be learned, coloured
"""

from potstill.data.classes import ClassBatches, check_labelled, classes_in_order
from potstill.data.documents import (
    Columns,
    Document,
    Part,
    Tokens,
    documents_of_records,
    read_documents,
)
from potstill.data.judging import Judge, Judging, answer_among, choices_among, judge_of, pattern_of, plain
from potstill.data.masking import MaskedBatches, Masking, masked_in_order
from potstill.data.packing import PackedBatches, PackingReport, best_fit, ordered_batches
from potstill.data.preview import preview
from potstill.data.prompts import Prompts, prompts_of
from potstill.data.records import read_records, source_files
from potstill.data.spelling import spelled_tokens
from potstill.data.splits import Split, place_of, split_of
from potstill.data.standard_library import standard_library_files
from potstill.data.tokenizing import TokenCorpus, check_learnable, tokenize

# Text to learn from, by step number, for each kind of model.
TextBatches = PackedBatches | MaskedBatches | ClassBatches

__all__ = [
    "ClassBatches",
    "Columns",
    "Document",
    "Judge",
    "Judging",
    "MaskedBatches",
    "Masking",
    "PackedBatches",
    "PackingReport",
    "Part",
    "Prompts",
    "Split",
    "TextBatches",
    "TokenCorpus",
    "Tokens",
    "answer_among",
    "best_fit",
    "check_labelled",
    "check_learnable",
    "choices_among",
    "classes_in_order",
    "documents_of_records",
    "judge_of",
    "masked_in_order",
    "ordered_batches",
    "pattern_of",
    "place_of",
    "plain",
    "preview",
    "prompts_of",
    "read_documents",
    "read_records",
    "source_files",
    "spelled_tokens",
    "split_of",
    "standard_library_files",
    "tokenize",
]
