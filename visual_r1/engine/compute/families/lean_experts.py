"""A layer's experts in a step: what of an adapter sits on them is made ready once."""

from typing import Any, cast

from torch import Tensor, nn

from visual_r1.engine.compute.experts import (
    PARAMETERS,
    Adapted,
    are_plain,
    asks_host,
    experts_of,
    mixed,
    wrappers,
)
from visual_r1.engine.compute.families.products import Bound, LowRank


class Mixture:
    """A router and its experts."""

    def __init__(self, network: nn.Module, name: str) -> None:
        """Of the module `name`. Raises `KeyError` where it is built in another way."""
        block = network.get_submodule(name)
        if {child for child, _ in block.named_children()} != {"experts", "gate"}:
            raise KeyError(name)
        self._block: Any = block
        self._name = f"{name}.experts"
        self._experts = experts_of(self._block.experts)
        if not are_plain(self._experts):
            raise KeyError(self._name)
        self.bound: Bound = ()
        """Nothing, or A and B of both parameters as `experts.Adapted` has them."""

    @property
    def can_be_recorded(self) -> bool:
        """Whether a step is the same work whichever experts are chosen."""
        return not any(map(asks_host, self._weights()))

    def prepared(self, adapter: LowRank) -> Bound:
        """What `bound` is to be for this adapter."""
        found: dict[str, Adapted] = {}
        name = self._name
        for wrapper in wrappers(self._block.experts):
            if name in adapter:
                weight = cast(Tensor, wrapper.get_param())
                found[wrapper.parameter_name] = Adapted.of(weight, *adapter[name], 1.0)
            name += ".base_layer"
        sides = [found[one] for one in PARAMETERS if one in found]
        if len(sides) not in (0, len(PARAMETERS)):
            raise KeyError(self._name)  # `Targets` name both or none
        return tuple(cast(Tensor, part) for one in sides for part in (one.down, one.up))

    def __call__(self, hidden: Tensor) -> Tensor:
        """[R, width] to [R, width]."""
        _, weights, index = self._block.gate(hidden)
        into, back = self._weights()
        if self.bound:
            down, up, down_back, up_back = self.bound
            both = Adapted(into, down, up), Adapted(back, down_back, up_back)
        else:
            both = Adapted(into), Adapted(back)
        return mixed(self._experts, *both, hidden, index, weights)

    def _weights(self) -> list[Tensor]:
        return [cast(Tensor, getattr(self._experts, name)) for name in PARAMETERS]
