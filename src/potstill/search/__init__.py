"""The smallest student that clears the bar.

In: a `SearchJob`, objects all of them, and a `RunFolder`. Out: events as things happen, `Chosen` the last of them. What is in the
folder already is not done again.

    for event in Search(job, folder).run():
        match event:
            case Decided(what):
                print(what)
            case Chosen(candidate, holds, verdicts):
                print(candidate.name, holds, verdicts)

bar.py          Bar, Evidence, judge: what quality is acceptable, and whether a student has it
ladder.py       Candidate: the shapes there are to choose among, by size
curves.py       where a learning curve is going
smallest.py     next_move: what to do next, from what was measured
job.py          SearchJob: what is searched
kept.py         what was made from what: done again when that has changed
observing.py    what a model does on text and questions, measured once
climbing.py     one candidate, look by look
known.py        what is known already: ladder, standings, verdicts
compression.py  Search: the whole of it, step by step
four_bits.py    the chosen one in four bits; learning through the rounding
timing.py       how fast a shape writes
planning.py     time, disk and memory beforehand
findings.py     what was found, as plain dictionaries
"""

from potstill.search.bar import Bar, Evidence, Verdict, documents_needed, expected_error, judge, margin
from potstill.search.compression import Chosen, Climbing, Decided, Event, Ladder, Redone, Search
from potstill.search.curves import Point, Prediction, predict
from potstill.search.job import LadderWanted, SearchJob, Texts
from potstill.search.ladder import Candidate, Limits, ladder
from potstill.search.smallest import Found, Judge, NoneFound, Standing, Train, next_move
from potstill.search.timing import times_as_fast

__all__ = [
    "Bar",
    "Candidate",
    "Chosen",
    "Climbing",
    "Decided",
    "Event",
    "Evidence",
    "Found",
    "Judge",
    "Ladder",
    "LadderWanted",
    "Limits",
    "NoneFound",
    "Point",
    "Prediction",
    "Redone",
    "Search",
    "SearchJob",
    "Standing",
    "Texts",
    "Train",
    "Verdict",
    "documents_needed",
    "expected_error",
    "judge",
    "ladder",
    "margin",
    "next_move",
    "predict",
    "times_as_fast",
]
