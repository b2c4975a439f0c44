"""Many machines, one piece of work: who has which part of it, and what happens when one of them dies.

In: a store that has been begun and its text, or prompts and a model that writes; and machines that Ray has joined (extra `ray`). Out:
the labels and the text that one process would have made, byte for byte.

    with joined(address, count=16, model="teacher") as crew:
        for progress in label_with(crew, corpus, folder): ...      # killed? again: what is there is not done twice
        for progress in write(prompts, CrewWriter(crew, writer, fingerprint, tokenizer), journal): ...

One process keeps what is made: the one that started the work. Workers hold a teacher and, of what they do, nothing that can't be lost.

cluster.py    joined, Crew: machines through Ray, and workers placed on them
sharing.py    shared: parts given out, what comes back kept, what was lost given out again
loading.py    the teacher on a worker's machine: the one that is meant, under the same versions
labelling.py  label_with: the shards of a store
worker.py     Worker: labels shards in a process of its own
writing.py    CrewWriter: prompts; WritingWorker: writes in a process of its own
"""

from potstill.workers.cluster import Crew, check_ray, joined
from potstill.workers.labelling import label_with
from potstill.workers.worker import Worker
from potstill.workers.writing import CrewWriter, WritingWorker

__all__ = ["Crew", "CrewWriter", "Worker", "WritingWorker", "check_ray", "joined", "label_with"]
