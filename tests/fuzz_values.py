"""What the fuzz tests draw: sizes, layouts, features, labels. Hypothesis chooses the kind of everything; a seed, which
is drawn as well, fills the tensors, so that a case costs a millisecond."""

from typing import Any, NamedTuple

import torch
from grid import DTYPES, LAYOUTS
from hypothesis import strategies as st
from torch import Tensor

from dhvt_kernels._checks import accumulation_dtype

INT_MIN, INT_MAX = -(2**31), 2**31 - 1

#: The kinds of floating values. All but "huge" are compared with the reference: there, sums overflow in any order.
KINDS = ("plain", "plain", "levels", "constant", "offset", "tiny", "holes", "huge")
FINITE = ("plain", "levels", "constant", "offset")
SIZES = (1, 2, 3, 5, 7, 8, 13, 17, 0)


class Case(NamedTuple):
    """Arguments of an operator; whether the reference's floats bind; a comparison that replaces the equality of some
    outputs: `own[index](native outputs, reference outputs)`."""

    arguments: tuple[Any, ...]
    compared: bool = True
    finite: bool = False
    own: Any = None


class Draw:
    """Draws from hypothesis, and the generator that its seed starts."""

    def __init__(self, data: st.DataObject) -> None:
        self.data = data
        self.generator = torch.Generator().manual_seed(data.draw(st.integers(0, 2**31), label="seed"))

    def pick(self, *choices: Any) -> Any:
        return self.data.draw(st.sampled_from(choices))

    def chance(self, one_in: int) -> bool:
        """True once in so many cases; shrinks to False."""
        return self.data.draw(st.integers(0, one_in - 1)) == one_in - 1

    def size(self, *choices: int) -> int:
        return self.pick(*(choices or SIZES))

    def dtype(self) -> torch.dtype:
        return self.pick(*DTYPES)

    def integers(self, low: int, high: int, *size: int) -> Tensor:
        return torch.randint(low, high + 1, size, generator=self.generator, dtype=torch.int64)

    def extremes(self, low: int, high: int, *size: int) -> Tensor:
        """int32 from a range, here and there INT_MIN, INT_MAX, -1 or 0."""
        values = self.integers(low, high, *size)
        worst = torch.tensor([INT_MIN, INT_MAX, -1, 0])[self.integers(0, 3, *size)]
        return torch.where(self.integers(0, 7, *size) == 0, worst, values).int()

    def layout(self, tensor: Tensor) -> Tensor:
        """The tensor in some layout: dense, permuted, with gaps, off its alignment, or one plane for all indices."""
        name = self.pick("contiguous", "contiguous", "channels_last", "sliced", "transposed", "shifted", "expanded")
        if name == "channels_last" and tensor.dim() != 4:
            name = "transposed"
        if name == "transposed" and tensor.dim() < 2:
            name = "sliced"
        if name == "sliced" and not tensor.is_floating_point():
            big = tensor.new_full([2 * size + 1 for size in tensor.shape], 3)
            view = big[tuple(slice(1, 2 * size + 1, 2) for size in tensor.shape)]
            return view.copy_(tensor)
        if name == "shifted":
            return tensor.new_empty(tensor.numel() + 1)[1:].reshape(tensor.shape).copy_(tensor)
        if name == "expanded":
            dim = self.data.draw(st.integers(0, tensor.dim() - 1))
            return tensor if tensor.shape[dim] == 0 else tensor.narrow(dim, 0, 1).expand(tensor.shape)
        return LAYOUTS[name](tensor)

    def values(self, kind: str, dtype: torch.dtype, *size: int) -> Tensor:
        """Floats of a kind, in some layout."""
        noise = torch.randn(size, generator=self.generator, dtype=torch.float64)
        limits = torch.finfo(dtype)
        if kind == "levels":  # ties
            noise = noise.round()
        elif kind == "constant":
            noise = torch.full_like(noise, 0.75)
        elif kind == "offset":
            noise = 100 + noise
        elif kind == "tiny":
            noise = noise * limits.tiny / 4
        elif kind == "huge":
            noise = noise.sign() * limits.max / self.pick(1, 2, 1000)
        elif kind == "holes":
            bad = torch.tensor([float("nan"), float("inf"), float("-inf")], dtype=torch.float64)
            noise = torch.where(self.integers(0, 9, *size) == 0, bad[self.integers(0, 2, *size)], noise)
        return self.layout(noise.to(dtype))

    def kind(self) -> str:
        return self.pick(*KINDS)

    def image_size(self) -> tuple[int, int, int]:
        """(B, H, W): tiny; sometimes of several strips and rows of cells."""
        if self.chance(20):
            return self.pick((1, 67, 71), (2, 33, 40), (1, 5, 1031))
        return self.size(1, 2, 3, 0), self.size(), self.size()

    def labels(self, batch: int, height: int, width: int, num_segments: int) -> Tensor:
        """A label map: hostile, noise, blocks, one segment, each pixel its own, none."""
        size, name = (batch, height, width), self.pick("hostile", "noise", "blocks", "one", "pixels", "none")
        if name == "hostile":
            labels = self.extremes(-3, num_segments + 3, *size)
        elif name == "noise":
            labels = self.integers(-1, max(num_segments - 1, 0), *size).int()
        elif name == "blocks":
            rows, columns = torch.arange(height) // 2, torch.arange(width) // 3
            labels = (rows[:, None] * (width // 3 + 1) + columns).int().expand(size).contiguous()
        elif name == "pixels":
            labels = torch.arange(height * width, dtype=torch.int32).reshape(height, width).expand(size).contiguous()
        else:
            labels = torch.full(size, 0 if name == "one" else self.pick(-1, INT_MIN, INT_MAX), dtype=torch.int32)
        return self.layout(labels)

    def segments(self) -> int:
        return self.size(1, 2, 3, 5, 16, 61, 300, 0)

    def mask(self, batch: int, height: int, width: int) -> Tensor | None:
        name = self.pick("none", "full", "empty", "holes", "corner")
        if name == "none":
            return None
        mask = torch.full((batch, height, width), name != "empty")
        if name == "holes":
            mask = self.integers(0, 3, batch, height, width) > 0
        elif name == "corner":
            mask[:, height // 2 :], mask[:, :, width // 2 + 1 :] = False, False
        return self.layout(mask)


def magnitude(arguments: Any) -> float:
    """The largest finite float among the arguments, at least 1: what absolute tolerances are relative to."""
    largest = 1.0
    for tensor in arguments:
        if isinstance(tensor, Tensor) and tensor.is_floating_point() and tensor.numel() > 0:
            largest = max(largest, tensor.double().nan_to_num(0, 0, 0).abs().max().item())
    return largest


__all__ = ["FINITE", "INT_MAX", "INT_MIN", "Case", "Draw", "accumulation_dtype", "magnitude"]
