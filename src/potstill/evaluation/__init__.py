"""How good is it, how sure are we?

In: a model, a held-out `TokenCorpus`, perhaps a teacher. Out: a `Measurement`, sums a document, and from it `Score`s with
intervals: of one model, of what a student keeps of its teacher, of the difference between two.

    found = measure(student, held_out, length=512, teacher=teacher, size=teacher.num_tokens)
    print(score(found, "perplexity"), retention(found, of_teacher, "accuracy"))
    print(score_table(compare({"teacher": of_teacher, "untouched": of_untouched, "distilled": found})))

measuring.py   one pass over the text: tokens, nats, hits, KL, agreements, calibration bins, a document
scores.py      metrics, retention and differences, with a bootstrap over documents
learning_curves.py  quality over the size of the text; how much text some labels save
information.py what one soft label tells beyond a hard one: bits, equivalents
comparison.py  several models side by side: rows of scores, JSON, a Markdown table
questions.py   a user's own questions: exact, choice, regex, a Python function
harness.py     tasks of lm-evaluation-harness
breakdown.py   where student and teacher part, word for word; copying and repetition
speed.py       prefill and decode tokens a second
"""

from potstill.evaluation.comparison import (
    ModelScores,
    compare,
    load_scores,
    save_scores,
    score_table,
    scores_to_json,
)
from potstill.evaluation.harness import HarnessTask, read_task
from potstill.evaluation.information import LabelInformation, label_figures, label_information
from potstill.evaluation.learning_curves import (
    QUALITIES,
    LearningCurve,
    Multiplier,
    differences,
    multipliers,
    scores_of_curve,
)
from potstill.evaluation.measuring import Measurement, measure, measure_teacher
from potstill.evaluation.questions import Question, Questions, answer_scores, read_questions
from potstill.evaluation.scores import LOWER_IS_BETTER, METRICS, NEEDS_TEACHER, difference, retention, score
from potstill.evaluation.speed import Speed, speed

__all__ = [
    "LOWER_IS_BETTER",
    "METRICS",
    "NEEDS_TEACHER",
    "QUALITIES",
    "HarnessTask",
    "LabelInformation",
    "LearningCurve",
    "Measurement",
    "ModelScores",
    "Multiplier",
    "Question",
    "Questions",
    "Speed",
    "answer_scores",
    "compare",
    "difference",
    "differences",
    "label_figures",
    "label_information",
    "load_scores",
    "measure",
    "measure_teacher",
    "multipliers",
    "read_questions",
    "read_task",
    "retention",
    "save_scores",
    "score",
    "score_table",
    "scores_of_curve",
    "scores_to_json",
    "speed",
]
