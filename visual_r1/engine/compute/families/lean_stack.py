"""The parts of a text stack as a lean step and a pass over prompts compute with them.

They are the network's own weights; those that are read together lie side by side (see `products`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from visual_r1.engine.compute.batching import split
from visual_r1.engine.compute.families.lean_experts import Mixture
from visual_r1.engine.compute.families.products import Product


class Norm:
    """RMS norm (Zhang & Sennrich, 2019) over the last dimension."""

    def __init__(self, weight: Tensor, epsilon: float) -> None:
        self.weight, self._epsilon = weight.detach(), epsilon
        self.applies_weight = True
        """Whether what reads it is not given the weight itself; alone only."""
        self._share = 1 / weight.shape[-1]
        self._epsilons = weight.new_full((1,), epsilon)

    def into(self, x: Tensor, out: Tensor) -> Tensor:
        """Of x, to `out` of its shape."""
        # Rounded once, at the end, as the learner does it.
        even = functional.rms_norm(x.float(), x.shape[-1:], eps=self._epsilon)
        return torch.mul(even, self.weight, out=out)

    def alone_into(self, x: Tensor, out: Tensor, root: Tensor) -> Tensor:
        """The same in fewer operators, where numbers are float32: by way of `root` [..., 1]."""
        cast(Any, torch.linalg).vector_norm(x, dim=-1, keepdim=True, out=root)
        torch.addcmul(self._epsilons, root, root, value=self._share, out=root).rsqrt_()
        torch.mul(x, root, out=out)
        return out.mul_(self.weight) if self.applies_weight else out


class Rotation:
    """Rotary positions (Su et al., 2021): x cos + rotate_half(x) sin, half by half."""

    def __init__(self, cos: Tensor, below: Tensor, above: Tensor, heads: int) -> None:
        """For R rows: `cos` [R, width] and the sines of both halves [R, width / 2], those of the
        lower one taken by −1; they may change in their place. `heads` are turned at a time."""
        rows, width = cos.shape
        self.straight = cos.new_empty(rows, heads, width)
        """Where x is put."""
        self.turned = torch.empty_like(self.straight)
        self._cos = cos[:, None]
        halves, turned = (split(one, width // 2, dim=2) for one in (self.straight, self.turned))
        self._halves = (
            (turned[0], halves[1], below[:, None]),
            (turned[1], halves[0], above[:, None]),
        )

    def turn(self) -> None:
        """`straight` to `turned`."""
        torch.mul(self.straight, self._cos, out=self.turned)
        for half, other, sine in self._halves:
            half.addcmul_(other, sine)


@dataclass
class Layer:
    """The parts of a layer."""

    before_attention: Norm
    qkv: Product
    heads_norm: Norm
    """Of queries and keys, whose heads lie side by side: weight [heads + key heads, width]."""
    output: Product
    before_mlp: Norm
    gate_up: Product | None
    down: Product | None
    mixture: Mixture | None
    """Of experts, in the place of `gate_up` and `down`."""

    @property
    def products(self) -> list[Product]:
        return [one for one in (self.qkv, self.output, self.gate_up, self.down) if one]


class LeanStack:
    """The text stack of a Qwen3-VL, dense or with experts."""

    def __init__(self, network: nn.Module, text_stack: str, unembed: str) -> None:
        """Raises `KeyError` or `AttributeError` where the network is built in another way."""
        stack: Any = network.get_submodule(text_stack)
        config: Any = stack.config
        if config.rope_parameters["rope_type"] != "default" or config.hidden_act != "silu":
            raise KeyError("rope_type")  # angles that depend on the length, or another MLP
        self.heads = int(config.num_attention_heads)
        self.key_heads = int(config.num_key_value_heads)
        self.width = int(config.head_dim)
        self.rotary: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] = stack.rotary_emb
        self.embedding: Tensor = stack.embed_tokens.weight.detach()
        self.layers = [
            self._layer(network, f"{text_stack}.layers.{number}", layer)
            for number, layer in enumerate(stack.layers)
        ]
        self.norm = _norm_of(stack.norm)
        self.unembed = Product(network, [unembed])
        self.products = [one for layer in self.layers for one in layer.products]
        self.products.append(self.unembed)
        self.adapted = [*self.products, *(one.mixture for one in self.layers if one.mixture)]
        """All that an adapter may sit on."""

    def _layer(self, network: nn.Module, name: str, layer: Any) -> Layer:
        attention, mlp = layer.self_attn, layer.mlp
        q_norm, k_norm = attention.q_norm.weight, attention.k_norm.weight
        norms = torch.cat(
            [q_norm.expand(self.heads, -1), k_norm.expand(self.key_heads, -1)]
        ).detach()
        dense = hasattr(mlp, "gate_proj")
        return Layer(
            before_attention=_norm_of(layer.input_layernorm),
            qkv=Product(network, [f"{name}.self_attn.{side}_proj" for side in "qkv"]),
            heads_norm=Norm(norms, attention.q_norm.variance_epsilon),
            output=Product(network, [f"{name}.self_attn.o_proj"]),
            before_mlp=_norm_of(layer.post_attention_layernorm),
            gate_up=Product(network, [f"{name}.mlp.gate_proj", f"{name}.mlp.up_proj"])
            if dense
            else None,
            down=Product(network, [f"{name}.mlp.down_proj"]) if dense else None,
            mixture=None if dense else Mixture(network, f"{name}.mlp"),
        )

    def compute_alone(self, copied_bytes: int) -> None:
        """Be read by a CPU in float32: queries come out scaled for the softmax, and weights of up
        to so many bytes are held a second time (see `products`)."""
        for layer in self.layers:
            layer.heads_norm.weight[: self.heads] *= self.width**-0.5
        if sum(one.bytes for one in self.products) > copied_bytes:
            return
        read_by: dict[Product | None, Norm] = {self.unembed: self.norm}
        for layer in self.layers:
            read_by |= {layer.qkv: layer.before_attention, layer.gate_up: layer.before_mlp}
        for product in self.products:
            norm = read_by.get(product)
            product.allow_copies(None if norm is None else norm.weight)
            if norm is not None:
                norm.applies_weight = False


def _norm_of(module: Any) -> Norm:
    return Norm(module.weight, float(module.variance_epsilon))
