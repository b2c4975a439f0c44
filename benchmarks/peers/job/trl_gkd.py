import sys
from math import exp

import torch
from datasets import load_dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, default_data_collator
from trl.experimental.gkd import GKDConfig, GKDTrainer

teacher, student, text, out = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(teacher)
tokenizer.pad_token = tokenizer.eos_token


def packed(batch):
    ids = [token for document in batch["text"] for token in [*tokenizer(document)["input_ids"], tokenizer.eos_token_id]]
    rows = [ids[start : start + 256] for start in range(0, len(ids) - 255, 256)]
    return {"input_ids": rows, "labels": rows, "attention_mask": [[1] * 256] * len(rows)}


documents = load_dataset("text", data_dir=text, sample_by="document", split="train").train_test_split(0.1, seed=0)
data = documents.map(packed, batched=True, remove_columns="text")
settings = GKDConfig(
    out,
    max_steps=2,
    per_device_train_batch_size=4,
    learning_rate=1e-4,
    lmbda=0.0,
    beta=0.0,
    bf16=False,
    report_to="none",
    use_cpu=True,
)
trainer = GKDTrainer(
    AutoModelForCausalLM.from_pretrained(student, dtype=torch.float32),
    AutoModelForCausalLM.from_pretrained(teacher, dtype=torch.float32),
    settings,
    data_collator=default_data_collator,
    train_dataset=data["train"],
    processing_class=tokenizer,
)
trainer.train()
trainer.save_model(out)
# Its own evaluation gives the divergence; perplexity needs another trainer.
measured = Trainer(trainer.model, trainer.args, data_collator=default_data_collator, eval_dataset=data["test"])
print("perplexity", exp(measured.evaluate()["eval_loss"]))
