"""Fuzzed arguments of the operators on label maps."""

import torch
from fuzz_values import FINITE, INT_MAX, Case, accumulation_dtype
from grid import DTYPES

COMPARED = (*FINITE, "tiny")


def _map(draw):
    """A size (B, H, W), a capacity and a label map."""
    size, segments = draw.image_size(), draw.segments()
    return size, segments, draw.labels(*size, segments)


def _image(draw, size, channels=None):
    """A kind, and features [B,C,H,W] of it."""
    batch, height, width = size
    kind = draw.kind()
    channels = draw.size(1, 2, 3, 4, 5, 8, 11, 0) if channels is None else channels
    return kind, draw.values(kind, draw.dtype(), batch, channels, height, width)


def connected_components(draw):
    size, _, labels = _map(draw)
    features = None if draw.chance(3) else _image(draw, size)[1]
    return Case((labels, features, draw.pick(0, 1, 2, 3, 5, 30, INT_MAX, 2**40, -1), draw.pick(False, True)))


def relabel(draw):
    size, segments, labels = _map(draw)
    return Case((labels, draw.layout(draw.extremes(-1, 9, size[0], segments))))


def trace(draw):
    size, segments = draw.image_size(), draw.segments()
    return Case((draw.layout(draw.labels(1, *size[1:], segments)[0]),))


def color_sums(draw):
    size, segments = draw.image_size(), draw.segments()
    labels = draw.layout(draw.labels(1, *size[1:], segments)[0])
    image = torch.randint(0, 256, (draw.pick(0, 1, 3, 4), *size[1:]), dtype=torch.uint8)
    return Case((draw.layout(image), labels, segments))


def segment_moments(draw):
    size, segments, labels = _map(draw)
    kind, features = _image(draw, size)
    return Case((features, labels, segments), compared=kind in COMPARED, finite=kind in COMPARED)


def segment_moments_backward(draw):
    size, segments, labels = _map(draw)
    kind, features = _image(draw, size)
    kinds = [draw.kind() for _ in range(3)]
    shape = (size[0], segments, features.shape[1])
    grad_mean, grad_m2, mean = (draw.values(k, accumulation_dtype(features.dtype), *shape) for k in kinds)
    count = draw.layout(draw.extremes(0, 20, size[0], segments))
    calm = all(k in COMPARED for k in (kind, *kinds)) and bool((count > 0).all())
    if "offset" in (kind, *kinds):  # a product of two overflows float16
        calm &= features.dtype != torch.float16
    return Case((grad_mean, grad_m2, features, labels, count, mean), compared=calm, finite=calm)


def information_criterion(draw):
    batch, nodes, channels = draw.size(1, 2, 0), draw.size(), draw.size(1, 2, 3, 20, 70, 0)
    kind = draw.kind()
    m2 = draw.values(kind, draw.pick(torch.float32, torch.float64), batch, nodes, channels).abs()
    noise, rho = draw.pick(16.0, 1.0, 1e-3, 1e-30, 1e30), draw.pick(4.0, 1.0, 0.01, 1e6)
    criterion = draw.pick("bic", "aic", "aicc", "hqc", "cic", "mdl")
    arguments = (
        draw.layout(draw.extremes(0, 400, batch, nodes)),
        m2,
        draw.layout(draw.extremes(0, 80, batch, nodes)),
        draw.layout(draw.extremes(0, 10000, batch)),
        criterion,
        noise,
        rho,
    )
    return Case(arguments, compared=kind != "huge", finite=kind in COMPARED)


def information_criterion_backward(draw):
    batch, nodes, channels = draw.size(1, 2, 0), draw.size(), draw.size(1, 2, 3, 20, 0)
    kinds, dtype = (draw.kind(), draw.kind()), draw.pick(torch.float32, torch.float64)
    grad = draw.values(kinds[0], dtype, batch, nodes)
    m2 = draw.values(kinds[1], dtype, batch, nodes, channels).abs()
    count = draw.layout(draw.extremes(0, 400, batch, nodes))
    calm = all(kind in COMPARED for kind in kinds)
    return Case((grad, count, m2, draw.pick(16.0, 1.0, 0.1), draw.pick(4.0, 1.0, 0.5)), compared=calm, finite=calm)


def region_graph(draw):
    _, segments, labels = _map(draw)
    return Case((labels, segments, draw.pick(3 * segments + 1, 0, 1, 2, 5)))


def _weights(draw, size):
    """None, or a kind and weights [B,H,W] of any floating dtype."""
    if draw.chance(2):
        return "plain", None
    kind = draw.kind()
    return kind, draw.values(kind, draw.pick(*DTYPES), *size)


def _tokens(draw, size, segments, channels, dtype):
    kind = draw.kind()
    return kind, draw.values(kind, dtype, size[0], segments, channels)


