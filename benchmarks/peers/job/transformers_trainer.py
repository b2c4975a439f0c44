import sys
from math import exp

import torch
from datasets import load_dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments, default_data_collator

teacher, student, text, out = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(teacher)


def packed(batch):
    ids = [token for document in batch["text"] for token in [*tokenizer(document)["input_ids"], tokenizer.eos_token_id]]
    rows = [ids[start : start + 256] for start in range(0, len(ids) - 255, 256)]
    return {"input_ids": rows, "labels": rows}


class Distiller(Trainer):
    def __init__(self, *args, teacher, **kwargs):
        super().__init__(*args, **kwargs)
        self.teacher = teacher.eval()

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        if not model.training:
            return super().compute_loss(model, inputs, return_outputs=return_outputs)
        q = model(input_ids=inputs["input_ids"]).logits[:, :-1].float().log_softmax(-1)
        with torch.no_grad():
            p = self.teacher(input_ids=inputs["input_ids"]).logits[:, :-1].float().log_softmax(-1)
        return torch.nn.functional.kl_div(q, p, reduction="sum", log_target=True) / num_items_in_batch


documents = load_dataset("text", data_dir=text, sample_by="document", split="train").train_test_split(0.1, seed=0)
data = documents.map(packed, batched=True, remove_columns="text")
settings = TrainingArguments(
    out, max_steps=2, per_device_train_batch_size=4, learning_rate=1e-4, report_to="none", use_cpu=True
)
trainer = Distiller(
    AutoModelForCausalLM.from_pretrained(student, dtype=torch.float32),
    settings,
    data_collator=default_data_collator,
    train_dataset=data["train"],
    eval_dataset=data["test"],
    teacher=AutoModelForCausalLM.from_pretrained(teacher),
)
trainer.train()
print("perplexity", exp(trainer.evaluate()["eval_loss"]))
trainer.save_model(out)
tokenizer.save_pretrained(out)
