"""GRPO steps of TRL, as its user writes them: a trainer, a reward function, a dataset.

    python trl_steps.py WORK.json           # WORK: see `main`; a row a step goes to its file

TRL's processor of a Qwen3-VL wants a video part, which wants torchvision: the image and text parts
are put together here. The adapter leaves out the head (TRL computes log-probabilities past it), and
gradient checkpointing is off, which is on by default and costs a second forward pass.
"""

import base64
import json
import re
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
from datasets import Dataset, Image
from peft import LoraConfig
from transformers import AutoModelForImageTextToText, AutoTokenizer, TrainerCallback
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.qwen3_vl.processing_qwen3_vl import Qwen3VLProcessor
from trl import GRPOConfig, GRPOTrainer  # pyright: ignore[reportMissingImports]


class Processor(Qwen3VLProcessor):
    """Without a video part."""

    # transformers makes the parts that a processor must have of its signature.
    def __init__(self, image_processor: Any = None, tokenizer: Any = None) -> None:
        super().__init__(image_processor, tokenizer, None, chat_template=tokenizer.chat_template)

    @classmethod
    def get_attributes(cls) -> list[str]:
        """The parts there are."""
        return ["image_processor", "tokenizer"]


class Rows(TrainerCallback):
    """A row for each step that is done: what of the loop's figures the comparison needs."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def on_log(self, *_: Any, logs: dict[str, float], **__: Any) -> None:
        """After each step, since every step is logged."""
        if "completions/mean_length" not in logs:  # the summary at the end
            return
        row = {
            "at": time.time(),
            "response_tokens_mean": logs["completions/mean_length"],
            "accuracy": logs["rewards/accuracy/mean"],
        }
        with self._file.open("a") as file:
            file.write(json.dumps(row) + "\n")


def accuracy(completions: list[Any], answer: list[str], **_: Any) -> list[float]:
    """1 where what stands in <answer> is the right answer's own text."""
    return [
        float(bool(found) and found[-1].strip() == right)
        for completion, right in zip(completions, answer, strict=True)
        if (found := re.findall(r"<answer>(.*?)</answer>", completion[-1]["content"])) is not None
    ]


def main() -> None:
    """Train; WORK names folder, problems, group, new_tokens, steps, threads, learning_rate, lora,
    rows (a file) and output (a folder)."""
    work = json.loads(Path(sys.argv[1]).read_text())
    torch.set_num_threads(work["threads"])
    # On the left, as TRL pads prompts: else its kinds of tokens do not stand where its tokens do.
    tokenizer = AutoTokenizer.from_pretrained(work["folder"], padding_side="left")
    images = Qwen2VLImageProcessorPil.from_pretrained(work["folder"])
    processor = Processor(images, tokenizer)
    problems = [
        {
            "prompt": [{"role": "user", "content": one["text"]}],
            "image": {"bytes": base64.b64decode(one["image"]), "path": None},
            "answer": one["answer"],
        }
        for one in work["problems"]
    ]
    dataset = Dataset.from_list(problems).cast_column("image", Image())
    network = AutoModelForImageTextToText.from_pretrained(
        work["folder"], dtype=torch.float32, attn_implementation="sdpa"
    )
    rows = work["batch"] * work["group"]
    settings = GRPOConfig(
        output_dir=work["output"], max_steps=work["steps"], per_device_train_batch_size=rows,
        gradient_accumulation_steps=1, num_generations=work["group"],
        max_completion_length=work["new_tokens"], learning_rate=work["learning_rate"],
        lr_scheduler_type="constant", temperature=1.0, top_p=1.0, beta=0.0, max_grad_norm=1.0,
        loss_type="grpo", logging_steps=1, save_strategy="no", report_to=[], seed=0,
        gradient_checkpointing=False, bf16=False, use_cpu=True, disable_tqdm=True,
        dataloader_num_workers=0,
    )  # fmt: skip
    lora = work["lora"]
    trainer = GRPOTrainer(
        model=network, reward_funcs=[accuracy], args=settings, train_dataset=dataset,
        processing_class=processor, callbacks=[Rows(Path(work["rows"]))],
        peft_config=LoraConfig(
            r=lora["rank"], lora_alpha=lora["alpha"], task_type="CAUSAL_LM",
            target_modules=[name for name in lora["modules"] if name != "lm_head"],
        ),
    )  # fmt: skip
    trainer.train()


if __name__ == "__main__":
    main()
