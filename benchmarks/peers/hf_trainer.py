"""A contestant of `hanbit bench train`: the Hugging Face Trainer on transformers' own Llama, from a model folder.

    python benchmarks/peers/hf_trainer.py SETTINGS.json

SETTINGS: {"model": folder, "batches": safetensors file with "tokens" [steps * global_batch, time + 1], "micro_batch",
"accumulate", "learning_rates": [...], "betas", "epsilon", "weight_decay", "clip", "compile"}. Needs transformers and
accelerate; knows nothing of hanbit. Speaks the protocol of hanbit/bench/turns.py.
"""

import json
import sys
import tempfile
import time

import torch
from safetensors.torch import load_file
from torch.utils.data import Dataset, SequentialSampler
from transformers import AutoModelForCausalLM, Trainer, TrainerCallback, TrainingArguments


class Batches(Dataset):
    def __init__(self, tokens: torch.Tensor) -> None:
        self.tokens = tokens

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        # the model shifts labels by itself, so that the targets of the others are labels one further
        inputs, targets = self.tokens[index, :-1], self.tokens[index, 1:]
        return {"input_ids": inputs, "shift_labels": targets, "labels": inputs}


class InOrder(Trainer):
    def _get_train_sampler(self, *arguments: object) -> SequentialSampler:
        return SequentialSampler(self.train_dataset)


class Turns(TrainerCallback):
    """Waits for its turn after the asked number of steps."""

    def __init__(self) -> None:
        self.left = 0
        self.began = 0.0
        self.losses: list[float] = []

    def wait(self) -> None:
        line = sys.stdin.readline()
        if not line:
            sys.exit(0)
        self.left = json.loads(line)["steps"]
        self.losses = []
        self.began = time.perf_counter()

    def on_train_begin(self, args, state, control, **_) -> None:
        print(json.dumps({"ready": "transformers Trainer", "threads": torch.get_num_threads()}), flush=True)
        self.wait()

    def on_log(self, args, state, control, logs=None, **_) -> None:
        if logs and "loss" in logs:
            self.losses.append(float(logs["loss"]))
            self.left -= 1
            if self.left == 0:
                seconds = time.perf_counter() - self.began
                print(json.dumps({"seconds": seconds, "results": self.losses}), flush=True)
                self.wait()


def main() -> None:
    with open(sys.argv[1], encoding="utf-8") as file:
        settings = json.load(file)
    model = AutoModelForCausalLM.from_pretrained(settings["model"], dtype=torch.float32)
    model.config.use_cache = False
    model.train()
    rates = settings["learning_rates"]
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": settings["weight_decay"]}, {"params": others, "weight_decay": 0.0}],
        lr=1.0,
        betas=tuple(settings["betas"]),
        eps=settings["epsilon"],
        fused=True,
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rates[min(step, len(rates) - 1)])
    arguments = TrainingArguments(
        output_dir=tempfile.mkdtemp(),
        per_device_train_batch_size=settings["micro_batch"],
        gradient_accumulation_steps=settings["accumulate"],
        max_steps=len(rates),
        max_grad_norm=settings["clip"],
        torch_compile=settings["compile"],
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="no",
        report_to=[],
        use_cpu=not torch.cuda.is_available(),
        disable_tqdm=True,
        remove_unused_columns=False,
    )
    tokens = load_file(settings["batches"])["tokens"]
    trainer = InOrder(
        model=model,
        args=arguments,
        train_dataset=Batches(tokens),
        optimizers=(optimizer, schedule),
        callbacks=[Turns()],
    )
    trainer.train()


if __name__ == "__main__":
    main()
