import sys
from math import exp
from pathlib import Path

import potstill as ps

teacher, student, text, out = sys.argv[1:]
tokenizer, model = ps.load_tokenizer(teacher), ps.load_model(student).float()
corpus = ps.tokenize(ps.read_documents(text), tokenizer)
marker = ps.LiveTeacher(ps.load_model(teacher), size=len(tokenizer))
batches = ps.PackedBatches(corpus.part("train"), length=256, rows=4)
settings = ps.TrainingSettings(steps=2, learning_rate=1e-4)
for step in ps.train(model, marker, batches, ps.SoftLabelLoss(ps.ForwardKL()), settings):
    print(step.index, step.loss)
measured = ps.measure(model, corpus.part("held_out"), length=256, size=len(tokenizer))
print("perplexity", exp(ps.score(measured, "nats_per_token").value))
ps.save_model(model, tokenizer, Path(out))
