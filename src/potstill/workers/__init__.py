"""Many machines, one piece of work: who has which part of it, and what happens when one of them dies.

In: a store that has been begun, its text, and machines that Ray has joined (extra `ray`). Out: the store that one process would have
written, byte for byte.

    with joined(address, count=16, model="teacher") as crew:
        for progress in label_with(crew, corpus, folder): ...      # killed? again: what is there is not done twice

One process writes: the one that started the work. Workers hold a teacher and, of what they label, nothing that can't be lost.

cluster.py    joined, Crew: machines through Ray, and workers placed on them
worker.py     Worker: labels shards in a process of its own
labelling.py  label_with: shards given out, what comes back written down, what was lost given out again
"""

from potstill.workers.cluster import Crew, check_ray, joined
from potstill.workers.labelling import label_with
from potstill.workers.worker import Worker

__all__ = ["Crew", "Worker", "check_ray", "joined", "label_with"]
