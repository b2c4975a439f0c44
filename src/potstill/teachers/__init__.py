"""Who marks it? A teacher turns a Batch into SoftTargets: what it believes at each prediction that counts.

Whoever has `num_tokens` and `label` is one; training and evaluation know no more of it.

    size = shared_vocabulary(teacher_tokenizer, student_tokenizer, teacher_rows=151_936, student_rows=152_064)
    teacher = LiveTeacher(load_model("teacher/"), size=size)       # a model in memory, frozen
    targets = teacher.label(batch)                                 # DenseTargets: hidden states and a head

    live.py        LiveTeacher                                 a model marks as the student reads
    tensor_parallel.py TensorParallelTeacher                   a group of processes runs it, each a part of its layers
    stored.py      StoredTeacher, on_device                    what it said is on disk
    translated.py  TranslatedTeacher                           its tokenizer is not the student's
    alignment.py   shared_spans, Retelling                     two tokenizations of one text
    remembering.py RememberingTeacher                          marks the same text once, for several models
    mixture.py     MixtureTeacher                              several who mark together, weighed
    routed.py      RoutedTeacher                               several, each for its own documents
    averaged.py    AveragedTeacher                             the average of the student's own past
    smoothing.py   SmoothingTeacher                            knows the text alone, and is as unsure as a teacher: a control
    controls.py    ArgmaxTeacher, PermutedTeacher, PartTeacher  a teacher of whom something was taken; who marks a part of a text
    fake.py        FakeTeacher                                 a test double: depends on the last token read only
    vocabulary.py  shared_predictions, check_chat_rendering    do teacher and student mean the same by a token, a class, a chat?
"""

from potstill.teachers.averaged import AveragedTeacher
from potstill.teachers.controls import ArgmaxTeacher, PartTeacher, PermutedTeacher
from potstill.teachers.fake import FakeTeacher
from potstill.teachers.live import LiveTeacher
from potstill.teachers.mixture import MixtureTeacher
from potstill.teachers.remembering import RememberingTeacher
from potstill.teachers.routed import RoutedTeacher, is_stored, stored_among
from potstill.teachers.smoothing import SmoothingTeacher, entropies, smoothing_of_entropy
from potstill.teachers.stored import StoredTeacher, check_serves, on_device
from potstill.teachers.tensor_parallel import TensorParallelTeacher
from potstill.teachers.translated import Coverage, TranslatedTeacher
from potstill.teachers.vocabulary import check_chat_rendering, shared_predictions, shared_vocabulary

__all__ = [
    "ArgmaxTeacher",
    "AveragedTeacher",
    "Coverage",
    "FakeTeacher",
    "LiveTeacher",
    "MixtureTeacher",
    "PartTeacher",
    "PermutedTeacher",
    "RememberingTeacher",
    "RoutedTeacher",
    "SmoothingTeacher",
    "StoredTeacher",
    "TensorParallelTeacher",
    "TranslatedTeacher",
    "check_chat_rendering",
    "check_serves",
    "entropies",
    "is_stored",
    "on_device",
    "shared_predictions",
    "shared_vocabulary",
    "smoothing_of_entropy",
    "stored_among",
]
