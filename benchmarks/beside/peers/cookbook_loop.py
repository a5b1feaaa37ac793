"""tinker-cookbook's `rl_loop`, its own `main`, on our server, model and problems.

    python cookbook_loop.py WORK.json       # WORK: see `main`; its metrics.jsonl has a row a step

What the recipe fetches from the hub or the model's name is given to it in its place: the dataset,
the tokenizer, a renderer whose prompts are made already (so they cost it nothing), and a reward for
answers in `<answer>`. The loop itself is the package's own, not a line of it changed.
"""

import base64
import json
import re
import sys
from pathlib import Path
from typing import Any

import datasets
from tinker import types
from tinker_cookbook.recipes import rl_loop  # pyright: ignore[reportMissingImports]
from transformers import AutoTokenizer


class Ready:
    """A renderer of prompts by number: the question of a row is its number."""

    def __init__(self, prompts: list[types.ModelInput], tokenizer: Any, stops: list[int]) -> None:
        self._prompts, self._tokenizer, self._stops = prompts, tokenizer, stops

    def get_stop_sequences(self) -> list[int]:
        """The model's own ends."""
        return self._stops

    def build_generation_prompt(self, conversation: list[dict[str, str]]) -> types.ModelInput:
        """The prompt of the last message's number."""
        return self._prompts[int(conversation[-1]["content"].split()[0])]

    def parse_response(self, tokens: list[int]) -> tuple[dict[str, str], bool]:
        """The text of an answer."""
        return {"role": "assistant", "content": self._tokenizer.decode(tokens)}, True


def model_input(prompt: dict[str, Any]) -> types.ModelInput:
    """As the SDK takes it."""
    return types.ModelInput(
        chunks=[
            types.ImageChunk(
                data=base64.b64decode(part["image"]), format="png",
                expected_tokens=part["visual_tokens"],
            )
            if part["image"]
            else types.EncodedTextChunk(tokens=part["tokens"])
            for part in prompt["parts"]
        ]
    )  # fmt: skip


def reward(response: str, answer: str) -> float:
    """1 where what stands in <answer> is the right answer's own text."""
    found = re.findall(r"<answer>(.*?)</answer>", response)
    return float(bool(found) and found[-1].strip() == answer)


def main() -> None:
    """Run the loop; WORK names url, model, folder, prompts, batch, group, new_tokens, steps, rank,
    learning_rate, stops and log (a folder). The key is in the environment."""
    work = json.loads(Path(sys.argv[1]).read_text())
    prompts = work["prompts"]
    tokenizer = AutoTokenizer.from_pretrained(work["folder"])
    rows = datasets.Dataset.from_dict(
        {
            "question": [str(number) for number in range(len(prompts))],
            "answer": [prompt["answer"] for prompt in prompts],
        }
    )
    ready = Ready([model_input(prompt) for prompt in prompts], tokenizer, work["stops"])
    given: Any = rl_loop
    given.datasets.load_dataset = lambda *_, **__: datasets.DatasetDict({"train": rows})
    given.get_tokenizer = lambda _: tokenizer
    given.model_info.get_recommended_renderer_name = lambda _: "ready"
    given.renderers.get_renderer = lambda *_, **__: ready
    given.renderers.get_text_content = lambda message: message["content"]
    given.get_reward = reward
    rl_loop.main(
        rl_loop.Config(
            base_url=work["url"],
            log_path=work["log"],
            model_name=work["model"],
            batch_size=work["batch"],
            group_size=work["group"],
            learning_rate=work["learning_rate"],
            lora_rank=work["rank"],
            save_every=0,
            max_tokens=work["new_tokens"],
            loss_fn="importance_sampling",
            max_steps=work["steps"],
        )
    )


if __name__ == "__main__":
    main()
