"""Arguments for the operators that turn segments into tokens."""

import torch
from grid import label_maps


def _labels(*size: int) -> torch.Tensor:
    """Every id from -2 to 17: 16 segments, and ids outside them."""
    return torch.randint(-2, 18, size, generator=torch.Generator().manual_seed(0), dtype=torch.int32)


def _random(*size: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(1)).to(dtype)


#: (labels, K, C): many strips of blocks in both images; every id; a pixel; a column; no image, no pixel, no segment.
def _cases() -> list[tuple[torch.Tensor, int, int]]:
    large = label_maps(2, 96, 101, 600)["blocks"]
    large[1, 70:] = -1
    return [
        (large, 600, 7),
        (_labels(2, 13, 9), 16, 3),
        (_labels(1, 1, 1), 1, 1),
        (_labels(2, 17, 1), 16, 2),
        (_labels(0, 4, 5), 3, 2),
        (_labels(2, 0, 5), 3, 2),
        (_labels(1, 4, 5), 0, 2),
    ]


def segment_sum(dtype):
    return [
        (_random(len(labels), c, *labels.shape[1:], dtype=dtype), labels, weights, k)
        for labels, k, c in _cases()
        for weights in (_random(*labels.shape, dtype=dtype), None)
    ]


def segment_gather(dtype):
    return [
        (_random(len(labels), k, c, dtype=dtype), labels, weights, channels_last)
        for labels, k, c in _cases()
        for weights in (_random(*labels.shape, dtype=dtype), None)
        for channels_last in (False, True)
    ]


def segment_dot(dtype):
    return [
        (_random(len(labels), k, c, dtype=dtype), _random(len(labels), c, *labels.shape[1:], dtype=dtype), labels)
        for labels, k, c in _cases()
    ]


def segment_max(dtype):
    return [(_random(len(labels), c, *labels.shape[1:], dtype=dtype), labels, k) for labels, k, c in _cases()]


def mean_inject(dtype):
    return [
        (_random(len(labels), c, *labels.shape[1:], dtype=dtype), _random(len(labels), k, c, dtype=dtype), labels)
        for labels, k, c in _cases()
    ]


def _boxes(batch: int, num_segments: int, height: int, width: int) -> torch.Tensor:
    """Boxes inside the image, across its border, empty ones and hostile ones."""
    generator = torch.Generator().manual_seed(2)
    corner = torch.randint(-3, max(height, width), (batch, num_segments, 2), generator=generator)
    extent = torch.randint(-2, 24, (batch, num_segments, 2), generator=generator)
    boxes = torch.cat([corner, corner + extent], -1).int()
    if boxes.numel():
        limits = torch.iinfo(torch.int32)
        boxes[0, 0] = torch.tensor([limits.min, 0, limits.max, 3])
    return boxes


def token_patches(dtype):
    return [
        (_random(len(labels), c, *labels.shape[1:], dtype=dtype), labels, _boxes(len(labels), k, *labels.shape[1:]), p)
        for labels, k, c in _cases()
        for p in (5, 1)
    ]


def token_patches_backward(dtype):
    return [
        (_random(len(labels), k, c, p, p, dtype=dtype), _boxes(len(labels), k, *labels.shape[1:]), *labels.shape[1:])
        for labels, k, c in _cases()
        for p in (5, 1)
    ]


def position_histogram(dtype):
    cases = []
    for labels, k, _ in _cases():
        sizes = torch.tensor([[labels.shape[1] - 1, labels.shape[2]]] * len(labels), dtype=torch.int32).reshape(-1, 2)
        cases += [(labels, None, k, 3, 4), (labels, sizes, k, 14, 14)]
    return cases


def _offsets(*numbers: int) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.int32)


def pack(dtype):
    return [
        (_random(3, 200, 5, dtype=dtype), _offsets(0, 200, 200, 301), 320),
        (_random(3, 4, 5, dtype=dtype), _offsets(0, 4, 6, 9), 7),
        (_random(2, 4, 1, dtype=dtype), _offsets(0, 9, 9), 9),
        (_random(0, 4, 5, dtype=dtype), _offsets(0), 2),
        (_random(2, 0, 5, dtype=dtype), _offsets(0, 0, 0), 0),
    ]


def unpack(dtype):
    return [
        (_random(301, 5, dtype=dtype), _offsets(0, 200, 200, 301), 128),
        (_random(7, 5, dtype=dtype), _offsets(0, 4, 6, 9), 4),
        (_random(7, 5, dtype=dtype), _offsets(-3, 2**31 - 1, -(2**31), 9), 4),
        (_random(0, 5, dtype=dtype), _offsets(0), 2),
        (_random(0, 5, dtype=dtype), _offsets(0, 0, 0), 3),
    ]


def pad(dtype):
    return [
        (_random(4, 200, 5, dtype=dtype), _offsets(0, 200, 120, 7), 128),
        (_random(4, 3, 5, dtype=dtype), _offsets(-5, 2**31 - 1, 2, 3), 6),
        (_random(0, 3, 5, dtype=dtype), _offsets(), 6),
        (_random(2, 0, 5, dtype=dtype), _offsets(1, 2), 0),
    ]


SAMPLES = {
    operator.__name__: operator
    for operator in (
        segment_sum,
        segment_gather,
        segment_dot,
        segment_max,
        mean_inject,
        token_patches,
        token_patches_backward,
        position_histogram,
        pack,
        unpack,
        pad,
    )
}
