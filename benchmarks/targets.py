"""The speed and memory that the package has to reach, computed from a result file."""

from collections.abc import Callable
from dataclasses import dataclass

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
        lambda r: _of(r, "tokenizer-forward-1x3x224x224", lambda g: 1e3 * g.ours.median),
        at_least=False,
    ),
    Target("tokenizer: time per pixel at 4096 px over 512 px", 1.25, "x", lambda r: _grows(r, 1), at_least=False),
    Target("tokenizer: memory per input byte at 4096 px over 512 px", 1.25, "x", lambda r: _grows(r, 2), False),
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
    for target in TARGETS:
        value = target.value(results)
        limit = f"{'>=' if target.at_least else '<='} {shown(target.limit, target.unit)}"
        verdict = "" if value is None else "reached" if target.reached(value) else "NOT REACHED"
        lines.append((target.text, limit, shown(value, target.unit), verdict))
    return lines
