"""The speed and memory that the package has to reach, computed from a result file."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from .results_file import Group, Results

MIB = 1 << 20
SOFT = "soft_cluster_10-{}-1x5x480x640"
SIDES = (224, 512, 1024, 2048, 4096)


@dataclass(frozen=True)
class Target:
    text: str
    limit: float
    unit: str
    #: The measured value; None where the case or the peer is not in the file.
    value: Callable[[Results], float | None]
    at_least: bool = True
    device: str = "cpu"

    def reached(self, value: float) -> bool:
        return value >= self.limit if self.at_least else value <= self.limit


def _ratio(results: Results, case: str, peer: str, threads: int | None = None) -> float | None:
    """How many times ours is faster than a peer."""
    group = results.find(case, threads)
    return group.rows[peer].ratio[0] if group and peer in group.rows else None


def _of(results: Results, case: str, value: Callable[[Group], float | None]) -> float | None:
    group = results.find(case)
    return value(group) if group else None


def _least(results: Results, operator: str, peer: str, threads: int) -> float | None:
    """The worst ratio over all shapes."""
    groups = [g for g in results.groups.values() if g.operator == operator and g.threads == threads]
    return min((g.rows[peer].ratio[0] for g in groups if peer in g.rows), default=None)


def _inverse(value: float | None) -> float | None:
    return None if value is None else 1 / value


def _memory(group: Group) -> float | None:
    return None if group.ours.memory is None else group.ours.memory / MIB


def growth(results: Results) -> list[tuple[int, float, float | None]]:
    """Of the tokenizer: (side, ns per pixel, peak memory in bytes of input), for the sides that were measured."""
    points = []
    for side in SIDES:
        group = results.find(f"tokenizer-forward-1x3x{side}x{side}")
        if group:
            memory = group.ours.memory
            points.append(
                (side, 1e9 * group.ours.median / group.pixels, None if memory is None else memory / (12 * group.pixels))
            )
    return points


def _grows(results: Results, what: int) -> float | None:
    """A quantity of `growth` at 4096 px over the one at 512 px."""
    points = {point[0]: point[what] for point in growth(results)}
    small, large = points.get(512), points.get(4096)
    return large / small if small and large else None


def _milliseconds(group: Group) -> float:
    return 1e3 * group.ours.median


def _soft(direction: str) -> str:
    return SOFT.format(direction)


TARGETS = (
    Target(
        "soft clustering, forward + backward, 480x640, C=5, 10 iterations: faster than PyTorch gathers",
        90,
        "x",
        lambda r: _ratio(r, _soft("forward+backward"), "PyTorch gathers"),
    ),
    Target(
        "the same: peak memory above the input",
        20,
        "MiB",
        lambda r: _of(r, _soft("forward+backward"), _memory),
        at_least=False,
    ),
    Target(
        "soft clustering, forward: time over fast-slic AVX2's on the same image and cells",
        2,
        "x",
        lambda r: _inverse(_ratio(r, _soft("forward"), "fast-slic AVX2")),
        at_least=False,
    ),
    Target("soft clustering, forward: share of the FMA ceiling", 0.65, "%", lambda r: _of(r, _soft("forward"), _fma)),
    Target(
        "soft clustering, forward + backward: share of the FMA ceiling",
        0.65,
        "%",
        lambda r: _of(r, _soft("forward+backward"), _fma),
    ),
    Target(
        "moments with variance, 512 px, C=3: faster than two scatter_reduce passes",
        25,
        "x",
        lambda r: _ratio(r, "segment_moments-forward-1x3x512x512", "scatter_reduce x2"),
    ),
    *(
        Target(
            f"moments with variance, {side} px, C=3: share of the copy ceiling",
            0.70,
            "%",
            lambda r, side=side: _of(r, f"segment_moments-forward-1x3x{side}x{side}", lambda g: g.copy_share),
        )
        for side in (512, 2048)
    ),
    Target(
        "connected components, worst shape, one thread: speed over cc3d's",
        1,
        "x",
        lambda r: _least(r, "connected_components", "cc3d", 1),
    ),
    Target(
        "connected components, worst shape, all threads: speed over cc3d's",
        1,
        "x",
        lambda r: _least(r, "connected_components", "cc3d", r.threads),
    ),
    Target(
        "patches, 8 images of 224 px: faster than roi_align",
        6,
        "x",
        lambda r: _ratio(r, "token_patches-forward-8x3x224x224", "torchvision roi_align"),
    ),
    Target(
        "ragged pooling, 14,518 x 384: speed over embedding_bag's",
        1,
        "x",
        lambda r: _ratio(r, "ragged_pool-forward-1x384x1x14518", "embedding_bag"),
    ),
    Target(
        "tokenizer, soft leaves, sRGB to partition, one 224 px image",
        4,
        "ms",
        lambda r: _of(r, "tokenizer-forward-1x3x224x224", _milliseconds),
        at_least=False,
    ),
    *(
        Target(
            f"tokenizer, pixel leaves, C=8 features to partition, one {side} px image",
            limit,
            "ms",
            lambda r, side=side: _of(r, f"tokenizer_pixels-forward-1x8x{side}x{side}", _milliseconds),
            at_least=False,
        )
        for side, limit in ((224, 3.5), (512, 20))
    ),
    Target("tokenizer: time per pixel at 4096 px over 512 px", 1.25, "x", lambda r: _grows(r, 1), at_least=False),
    Target("tokenizer: memory per input byte at 4096 px over 512 px", 1.25, "x", lambda r: _grows(r, 2), False),
)


def _copies(group: Group, bytes_moved: float) -> float:
    """Time over that of a copy that moves so many bytes."""
    copy = group.rows["copy"]
    return group.ours.median / (bytes_moved * copy.median / copy.bytes)


def _floor(case: str, words: float) -> Callable[[Results], float | None]:
    """Time over the floor: so many words of 4 bytes per pixel, at the speed of the copy."""
    return lambda results: _of(results, case, lambda g: _copies(g, 4 * words * g.pixels))


def _on_gpu(text: str, limit: float, unit: str, value: Callable[[Results], float | None], at_least: bool) -> Target:
    return Target(text, limit, unit, value, at_least, "cuda")


def _share(case: str) -> Callable[[Results], float | None]:
    return lambda results: _of(results, case, lambda g: g.copy_share)


BATCH = "64x3x224x224"
FIVE = "soft_cluster-{}-64x20x224x224"


def _backward_over_floor(results: Results) -> float | None:
    forward, both = (results.find(FIVE.format(direction)) for direction in ("forward", "forward+backward"))
    if not forward or not both:
        return None
    copy = forward.rows["copy"]
    floor = 4 * (5 + 1) * 20 * forward.pixels * copy.median / copy.bytes
    return (both.ours.median - forward.ours.median) / floor


GPU_TARGETS = (
    *(
        _on_gpu(
            f"{name}, 64 x 224 px, C=3: share of the copy ceiling", 0.70, "%", _share(f"{name}-forward-{BATCH}"), True
        )
        for name in ("segment_moments", "segment_pool_mean", "mean_inject")
    ),
    _on_gpu(
        "soft clustering, 64 x 224 px, C=20, 5 iterations, forward: time over reading the image in every iteration",
        2,
        "x",
        _floor(FIVE.format("forward"), 5 * 20),
        False,
    ),
    _on_gpu(
        "the same, backward alone: time over reading the image in every iteration and writing its gradient once",
        2.5,
        "x",
        _backward_over_floor,
        False,
    ),
    _on_gpu(
        "connected components: time over 16 bytes per pixel",
        3,
        "x",
        _floor(f"connected_components-forward-{BATCH}", 4),
        False,
    ),
    _on_gpu(
        "tokenizer, soft leaves, sRGB to partition, 64 images of 224 px",
        0.5,
        "ms",
        lambda r: _of(r, f"tokenizer-forward-{BATCH}", _milliseconds),
        False,
    ),
    _on_gpu(
        "tokenizer, pixel leaves, C=8 features to partition, 64 images of 224 px",
        0.3,
        "ms",
        lambda r: _of(r, "tokenizer_pixels-forward-64x8x224x224", _milliseconds),
        False,
    ),
    _on_gpu("tokenizer: time per pixel at 4096 px over 512 px", 1.25, "x", lambda r: _grows(r, 1), False),
    _on_gpu("tokenizer: memory per input byte at 4096 px over 512 px", 1.25, "x", lambda r: _grows(r, 2), False),
)


def _fma(group: Group) -> float | None:
    return group.fma_share


def shown(value: float | None, unit: str) -> str:
    if value is None:
        return "not measured"
    return f"{100 * value:.0f} %" if unit == "%" else f"{value:.3g} {unit}"


def rows(results: Results) -> list[tuple[str, str, str, str]]:
    """(target, limit, measured, verdict) for every target."""
    lines = []
    for target in TARGETS + GPU_TARGETS:
        if target.device != torch.device(results.device).type:
            continue
        value = target.value(results)
        limit = f"{'>=' if target.at_least else '<='} {shown(target.limit, target.unit)}"
        verdict = "" if value is None else "reached" if target.reached(value) else "NOT REACHED"
        lines.append((target.text, limit, shown(value, target.unit), verdict))
    return lines