def segment_sum(draw):
    size, segments, labels = _map(draw)
    kind, features = _image(draw, size)
    weights_kind, weights = _weights(draw, size)
    calm = kind in COMPARED and weights_kind in COMPARED
    return Case((features, labels, weights, segments), compared=calm, finite=calm)


def segment_gather(draw):
    size, segments, labels = _map(draw)
    kind, values = _tokens(draw, size, segments, draw.size(1, 2, 3, 5, 8, 0), draw.dtype())
    weights_kind, weights = _weights(draw, size)
    # Rows are copied, or multiplied once: nothing can differ, whatever the numbers are.
    calm = kind in FINITE and weights_kind in FINITE
    return Case((values, labels, weights, draw.pick(False, True)), finite=calm)


def segment_dot(draw):
    size, segments, labels = _map(draw)
    kind, features = _image(draw, size)
    values_kind, values = _tokens(draw, size, segments, features.shape[1], draw.dtype())
    calm = kind in COMPARED and values_kind in COMPARED
    return Case((values, features, labels), compared=calm, finite=calm)


def segment_max(draw):
    size, segments, labels = _map(draw)
    kind, features = _image(draw, size)
    return Case((features, labels, segments), finite=kind not in ("holes",))


def mean_inject(draw):
    size, segments, labels = _map(draw)
    kind, image = _image(draw, size)
    tokens_kind, tokens = _tokens(draw, size, segments, image.shape[1], draw.dtype())
    calm = kind in COMPARED and tokens_kind in COMPARED
    return Case((image, tokens, labels), compared=calm, finite=calm)


def _boxes(draw, size, segments):
    """Boxes [B,K,4]: inside the image, or anything."""
    batch, height, width = size
    ends = draw.extremes(-3, max(height, width) + 3, batch, segments, 4)
    if draw.chance(3):
        return draw.layout(ends)
    low = draw.integers(0, 1 << 20, batch, segments, 2) % torch.tensor([max(height, 1), max(width, 1)])
    high = low + draw.integers(0, 5, batch, segments, 2)
    return draw.layout(torch.cat((low, high), -1).int())


def token_patches(draw):
    size, segments, labels = _map(draw)
    segments = min(segments, 16)
    kind, image = _image(draw, size)
    return Case(
        (image, labels, _boxes(draw, size, segments), draw.pick(1, 2, 3, 4, 5, 8)),
        compared=kind != "huge",
        finite=kind in COMPARED,
    )


def token_patches_backward(draw):
    size, segments = draw.image_size(), draw.size(1, 2, 3, 5, 16, 0)
    side, kind = draw.pick(1, 2, 3, 4, 5, 8), draw.kind()
    grad = draw.values(kind, draw.dtype(), size[0], segments, draw.size(1, 2, 3, 0), side, side)
    calm = kind in COMPARED and not (kind == "offset" and grad.dtype == torch.float16)
    return Case((grad, _boxes(draw, size, segments), *size[1:]), compared=calm, finite=calm)


def position_histogram(draw):
    size, segments, labels = _map(draw)
    segments = min(segments, 61)
    sizes = None if draw.chance(2) else draw.layout(draw.extremes(0, max(size) + 2, size[0], 2))
    return Case((labels, sizes, segments, draw.pick(1, 2, 3, 7, 14), draw.pick(1, 2, 5, 14)), finite=True)


def _rows(draw, *size):
    return draw.values(draw.kind(), draw.dtype(), *size)


def _offsets(draw, batch, total):
    """[B+1]: rising, or (not compared) anything; True where they rise."""
    if draw.chance(4):
        return draw.layout(draw.extremes(-2, total + 2, batch + 1)), False
    steps = draw.integers(0, 5, batch + 1)
    steps[0] = draw.pick(0, 0, 2)
    return draw.layout(steps.cumsum(0).int()), True


def pack(draw):
    batch = draw.size(1, 2, 3, 7, 0)
    values = _rows(draw, batch, draw.size(), draw.size(1, 2, 5, 64, 0))
    total = draw.pick(0, 1, 7, 20, 100)
    offsets, rising = _offsets(draw, batch, total)
    return Case((values, offsets, total), compared=rising)


def unpack(draw):
    values = _rows(draw, draw.size(), draw.size(1, 2, 5, 64, 0))
    offsets, _ = _offsets(draw, draw.size(1, 2, 3, 7, 0), len(values))
    return Case((values, offsets, draw.pick(0, 1, 3, 8, 70)))


def pad(draw):
    batch = draw.size(1, 2, 3, 7, 0)
    values = _rows(draw, batch, draw.size(), draw.size(1, 2, 5, 64, 0))
    return Case((values, draw.layout(draw.extremes(-1, values.shape[1] + 2, batch)), draw.pick(0, 1, 3, 8, 70)))


CASES = {
    case.__name__: case
    for case in (
        connected_components,
        relabel,
        trace,
        color_sums,
        segment_moments,
        segment_moments_backward,
        information_criterion,
        information_criterion_backward,
        region_graph,
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
