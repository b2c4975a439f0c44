"""Does a trainer's gradient depend on how its batch is split? The gradient that one optimizer step saw, read off the parameters.

Four sequences with 11, 3, 7 and 2 predictions that count (the rest is prompt or padding), at once, and one after the other by
gradient accumulation. The reference is the mean forward KL of the 23 predictions, in fp64. Figures are relative distances of
gradients of the whole student: at once from the reference, and one after the other from at once.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from datasets import Dataset
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, Trainer, TrainingArguments

from potstill.losses import ForwardKL, SoftLabelLoss
from potstill.teachers import LiveTeacher
from potstill.training import TrainingSettings, train
from potstill.types import Batch

TOKENS, LENGTH = 53, 14
# Tokens of the prompt, and tokens of the completion, each of which is a prediction that counts; the rest of a row is padding.
Shape = tuple[tuple[int, int], ...]
RAGGED: Shape = ((2, 11), (5, 3), (1, 7), (3, 2))
EQUAL: Shape = ((2, 6),) * 4


@dataclass(frozen=True)
class Split:
    """A trainer's gradient: at once from the reference; in parts from at once, and how much longer, also where all rows count alike."""

    trainer: str
    from_reference: float
    from_at_once: float
    ratio: float
    ratio_of_equal: float


def all_splits() -> tuple[list[Split], dict[str, str]]:
    made, missing, exact = [], {}, reference()
    trainers: dict[str, Callable[[PreTrainedModel, int, Shape], None]] = {
        "potstill, `train`": potstill,
        "TRL, `GKDTrainer` (lmbda 0, beta 0)": trl,
        "Model-Optimizer, `KDTrainer`": modelopt,
        "`transformers.Trainer`, a subclass that returns the mean": by_hand,
    }
    for name, run in trainers.items():
        try:
            whole, parts = (gradient(run, at_once, RAGGED) for at_once in (4, 1))
            ratio_of_equal = length(gradient(run, 1, EQUAL)) / length(gradient(run, 4, EQUAL))
        except ImportError as error:
            missing[name] = str(error)
            continue
        ratio = length(parts) / length(whole)
        made.append(Split(name, distance(whole, exact), distance(parts, whole), ratio, ratio_of_equal))
    return made, missing


def model(seed: int) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    shape = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4}
    special = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    return LlamaForCausalLM(LlamaConfig(vocab_size=TOKENS, **shape, **special, initializer_range=0.3)).eval()


def rows(shape: Shape) -> dict[str, Tensor]:
    ids = torch.randint(3, TOKENS, (len(shape), LENGTH), generator=torch.Generator().manual_seed(4))
    labels, mask = torch.full_like(ids, -100), torch.zeros_like(ids)
    for number, (prompt, counted) in enumerate(shape):
        labels[number, prompt : prompt + counted] = ids[number, prompt : prompt + counted]
        mask[number, : prompt + counted] = 1
        ids[number, prompt + counted :] = 0
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def reference() -> list[Tensor]:
    student, teacher, batch = model(1).double(), model(2).double(), rows(RAGGED)
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    z = student(**inputs).logits[:, :-1].log_softmax(-1)
    with torch.no_grad():
        t = teacher(**inputs).logits[:, :-1].log_softmax(-1)
    loss = (t.exp() * (t - z)).sum(-1)[batch["labels"][:, 1:] != -100].mean()
    return list(torch.autograd.grad(loss, list(student.parameters())))


def gradient(run: Callable[[PreTrainedModel, int, Shape], None], at_once: int, shape: Shape) -> list[Tensor]:
    """What had gathered in each parameter when the optimizer stepped."""
    student, found = model(1), {}
    for name, parameter in student.named_parameters():
        parameter.register_post_accumulate_grad_hook(lambda one, name=name: found.update({name: one.grad.clone()}))
    run(student, at_once, shape)
    return [found[name] for name, _ in student.named_parameters()]


def length(gradient: list[Tensor]) -> float:
    return torch.cat([tensor.double().flatten() for tensor in gradient]).norm().item()


