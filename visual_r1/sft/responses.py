"""A problem's response as the tokens that the policy would have sampled.

The text is tokenised as it stands, `<think>` and the other added tokens that are not special as
themselves, and ends with the model's stop token. Where the prompt opens the thought already, a
response need not, and may not, open it again. The name of a special token in a response
(`<|im_end|>`, an image's place) would be control that nobody meant: such a row is left out.
"""

from visual_r1.data.problem import Problem
from visual_r1.policy.policy import Policy
from visual_r1.sft.settings import name_in_meta

_THINK = "<think>"


class Responses:
    """Reads the responses of a run's problems; `column` is that of `sft.responses`."""

    def __init__(self, policy: Policy, column: str) -> None:
        self._policy, self._column = policy, column
        added = policy.processor.tokenizer.added_tokens_decoder
        self._control = [str(token) for token in added.values() if token.special]

    def tokens(self, problem: Problem) -> list[int]:
        """The n >= 2 tokens of the response, the stop token last; `fault` must be empty."""
        text = self._text(problem)
        if self._policy.prompter.opens_think:
            text = text.lstrip().removeprefix(_THINK).lstrip("\n")
        processor = self._policy.processor
        return [*processor.encode(text), processor.stop_token_ids[0]]

    def fault(self, problem: Problem) -> str:
        """Why the problem cannot be learnt from; empty where it can."""
        text = self._text(problem)
        if not text.strip():
            return f"it has no response (sft.responses {self._column})"
        if named := [name for name in self._control if name in text]:
            return f"its response names {named[0]}, which this model reads as control"
        most = self._policy.config.sampling.max_new_tokens
        if (count := len(self.tokens(problem))) > most:
            return f"its response has {count} tokens, more than sampling.max_new_tokens ({most})"
        return ""

    def _text(self, problem: Problem) -> str:
        found = problem.meta.get(name_in_meta(self._column))
        return found if isinstance(found, str) else ""
