"""Tasks of lm-evaluation-harness as a measure: its prompts, its judging, question by question (extra `lm-eval`).

A task goes by its name in the harness, whose data then come from the hub, or is a YAML file of one's own, whose data may lie beside it
(`dataset_path: json`, `dataset_kwargs: {data_files: ...}`).
"""

from __future__ import annotations

import inspect
import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from copy import deepcopy
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from potstill.errors import DataError, MissingExtraError
from potstill.models.asking import device_of, evaluating

# Of what a task gives each question, the first of these is the score, unless another is asked for.
_SCORES = ("acc_norm", "acc", "exact_match", "f1", "em")
_ROWS, _SEED = 8, 1234  # the seed of few-shot examples that the harness itself takes


@dataclass(frozen=True)
class HarnessTask:
    """Some questions of a task of the harness, by number.

    score        which of the task's own scores is taken: 0 to 1 a question
    fingerprint  of the task's settings and documents
    """

    name: str
    items: tuple[int, ...]
    score: str
    fingerprint: str
    task: Any = field(compare=False, repr=False)

    def split(self) -> tuple[HarnessTask, HarnessTask]:
        """(a third to choose by, two thirds to judge by), by the hash of the question's text."""
        documents = list(self.task.eval_docs)
        thirds = [_hash(json.dumps(documents[number], sort_keys=True, default=str)) % 3 for number in self.items]
        parts = [
            tuple(n for n, third in zip(self.items, thirds, strict=True) if (third == 0) is first)
            for first in (True, False)
        ]
        if min(len(part) for part in parts) < 2:
            raise DataError(
                f"the task {self.name} has {len(self.items)} questions, too few to choose by some and judge by others"
            )
        chosen_by, judged_by = (replace(self, items=part) for part in parts)
        return chosen_by, judged_by


def read_task(wanted: str, *, score: str = "") -> HarnessTask:
    """The task of that name, or the one a YAML file describes. DataError where there is none, or nothing in it is a score."""
    with _quiet():
        TaskManager = _harness().tasks.TaskManager  # noqa: N806  # a class of theirs
        path, name = Path(wanted).expanduser(), wanted
        is_file = path.suffix in (".yaml", ".yml")
        if is_file:
            name = _name_in(path)
        # The harness's own thousands of files are read only for a task that is among them.
        manager = TaskManager(include_path=str(path.parent) if is_file else None, include_defaults=not is_file)
        if name not in manager.all_subtasks:
            kind = "a group of tasks: name one of them" if name in manager.all_tasks else "no task of lm-eval"
            raise DataError(f"{wanted} is {kind} (`lm_eval ls tasks` lists them; or give a YAML file of your own)")
        try:
            task = manager.load(name)["tasks"][name]
            documents = list(task.eval_docs)
        except (OSError, ValueError, KeyError, ConnectionError) as error:
            raise DataError(
                f"the task {wanted} can't be read: {error}. Its data come from where its YAML says (a file, or the hub)"
            ) from error
    found = score or next((one for one in _SCORES if one in task.aggregation()), "")
    if found not in task.aggregation():
        raise DataError(
            f"the task {name} has no score {found or 'of 0 to 1 a question'!r}: choose among {', '.join(task.aggregation())}"
        )
    said = json.dumps([task.dump_config(), documents], sort_keys=True, default=_said)
    fingerprint = f"{name} {found} {blake2b(said.encode(), digest_size=16).hexdigest()}"
    return HarnessTask(name, tuple(range(len(documents))), found, fingerprint, task)


def task_scores(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, asked: HarnessTask, *, length: int
) -> NDArray[np.float64]:
    """[questions]: each one's score, as the harness gives it."""
    # Each call has the same few-shot examples, and the tokenizer stays as it is: the harness gives the one it gets a padding token.
    asked.task.set_fewshot_seed(_SEED)
    tokenizer = deepcopy(tokenizer)
    with _quiet(), evaluating(model):
        settings: dict[str, Any] = {"max_length": length, "batch_size": _ROWS, "device": str(device_of(model))}
        harness = _harness().models.huggingface.HFLM(pretrained=model, tokenizer=tokenizer, **settings)
        # Not simple_evaluate: it seeds torch, and reads thousands of task files anew at every call.
        found = _harness().evaluator.evaluate(
            lm=harness,
            task_dict={"tasks": {asked.name: asked.task}, "groups": {}, "group_map": {}},
            samples={asked.name: list(asked.items)},
            bootstrap_iters=0,
            log_samples=True,
        )
    assert found is not None
    return _in_order(found["samples"][asked.name], asked)


def _in_order(samples: Sequence[Mapping[str, Any]], asked: HarnessTask) -> NDArray[np.float64]:
    """A task with several filters gives each question several scores; the first filter's is the task's own."""
    first = samples[0].get("filter", "none")
    scores = {int(one["doc_id"]): float(one[asked.score]) for one in samples if one.get("filter", "none") == first}
    missing = [number for number in asked.items if number not in scores]
    if missing:
        raise DataError(f"lm-eval left {len(missing)} questions of {asked.name} without a score")
    return np.array([scores[number] for number in asked.items], float)


def _harness() -> Any:
    try:
        import lm_eval
        import lm_eval.evaluator
        import lm_eval.models.huggingface
        import lm_eval.tasks
    except ImportError as error:
        raise MissingExtraError(
            "lm-eval", extra="lm-eval", purpose="A task of lm-evaluation-harness as a bar"
        ) from error
    return lm_eval


def _name_in(path: Path) -> str:
    """The `task:` that a file describes."""
    import yaml

    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"the task {path} can't be read: {error}") from error
    for line in lines:
        if line.startswith("task:"):
            return str(yaml.safe_load(line)["task"])
    raise DataError(f"{path} describes no task: it has no line `task: NAME`")


def _said(value: object) -> str:
    """The same in every process: functions by their source, other things without where they lie in memory."""
    if inspect.isroutine(value):
        return inspect.getsource(value)
    return re.sub(r" at 0x[0-9a-f]+", "", str(value))


def _hash(text: str) -> int:
    return blake2b(text.encode(), digest_size=2).digest()[0]


@contextmanager
def _quiet() -> Iterator[None]:
    """The harness logs every step, and draws bars that nothing else turns off."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with redirect_stderr(StringIO()):
            yield
    finally:
        logger.setLevel(level)