def distance(one: list[Tensor], other: list[Tensor]) -> float:
    a, b = (torch.cat([tensor.double().flatten() for tensor in tensors]) for tensors in (one, other))
    return ((a - b).norm() / b.norm()).item()


@dataclass(frozen=True)
class One:
    """The same batch at every step."""

    batch: Batch

    def from_step(self, step: int) -> Iterator[Batch]:
        while True:
            yield self.batch


def potstill(student: PreTrainedModel, at_once: int, shape: Shape) -> None:
    batch = rows(shape)
    places = torch.arange(LENGTH - 1).expand(len(shape), -1)
    documents = torch.where(batch["attention_mask"][:, :-1] > 0, torch.arange(len(shape))[:, None], -1)
    counted = (batch["labels"][:, 1:] != -100).float()
    whole = Batch(batch["input_ids"][:, :-1], batch["input_ids"][:, 1:], counted, documents, places, places)
    settings = TrainingSettings(steps=1, micro_rows=at_once, max_gradient_norm=1e9)
    next(train(student, LiveTeacher(model(2), size=TOKENS), One(whole), SoftLabelLoss(ForwardKL()), settings))


def trl(student: PreTrainedModel, at_once: int, shape: Shape) -> None:
    from transformers import PreTrainedTokenizerFast
    from trl.experimental.gkd import GKDConfig, GKDTrainer

    with tempfile.TemporaryDirectory() as folder:
        GKDTrainer(
            model=student,
            teacher_model=model(2),
            args=arguments(GKDConfig, folder, at_once, lmbda=0.0, beta=0.0, disable_dropout=False),
            data_collator=collate,
            train_dataset=dataset(shape),
            processing_class=PreTrainedTokenizerFast(tokenizer_object=words(), pad_token="0", eos_token="2"),
        ).train()


def modelopt(student: PreTrainedModel, at_once: int, shape: Shape) -> None:
    from modelopt.torch.distill.plugins.huggingface import KDTrainer

    with tempfile.TemporaryDirectory() as folder:
        KDTrainer(
            student,
            arguments(TrainingArguments, folder, at_once),
            data_collator=collate,
            train_dataset=dataset(shape),
            distill_args={"teacher_model": model(2)},
        ).train()


class MeanTrainer(Trainer):
    """What one writes first."""

    def compute_loss(self, model: PreTrainedModel, inputs: dict[str, Tensor], **_: object) -> Tensor:
        labels = inputs.pop("labels")[:, 1:]
        z = model(**inputs).logits[:, :-1].log_softmax(-1)
        with torch.no_grad():
            t = globals()["model"](2)(**inputs).logits[:, :-1].log_softmax(-1)
        return (t.exp() * (t - z)).sum(-1)[labels != -100].mean()


def by_hand(student: PreTrainedModel, at_once: int, shape: Shape) -> None:
    with tempfile.TemporaryDirectory() as folder:
        settings = arguments(TrainingArguments, folder, at_once)
        MeanTrainer(student, settings, data_collator=collate, train_dataset=dataset(shape)).train()


def arguments(kind: type[TrainingArguments], folder: str, at_once: int, **more: object) -> TrainingArguments:
    return kind(
        output_dir=folder,
        per_device_train_batch_size=at_once,
        gradient_accumulation_steps=4 // at_once,
        max_steps=1,
        bf16=False,
        gradient_checkpointing=False,
        report_to="none",
        save_strategy="no",
        use_cpu=True,
        remove_unused_columns=False,
        disable_tqdm=True,
        logging_strategy="no",
        **more,
    )


def dataset(shape: Shape) -> Dataset:
    batch = rows(shape)
    return Dataset.from_list([{name: batch[name][number].tolist() for name in batch} for number in range(len(shape))])


def collate(items: list[dict[str, list[int]]]) -> dict[str, Tensor]:
    return {name: torch.tensor([item[name] for item in items]) for name in ("input_ids", "attention_mask", "labels")}


def words() -> object:
    from tokenizers import Tokenizer, models

    return Tokenizer(models.WordLevel({str(number): number for number in range(TOKENS)}, unk_token="1"))


if __name__ == "__main__":
    for split in (found := all_splits())[0]:
        print(split)
    print(found[1])
