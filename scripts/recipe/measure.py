"""What a checkpoint can do: accuracy, greedy and sampled, format, by family, blind."""

import io
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from PIL import Image
from transformers import Qwen3VLForConditionalGeneration

from recipe.batches import patches
from recipe.texts import Chat, PromptTokens, Template, chat
from visual_r1.data.problem import Problem

MAX_NEW_TOKENS = 112
_BATCH = 128
_FORMAT = re.compile(r"<think>[^<]+</think>\s*<answer>([^<]+)</answer>")
_SCAN_FORMAT = re.compile(r"<scan>[^<]+</scan>\s*" + _FORMAT.pattern)


@dataclass(frozen=True, slots=True)
class Scores:
    """Fractions from 0 to 1."""

    accuracy: float
    format_rate: float
    by_family: dict[str, float]
    mean_tokens: float


def blanked(problem: Problem) -> Problem:
    """The problem with a white image of the same size."""
    size = Image.open(io.BytesIO(problem.images[0])).size
    buffer = io.BytesIO()
    Image.new("RGB", size, "white").save(buffer, "PNG")
    return replace(problem, images=(buffer.getvalue(),))


def measure(
    model: Qwen3VLForConditionalGeneration,
    prompts: PromptTokens,
    problems: Sequence[Problem],
    template: Template = "think",
    *,
    sampled: bool,
    seed: int = 0,
) -> Scores:
    """Answer each problem once, greedily or at temperature 1, and grade by equality."""
    chats = [chat(problem, template) for problem in problems]
    responses = respond(model, prompts, chats, sampled=sampled, seed=seed)
    right, formed = defaultdict[str, list[bool]](list), list[bool]()
    tokens = 0
    for problem, text in zip(problems, responses, strict=True):
        answer = re.search(r"</think>\s*<answer>([^<]+)</answer>", text)
        right[problem.family].append(answer is not None and answer[1].strip() == problem.answer)
        shape = _SCAN_FORMAT if template == "scan_think" else _FORMAT
        formed.append(shape.fullmatch(text.removesuffix("<|im_end|>")) is not None)
        tokens += len(prompts.processor.encode(text))
    every = [hit for hits in right.values() for hit in hits]
    return Scores(
        accuracy=sum(every) / len(every),
        format_rate=sum(formed) / len(formed),
        by_family={family: sum(hits) / len(hits) for family, hits in sorted(right.items())},
        mean_tokens=tokens / len(problems),
    )


@torch.no_grad()
def respond(
    model: Qwen3VLForConditionalGeneration,
    prompts: PromptTokens,
    chats: Sequence[Chat],
    *,
    sampled: bool,
    seed: int,
) -> list[str]:
    """One response a chat, in order; batches hold prompts of one length, so nothing is padded."""
    model.eval()
    torch.manual_seed(seed)
    processor = prompts.processor
    asked = [prompts.tokens(chat) for chat in chats]
    by_length = defaultdict[int, list[int]](list)
    for index, prompt in enumerate(asked):
        by_length[len(prompt)].append(index)
    responses = [""] * len(chats)
    for length in sorted(by_length):
        members = by_length[length]
        for start in range(0, len(members), _BATCH):
            chosen = members[start : start + _BATCH]
            tokens = torch.tensor([asked[i] for i in chosen])
            inputs = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
            inputs["mm_token_type_ids"] = (tokens == processor.image_token_id).long()
            if chats[chosen[0]].template != "scan_only":
                files = [chats[i].problem.images[0] for i in chosen]
                inputs["pixel_values"], inputs["image_grid_thw"] = patches(files)
            out = model.generate(
                **inputs,
                max_new_tokens=MAX_NEW_TOKENS,
                do_sample=sampled,
                temperature=1.0 if sampled else None,
                top_k=0 if sampled else None,
                top_p=1.0 if sampled else None,
            )
            for i, row in zip(chosen, out[:, length:].tolist(), strict=True):
                text = processor.decode(row)
                responses[i] = text.split("<|endoftext|>")[0]
    return responses
