"""Models attend inside each image of a packed row without knowing of it."""

from collections.abc import Callable
from types import FunctionType
from typing import Any

from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from .kernels import Kernel, NotPacked, Options, Row


def on_row(function: Callable[..., Tensor], kernel: Kernel, row: Row) -> Callable[..., Tensor]:
    """The function, where every `scaled_dot_product_attention` is inside each image.

    Raises:
        NotPacked: on a call, one without any, or with a mask or other rows.
    """

    def call(*args: Any) -> Tensor:
        with _Attention(kernel, row) as attention:
            out = function(*args)
        if not attention.calls:
            raise NotPacked(
                "a block never called torch's scaled_dot_product_attention (in timm `fused_attn` has to be True, in "
                'transformers the attention implementation "sdpa")'
            )
        return out

    return call


class _Attention(TorchFunctionMode):
    """Replaces `scaled_dot_product_attention`, also where `nn.MultiheadAttention` calls it, and counts the calls."""

    def __init__(self, kernel: Kernel, row: Row) -> None:
        super().__init__()
        self.kernel, self.row, self.calls = kernel, row, 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            return self._attend(*args, **kwargs)
        if func is F.multi_head_attention_forward:
            return self._multi_head(*args, **kwargs)
        return func(*args, **kwargs)

    def _attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        *,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        total = sum(self.row.counts)
        if attn_mask is not None or any(x.dim() != 4 or x.shape[::2] != (1, total) for x in (query, key, value)):
            found = [list(x.shape) for x in (query, key, value)] + [None if attn_mask is None else "a mask"]
            raise NotPacked(f"a block attends to other than [1,H,{total},E] without a mask: found {found}")
        self.calls += 1
        return self.kernel(query, key, value, self.row, Options(dropout_p, is_causal, scale, enable_gqa))

    def _multi_head(self, *args: Any, **kwargs: Any) -> Any:
        # torch's function, where the one name means ours: no mode is active inside a mode's own calls.
        inner: Any = F.multi_head_attention_forward
        names = {**inner.__globals__, "scaled_dot_product_attention": self._attend}
        same = FunctionType(inner.__code__, names, inner.__name__, inner.__defaults__, inner.__closure__)
        same.__kwdefaults__ = inner.__kwdefaults__
        return same(*args, **kwargs)
