"""The calls that this project makes of a server, what each is for, and what came of them.

A call that is not `needed` is for a feature that a run can do without: where it fails, that feature
is off, and the rest works.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from visual_r1.prices import Tokens

Verdict = Literal["works", "fails", "not tried"]


@dataclass(frozen=True, slots=True)
class Call:
    """A call of the SDK, or a property of its answer, and what of ours it is for."""

    name: str
    used_for: str
    needed: bool = True


REACH = Call("client/config", "every call of the SDK")
CAPABILITIES = Call("get_server_capabilities", "which models there are")
LORA = Call("create_lora_training_client", "an adapter to train")
REFRESH = Call("save_weights_and_get_sampling_client", "the policy of each step")
SAMPLE = Call("sample", "groups of answers with log-probabilities")
PICTURE = Call("sample, with a picture", "problems with figures")
FORWARD = Call("forward", "sampler and learner are one policy")
LEARN = Call("forward_backward, optim_step", "learning; train.loss importance_sampling")
LEARN_PICTURE = Call("forward_backward, with a picture", "learning from figures")
SAVE = Call("save_state, save_weights_for_sampler", "checkpoints")
INFO = Call("get_weights_info_by_tinker_path", "whether a checkpoint is there")
RESUME = Call("create_training_client_from_state_with_optimizer", "going on after a kill")
CHECKPOINT = Call("create_sampling_client, of a checkpoint", "validation and evaluation")
BASE = Call("create_sampling_client, of the base model", "the baseline")

MOMENTS = Call("Adam's moments come with the state", "resuming as if never killed", False)
WEIGHTS = Call("create_training_client_from_state", "model.start_from, and exports", False)
SEED = Call("sample, a seed again", "the same answers when a step is done again", False)
LOGPROBS = Call("compute_logprobs", "algorithm.kl_coefficient", False)
CROSS_ENTROPY = Call("forward_backward, cross_entropy", "flows/sft_flow.py", False)
LOSSES = tuple(
    Call(f"forward_backward, {name}", f"train.loss {name}", False)
    for name in ("ppo", "cispo", "dro", "gspo")
)
STABILITY = Call("sample, with stability info", "train.loss stable_reinforce", False)
CUSTOM = Call("forward_backward_custom", "a loss of your own", False)
LIFETIME = Call("set_checkpoint_ttl_from_tinker_path", "lifetimes of checkpoints, renewed", False)
EXTERNAL = Call("save_weights_external, get_external_weights_urls", "export", False)
DELETE = Call("delete_checkpoint_from_tinker_path", "backend.keep_checkpoints", False)

CALLS = (
    *(REACH, CAPABILITIES, LORA, REFRESH, SAMPLE, PICTURE, FORWARD, LEARN, LEARN_PICTURE, SAVE),
    *(INFO, RESUME, CHECKPOINT, BASE, MOMENTS, WEIGHTS, SEED, LOGPROBS, CROSS_ENTROPY, *LOSSES),
    *(STABILITY, CUSTOM, LIFETIME, EXTERNAL, DELETE),
)
"""In the order in which they are shown; what training needs comes first."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What came of a call: how long its answer took, and why it does not serve, or what was seen.

    `seconds` is None where it was not tried.
    """

    call: Call
    verdict: Verdict
    seconds: float | None = None
    says: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """All findings, in the order of `CALLS`; `server` has no secrets, `model` was tried."""

    server: str
    model: str | None
    sdk: str
    seconds: float
    tokens: Tokens
    findings: tuple[Finding, ...]
    left: tuple[str, ...] = ()
    """Checkpoints that the server would not delete; they expire within the hour."""

    @property
    def trains(self) -> bool:
        """Whether all works that training needs."""
        return all(one.verdict == "works" for one in self.findings if one.call.needed)

    @property
    def off(self) -> Sequence[Finding]:
        """What does not serve, of the calls that training can do without."""
        return [one for one in self.findings if not one.call.needed and one.verdict != "works"]

    def to_json(self) -> dict[str, Any]:
        """The report as `--json` prints it."""
        return {
            "server": self.server,
            "model": self.model,
            "sdk": self.sdk,
            "trains": self.trains,
            "off": [one.call.used_for for one in self.off],
            "seconds": round(self.seconds, 3),
            "tokens_prefill": self.tokens.prefill,
            "tokens_cached": self.tokens.cached,
            "tokens_sampled": self.tokens.sample,
            "tokens_trained": self.tokens.train,
            "left_on_the_server": list(self.left),
            "calls": [
                {
                    "call": one.call.name,
                    "used_for": one.call.used_for,
                    "needed": one.call.needed,
                    "verdict": one.verdict,
                    "seconds": None if one.seconds is None else round(one.seconds, 3),
                    "says": one.says,
                }
                for one in self.findings
            ],
        }
