"""A narrower student learns hidden states and attention beside soft labels: a projection, MiniLMv2's relations, and who pulls how hard.

python examples/features.py            (needs nothing: the teacher ships with potstill, the text is Python's own; about two minutes)
"""

import torch

import potstill as ps
from potstill.models import head_of
from potstill.students import cuttable_axes, shape_of_share

LENGTH, ROWS, STEPS = 256, 4, 30

tokenizer, teacher = ps.load_tokenizer("pocket"), ps.load_model("pocket")
documents = [one for one in ps.read_documents("standard-library") if 2_000 < len(one.text) < 20_000][:80]
corpus = ps.tokenize(documents, tokenizer)
learned, held_out = corpus.part("train"), corpus.part("held_out")

# Half of the teacher's parameters: fewer channels and neurons, all its layers and heads.
importance = ps.measure_importance(teacher, learned.select(range(8)), length=LENGTH)
shape = shape_of_share(teacher, dict(cuttable_axes(teacher)), 0.5)


def taught(features: ps.FeatureLoss | None) -> None:
    student, _ = ps.prune(teacher, shape, importance)
    student.float().requires_grad_(True)
    layers, attention = (features.teacher_layers, features.teacher_attention) if features else ((), ())
    marker = ps.LiveTeacher(teacher, size=head_of(teacher).num_tokens, layers=layers, attention=attention)
    batches = ps.PackedBatches(learned, LENGTH, ROWS, seed=0)
    settings = ps.TrainingSettings(steps=STEPS, learning_rate=1e-3)
    for step in ps.train(student, marker, batches, ps.SoftLabelLoss(ps.ForwardKL()), settings, features=features):
        if step.shares:
            print(step.index, {name: f"{share:.0%} of the gradient" for name, share in step.shares.items()})
    found = ps.measure(student, held_out, length=LENGTH)
    print(f"held-out loss: {found.nll.sum() / found.tokens.sum():.3f} nats a token")
    assert not any("projection" in name for name in student.state_dict())


if __name__ == "__main__":
    torch.set_num_threads(1)
    ours, theirs = teacher.config.num_hidden_layers, teacher.config.num_hidden_layers
    projection = ps.Projection(shape.hidden, teacher.config.hidden_size)
    hidden = ps.HiddenLoss(ps.last_layers(1, ours, theirs), distance="cosine", projection=projection)
    relations = ps.AttentionRelationLoss(ps.last_layers(1, ours, theirs), causal=True, weight=0.3, heads=4)
    print("soft labels alone")
    taught(None)
    print("with hidden states and relations")
    taught(ps.FeatureLoss((hidden, relations), shares_every=10))
