import numpy as np
import tinker
from sampled import PROMPT, rollout

from visual_r1.data.procedural import generate
from visual_r1.models import TINY_GEOMETRY
from visual_r1.models.processor import load_processor
from visual_r1.prompts.prompts import Prompter
from visual_r1.rl.datums import answer_part, datum, with_prompt_logprobs


def test_prompt_and_image_stand_before_the_answer() -> None:
    one = rollout(tokens=[21, 22, 23])
    made = datum(PROMPT, one.tokens, one.logprobs, 2.0)
    *prompt, answer = made.model_input.chunks
    assert prompt == PROMPT.chunks
    assert isinstance(answer, tinker.EncodedTextChunk)
    assert answer.tokens == [21, 22]


def test_targets_are_the_next_tokens_and_nothing_else_counts() -> None:
    one = rollout(tokens=[21, 22, 23])
    made = datum(PROMPT, one.tokens, one.logprobs, 2.0)
    # 3 text + 4 image + 2 text positions of prompt, of which the last one predicts the answer.
    silent = 8
    inputs = {name: tensor.tolist() for name, tensor in made.loss_fn_inputs.items()}
    assert inputs["target_tokens"] == [0] * silent + [21, 22, 23]
    assert inputs["logprobs"] == [0.0] * silent + [-0.5, -0.75, -1.0]
    assert inputs["advantages"] == [0.0] * silent + [2.0, 2.0, 2.0]
    assert {len(values) for values in inputs.values()} == {made.model_input.length}
    dtypes = {name: tensor.dtype for name, tensor in made.loss_fn_inputs.items()}
    assert dtypes == {"target_tokens": "int64", "logprobs": "float32", "advantages": "float32"}


def test_what_is_read_at_a_position_comes_right_before_its_target() -> None:
    one = rollout(tokens=[21, 22, 23])
    made = datum(PROMPT, one.tokens, one.logprobs, 1.0)
    image = [-1] * 4
    read = [11, 12, 13, *image, 14, 15, 21, 22]
    targets = made.loss_fn_inputs["target_tokens"].tolist()
    whole = [*read, 23]
    for position, target in enumerate(targets):
        if target:
            assert whole[position] == read[position]
            assert whole[position + 1] == target


def test_a_real_problem_decodes_to_prompt_figure_and_answer() -> None:
    processor = load_processor(TINY_GEOMETRY)
    [problem] = generate(0, "train", 1)
    prompt = Prompter(processor, "think", 1_000_000).model_input(problem)
    answer = "<think>angle A reads 74</think><answer>32</answer><|im_end|>"
    one = rollout(tokens=processor.encode(answer))
    made = datum(prompt, one.tokens, one.logprobs, 1.0)

    before, image, *after = made.model_input.chunks
    assert isinstance(before, tinker.EncodedTextChunk)
    assert isinstance(image, tinker.types.ImageChunk)
    assert image.data == problem.images[0]
    assert processor.decode(before.tokens).endswith("<|vision_start|>")
    text = processor.decode(
        [t for chunk in after if isinstance(chunk, tinker.EncodedTextChunk) for t in chunk.tokens]
    )
    assert text.startswith("<|vision_end|>")
    assert problem.question in text
    assert text.endswith("<|im_start|>assistant\n" + answer.removesuffix("<|im_end|>"))

    advantages = made.loss_fn_inputs["advantages"].to_numpy()
    targets = made.loss_fn_inputs["target_tokens"].to_numpy()
    assert processor.decode(targets[advantages != 0].tolist()) == answer
    assert len(targets) == prompt.length + len(one.tokens) - 1
    assert not advantages[: before.length + image.length].any()


def test_an_answer_of_one_token_adds_no_empty_chunk() -> None:
    one = rollout(tokens=[21])
    made = datum(PROMPT, one.tokens, one.logprobs, 1.0)
    assert made.model_input.chunks == PROMPT.chunks
    assert made.loss_fn_inputs["target_tokens"].tolist() == [0] * 8 + [21]


def test_a_mask_marks_the_answers_tokens() -> None:
    one = rollout(tokens=[21, 22, 23])
    made = datum(PROMPT, one.tokens, one.logprobs, 0.0, mask="sequence_ratio_mask")
    mask = made.loss_fn_inputs["sequence_ratio_mask"]
    assert (mask.tolist(), mask.dtype) == ([0.0] * 8 + [1.0] * 3, "float32")


def test_the_provenance_covers_what_is_read_and_the_targets() -> None:
    """Places of the prompt count an image's tokens; runs of no place are left out."""
    spans = tinker.PromptProvenanceSpan, tinker.SampledProvenanceSpan

    def runs(tokens: list[int]) -> list[list[tuple[int, int, int]]]:
        one = rollout(tokens=tokens)
        made = datum(PROMPT, one.tokens, one.logprobs, 1.0, sequence_id="s:sample:0:1:2")
        fields = made.model_input_spans or [], made.loss_fn_input_spans or []
        assert {span.sequence_id for field in fields for span in field} == {"s:sample:0:1:2"}
        return [[(spans.index(type(x)), x.offset, x.length) for x in field] for field in fields]

    assert runs([21, 22, 23]) == [[(0, 0, 9), (1, 0, 2)], [(0, 1, 8), (1, 0, 3)]]
    assert runs([21]) == [[(0, 0, 9)], [(0, 1, 8), (1, 0, 1)]]
    assert datum(PROMPT, [21], [-1.0], 1.0).model_input_spans is None


def test_the_answers_part_of_an_array() -> None:
    values = np.arange(11, dtype=np.float32)
    assert answer_part(PROMPT, values).tolist() == [8, 9, 10]


def test_prompt_positions_take_the_learners_logprobs_and_the_answer_keeps_its_own() -> None:
    one = rollout(tokens=[21, 22, 23])
    before = datum(PROMPT, one.tokens, one.logprobs, 2.0)
    learner = np.full(11, -7.0, dtype=np.float32)
    [after] = with_prompt_logprobs([before], [PROMPT], [learner])
    assert after.loss_fn_inputs["logprobs"].tolist() == [-7.0] * 8 + [-0.5, -0.75, -1.0]
    assert before.loss_fn_inputs["logprobs"].tolist()[:8] == [0.0] * 8
    for kept in ("target_tokens", "advantages"):
        assert after.loss_fn_inputs[kept] is before.loss_fn_inputs[kept]
