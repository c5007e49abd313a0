"""What the three soft operators share: arguments and validation."""

import torch
from torch import Tensor

from .._checks import FLOATING, accumulation_dtype, check_float, check_int, check_tensors

Scalar = float | Tensor


def coefficients(compactness: Scalar, temperature: Scalar, features: Tensor) -> tuple[Tensor | None, float, float]:
    """(coefficients, compactness, temperature): a tensor [2] if either is a tensor (learned), else plain numbers."""
    if not isinstance(compactness, Tensor):
        check_float("compactness", compactness, minimum=0)
    if not isinstance(temperature, Tensor):
        check_float("temperature", temperature, above=0)
    if not isinstance(compactness, Tensor) and not isinstance(temperature, Tensor):
        return None, float(compactness), float(temperature)
    dtype = accumulation_dtype(features.dtype)
    parts = []
    for name, value in (("compactness", compactness), ("temperature", temperature)):
        if not isinstance(value, Tensor):
            value = features.new_full((), value, dtype=dtype)
        if value.numel() != 1 or not value.is_floating_point() or value.device != features.device:
            raise ValueError(
                f"{name}: expected a number or a floating tensor with one element on {features.device}; "
                f"found [{','.join(map(str, value.shape))}] of {value.dtype} on {value.device}"
            )
        parts.append(value.to(dtype).reshape(()))
    return torch.stack(parts), 0.0, 1.0


def check_clusters(
    features: Tensor, cell: int, centers: Tensor, positions: Tensor, mass: Tensor | None, mask: Tensor | None
) -> None:
    """Features, and centres on the grid of cells that they imply."""
    check_int("cell", cell, 1)
    sizes = check_tensors(features=(features, "B C H W", FLOATING), mask=(mask, "B H W?", torch.bool))
    rows, columns = -(-sizes["H"] // cell), -(-sizes["W"] // cell)
    accumulate = accumulation_dtype(features.dtype)
    batch, channels, count = sizes["B"], sizes["C"], rows * columns
    for name, tensor, notation, shape in (
        ("centers", centers, "B L C", (batch, count, channels)),
        ("positions", positions, "B L 2", (batch, count, 2)),
        ("mass", mass, "B L?", (batch, count)),
    ):
        check_tensors(features=(features, "B C H W", FLOATING), **{name: (tensor, notation, accumulate)})
        if tensor is not None and tuple(tensor.shape) != shape:
            raise ValueError(
                f"{name}: expected {list(shape)}, one centre for each of the {rows} x {columns} cells of {cell} "
                f"pixels; found {list(tensor.shape)}"
            )
