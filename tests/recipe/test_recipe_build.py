from dataclasses import fields

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from potstill.losses import DIVERGENCES, AlphaBeta, ForwardKL, SoftLabelLoss
from potstill.recipe import build_measure, build_schedule, build_settings, build_student, decode, num_steps
from potstill.recipe.mistakes import _kinds
from potstill.recipe.schema import LossTable, Recipe, TrainingTable
from potstill.training import Constant, Cosine, Linear


def recipe_with(**tables: dict[str, object]) -> Recipe:
    return decode(
        {
            "teacher": {"model": "big"},
            "student": {"kind": "copy_layers", "layers": 2},
            "data": {"source": "x"},
            "training": {"steps": 1},
            **tables,
        }
    )


def test_every_divergence_of_the_losses_can_be_asked_for_with_its_own_defaults() -> None:
    kinds = _kinds(LossTable, "divergence")
    assert kinds.keys() == DIVERGENCES.keys()
    for kind, divergence in DIVERGENCES.items():
        found = build_measure(recipe_with(loss={"divergence": {"kind": kind}}).loss).divergence
        assert found == divergence()


def test_the_loss_is_what_the_recipe_says() -> None:
    assert build_measure(recipe_with().loss) == SoftLabelLoss(ForwardKL(), temperature=1.0, alpha=1.0)
    loss = {"temperature": 2, "alpha": 0.5, "divergence": {"kind": "alpha_beta", "alpha": 0.3, "beta": 0.4}}
    assert build_measure(recipe_with(loss=loss).loss) == SoftLabelLoss(AlphaBeta(0.3, 0.4), temperature=2.0, alpha=0.5)


@pytest.mark.parametrize(
    ("table", "schedule"),
    [
        ({"kind": "cosine"}, Cosine(0.05, 0.0)),
        ({"kind": "cosine", "warmup": 0.1, "floor": 0.2}, Cosine(0.1, 0.2)),
        ({"kind": "linear", "warmup": 0.1, "floor": 0.2}, Linear(0.1, 0.2)),
        ({"kind": "constant", "warmup": 0.3}, Constant(0.3)),
    ],
)
def test_the_schedule_is_what_the_recipe_says(table: dict[str, object], schedule: object) -> None:
    assert build_schedule(recipe_with(training={"steps": 1, "schedule": table}).training.schedule) == schedule


def test_every_setting_of_the_loop_comes_from_the_recipe() -> None:
    asked = {
        "steps": 7,
        "rows": 8,
        "learning_rate": 0.5,
        "micro_rows": 3,
        "weight_decay": 0.25,
        "beta1": 0.1,
        "beta2": 0.2,
        "max_gradient_norm": 9.0,
        "skip_spikes": 7.0,
        "gradient_checkpointing": True,
        "compile_loss": True,
        "checkpoint_every": 11,
        "seed": 13,
        "schedule": {"kind": "constant"},
    }
    settings = build_settings(recipe_with(training=asked).training, steps=5, dtype=torch.bfloat16, tensor_parallel=True)
    default = build_settings(recipe_with().training, steps=1, dtype=torch.float32)
    assert (settings.steps, settings.betas, settings.checkpoint_every, settings.seed) == (5, (0.1, 0.2), 11, 13)
    assert [f.name for f in fields(settings) if getattr(settings, f.name) == getattr(default, f.name)] == []


def test_how_long_is_tokens_steps_or_epochs() -> None:
    def steps(**length: float) -> int:
        return num_steps(TrainingTable(**length), tokens_per_step=100, steps_per_epoch=40.0)  # type: ignore[arg-type]

    assert steps(steps=7) == 7
    assert steps(tokens=1000) == 10
    assert steps(tokens=1001) == 11
    assert steps(epochs=2) == 80
    assert steps(epochs=0.001) == 1


def test_a_student_is_built_as_described() -> None:
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2, "vocab_size": 32}
    teacher = LlamaForCausalLM(LlamaConfig(num_hidden_layers=5, **sizes))
    layers = teacher.model.layers

    def first_weights(student: dict[str, object]) -> list[torch.Tensor]:
        built, _ = build_student(recipe_with(student=student).student, teacher)
        return [layer.mlp.up_proj.weight for layer in built.model.layers]

    def copied(weights: list[torch.Tensor]) -> list[int]:
        return [
            next(i for i, layer in enumerate(layers) if torch.equal(layer.mlp.up_proj.weight, weight))
            for weight in weights
        ]

    assert copied(first_weights({"kind": "copy_layers", "layers": 3})) == [0, 2, 4]
    assert copied(first_weights({"kind": "copy_layers", "layers": 3, "choose": "first_last"})) == [0, 1, 4]
    assert copied(first_weights({"kind": "copy_layers", "layers": [3, 1]})) == [3, 1]
    fresh = first_weights({"kind": "fresh", "changes": {"intermediate_size": 8}, "seed": 3})
    assert [weight.shape[0] for weight in fresh] == [8] * 5
