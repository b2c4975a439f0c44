"""A teacher's opinions on disk: marked once, in a few bytes a token, for as many students as you like.

In: a `TokenCorpus` and a teacher that gives its whole distribution. Out: a folder of shards, and from it `SoftTargets` for any span
of any document.

    begin_store(folder, manifest, corpus, head)
    for progress in label(teacher, corpus, folder): ...          # killed? again: what is there is not done twice
    store = Store(folder)                                        # teachers.StoredTeacher marks batches with it

manifest.py  Manifest: what the labels are of, and how they were made; the four tiers
sampled.py   tier sampled: an unbiased sample (the default)
topk.py      tier topk: the likeliest tokens and the exact rest
hidden.py    tiers hidden and dense: everything the teacher believes
observed.py  observe: probabilities of a few predictions, and the sums that describe them
noise.py     random numbers that belong to a prediction
streams.py   Encoded, Ragged: what travels between codec and shard
shard.py     write_shard, Shard: one file; docs/soft-label-format.md has its bytes
journal.py   what of a shard is there already
planning.py  which documents have no labels yet, and in which shards they will be
capture.py   begin_store, label, Labeller: from a teacher and a text to a store
foreign.py   likeliest tokens as other tools write them (DistillKit, axolotl, vLLM)
importing.py ForeignLabels, import_labels: a store from those
exporting.py export_labels: a store as a table
sizes.py     size_of_label: what a label will take
statistics.py  describe: what is in a store, in numbers
mirror.py    Mirror, store_at: a store at a URL (s3://...), and its copy here
store.py     Store: labels by document and span
"""

from potstill.soft_labels.capture import Labeller, Progress, Record, begin_store, label
from potstill.soft_labels.exporting import export_labels
from potstill.soft_labels.foreign import Polynomial
from potstill.soft_labels.hidden import Dense, Hidden
from potstill.soft_labels.importing import ForeignLabels, import_labels, most_listed
from potstill.soft_labels.manifest import TIERS, Codec, Manifest
from potstill.soft_labels.mirror import Mirror, copy_of, is_url, store_at
from potstill.soft_labels.observed import SUMS
from potstill.soft_labels.sampled import Sampled
from potstill.soft_labels.sizes import UNLIKE, size_of_label
from potstill.soft_labels.statistics import Description, describe
from potstill.soft_labels.store import Store, document_keys
from potstill.soft_labels.topk import TopK

__all__ = [
    "SUMS",
    "TIERS",
    "UNLIKE",
    "Codec",
    "Dense",
    "Description",
    "ForeignLabels",
    "Hidden",
    "Labeller",
    "Manifest",
    "Mirror",
    "Polynomial",
    "Progress",
    "Record",
    "Sampled",
    "Store",
    "TopK",
    "begin_store",
    "copy_of",
    "describe",
    "document_keys",
    "export_labels",
    "import_labels",
    "is_url",
    "label",
    "most_listed",
    "size_of_label",
    "store_at",
]
