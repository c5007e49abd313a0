"""The one place that launches kernels: on the device of their tensors, with exact arithmetic."""

from typing import Any

import torch
from torch import Tensor


def launch(kernel: Any, programs: int, like: Tensor, *arguments: Any, warps: int = 4, **constants: Any) -> None:
    """Run a kernel of `programs` programs, numbered along the first axis, on the device and stream of `like`.

    Products are not contracted with sums: where rounding decides something discrete, every backend decides the same.
    """
    if programs == 0:
        return
    with torch.cuda.device_of(like):
        kernel[(programs,)](*arguments, **constants, num_warps=warps, enable_fp_fusion=False)
