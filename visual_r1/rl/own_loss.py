"""A user's own loss, by import path: `train.loss = "my_losses:my_loss"`.

    def my_loss(
        data: list[tinker.Datum], logprobs: list[torch.Tensor], *, temperature: float = 1.0
    ) -> tuple[torch.Tensor, dict[str, float]]

It is a custom loss as Tinker's `forward_backward_custom` takes it: the data of a minibatch and the
learner's log-probabilities of their targets, float32 [T] each, to the loss (one number) and what
else is to be logged. The server computes a forward, the loss and its derivative by each
log-probability are computed here, and the derivative goes back over the wire as the weights of a
cross_entropy. So it costs a further forward.

Each datum has the inputs `target_tokens`, `logprobs` (the sampler's), `advantages` and `mask`,
which is 1 on the answer's tokens and 0 before them, [T] each (see `learning`). The advantages hold
the normalisation. Only the answer has targets: whatever a loss makes of the prompt's places, they
get no gradient.

Keyword arguments with a number as default are settings: `algorithm.loss_config` sets them by name.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from visual_r1.errors import LossError
from visual_r1.own_code import LOSS, failure, own_function, shortened

if TYPE_CHECKING:  # who has no loss of his own does without both
    import tinker
    import torch

MASK = "mask"
LOGGED = "own/"
"""Before the names of what the loss logs, among the server's metrics."""

_RETURNS = "and a loss returns a pair: one number as a tensor, and a dict of numbers to be logged"


@dataclass(frozen=True, slots=True)
class OwnLoss:
    """A user's loss: the path it is named by, its file (None: no file), line and settings."""

    path: str
    function: Callable[..., Any]
    file: Path | None
    line: int | None
    settings: Mapping[str, float]

    def at(
        self, step: int, config: Mapping[str, float]
    ) -> Callable[[list[tinker.Datum], list[Any]], tuple[torch.Tensor, dict[str, float]]]:
        """The loss as the SDK calls it in `step`.

        It raises `LossError` with file and line where the user's function raises anything, or
        returns what is no finite number with a finite gradient.
        """
        import torch

        def computed(
            data: list[tinker.Datum], logprobs: list[Any]
        ) -> tuple[torch.Tensor, dict[str, float]]:
            # `sys.exit()` included; Ctrl-C goes through.
            try:
                returned = self.function(data, logprobs, **config)
            except (Exception, SystemExit) as error:
                raise self._error(step, f"failed with {failure(error)}", place=False) from error
            loss, logged = self._checked(step, returned)
            slopes = self._slopes(step, loss, data, logprobs)
            # The value is the user's to the bit, and the gradient is `slopes`.
            linear = torch.stack(
                [(one * slope).sum() for one, slope in zip(logprobs, slopes, strict=True)]
            ).sum()
            return loss.detach() + (linear - linear.detach()), logged

        return computed

    def _checked(self, step: int, returned: object) -> tuple[torch.Tensor, dict[str, float]]:
        import torch

        what = f"{shortened(returned)} ({type(returned).__name__})"
        pair = cast("tuple[object, ...]", returned) if isinstance(returned, tuple) else ()
        if len(pair) != 2:
            raise self._error(step, f"returned {what}, {_RETURNS}")
        loss, logged = pair
        if not isinstance(loss, torch.Tensor):
            kind = type(loss).__name__
            raise self._error(step, f"returned {shortened(loss)} ({kind}) as its loss, {_RETURNS}")
        if loss.ndim:
            shape = list(loss.shape)
            raise self._error(
                step, f"returned a loss of the shape {shape}, and one number is wanted: sum it up"
            )
        if not math.isfinite(value := float(loss.detach())):
            raise self._error(step, f"returned the loss {value}, which is not finite")
        if not isinstance(logged, Mapping):
            kind = type(logged).__name__
            raise self._error(
                step, f"returned {shortened(logged)} ({kind}) to be logged, {_RETURNS}"
            )
        numbers: dict[str, float] = {}
        for name, number in cast("Mapping[object, object]", logged).items():
            number = (
                number.item() if isinstance(number, torch.Tensor) and not number.ndim else number
            )
            if not isinstance(number, Real):
                what = f"{shortened(number)} ({type(number).__name__})"
                raise self._error(step, f"logs {what} as {name!r}, which is no number")
            numbers[f"{LOGGED}{name}"] = float(number)
        return loss, numbers

    def _slopes(
        self,
        step: int,
        loss: torch.Tensor,
        data: Sequence[tinker.Datum],
        logprobs: Sequence[torch.Tensor],
    ) -> list[torch.Tensor]:
        """The derivative by each log-probability, [T] a datum, 0 on the places of the prompt."""
        import torch

        found: Sequence[torch.Tensor | None] = [None]
        if loss.requires_grad:
            try:
                found = torch.autograd.grad(loss, list(logprobs), allow_unused=True)
            except RuntimeError as error:  # changed in place, say
                why = f"cannot be differentiated: {shortened(error)}"
                raise self._error(step, why) from error
        if all(slope is None for slope in found):
            raise self._error(step, "returned a loss that does not depend on the log-probabilities")
        slopes: list[torch.Tensor] = []
        for place, (slope, datum, one) in enumerate(zip(found, data, logprobs, strict=True)):
            answer = datum.loss_fn_inputs[MASK].to_torch() != 0
            kept = torch.where(answer, 0.0 if slope is None else slope, torch.zeros_like(one))
            if not torch.isfinite(kept).all():
                token = int((~torch.isfinite(kept[answer])).nonzero()[0])
                raise self._error(
                    step,
                    f"has the finite value {float(loss.detach()):g} and no finite gradient: that "
                    f"by the log-probability of token {token} of response {place} is "
                    f"{float(kept[answer][token])}",
                )
            slopes.append(kept)
        return slopes

    def _error(self, step: int, what: str, *, place: bool = True) -> LossError:
        where = ""
        if place and self.file is not None:
            where = f" ({self.file.name}, line {self.line})"
        # The run keeps to the file it began with; what is mended is another (`runs.folder`).
        mend = "mend it"
        if self.file is not None:
            mend += ", remove the copy own_loss.py from the run's folder"
        return LossError(
            f"train.loss {self.path}{where} {what}. Nothing of step {step} is saved: {mend} and "
            "start again, and the run goes on from its last checkpoint."
        )


@lru_cache
def load_loss(path: str) -> OwnLoss:
    """The loss that `module:function` names; raises `ConfigError` as `own_function` does."""
    found = own_function(path, LOSS)
    try:
        parameters = inspect.signature(found.function).parameters.values()
    except ValueError:  # a built-in
        parameters = ()
    settings = {
        one.name: float(one.default)
        for one in parameters
        if one.kind is inspect.Parameter.KEYWORD_ONLY
        and isinstance(one.default, int | float)
        and not isinstance(one.default, bool)
    }
    code = getattr(inspect.unwrap(found.function), "__code__", None)
    line = getattr(code, "co_firstlineno", None)
    return OwnLoss(path, found.function, found.file, line, settings)
