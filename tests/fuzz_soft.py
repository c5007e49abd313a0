"""Fuzzed arguments of the CIELAB and the soft operators."""

import torch
from fuzz_values import FINITE, INT_MAX, Case, accumulation_dtype
from torch import Tensor

from dhvt_kernels._schema import ops


def srgb_to_lab(draw):
    batch, height, width = draw.image_size()
    dtype, kind = draw.pick(torch.uint8, *[draw.dtype()] * 3), draw.kind()
    if dtype == torch.uint8:
        return Case((draw.layout(draw.integers(0, 255, batch, 3, height, width).to(dtype)),), finite=True)
    images = draw.values(kind, dtype, batch, 3, height, width)
    if draw.chance(2):
        images = images.clamp(0, 1)
    extreme = kind in ("huge", "holes")
    return Case((images,), compared=not extreme, finite=not extreme)


def srgb_to_lab_backward(draw):
    batch, height, width = draw.image_size()
    dtype, kind, grad_kind = draw.dtype(), draw.kind(), draw.kind()
    images = draw.values(kind, dtype, batch, 3, height, width)
    grad = draw.values(grad_kind, accumulation_dtype(dtype), batch, 3, height, width)
    extreme = {"huge", "holes"} & {kind, grad_kind}
    # A gradient of 100 in Lab can be one of 100,000 in sRGB, which float16 does not hold.
    finite = kind in FINITE and grad_kind in FINITE and dtype != torch.float16
    return Case((grad, images), compared=not extreme, finite=finite)


def gaussian_blur(draw):
    batch, height, width = draw.image_size()
    kind = draw.kind()
    images = draw.values(kind, draw.dtype(), batch, draw.size(1, 2, 3, 5, 0), height, width)
    return Case((images, draw.mask(batch, height, width), draw.pick(0.7, 0.01, 2.5, 1e300)), compared=kind != "huge")


def gaussian_blur_backward(draw):
    images, mask, sigma = gaussian_blur(draw).arguments
    _, total = torch.ops.dhvt_kernels.gaussian_blur(images, mask, sigma)
    kind = draw.kind()
    grad = draw.values(kind, images.dtype, *images.shape)
    return Case((grad, draw.layout(total), sigma), compared=kind != "huge")


def _cells(size: int, cell: int) -> int:
    return -(-size // cell)


class Clustering:
    """Drawn features with what describes an assignment to centres."""

    def __init__(self, draw):
        self.draw = draw
        self.kind, self.dtype = draw.kind(), draw.dtype()
        batch, height, width = draw.image_size()
        self.size = (batch, height, width)
        self.acc = accumulation_dtype(self.dtype)
        self.features = draw.values(self.kind, self.dtype, batch, draw.size(1, 2, 3, 5, 8, 11, 0), height, width)
        self.mask = draw.mask(*self.size)
        self.cell = draw.pick(1, 2, 3, 4, 7, 8, 64, INT_MAX)
        compactness, temperature = draw.pick(0.0, 0.5, 5.0, 1e6), draw.pick(0.5, 1.0, 3.0, 1e-3, 1e-30, 1e30)
        self.calm = temperature in (0.5, 1.0, 3.0) and compactness <= 5 and self.kind in FINITE
        self.calm &= self.kind != "offset" or self.dtype not in (torch.float16, torch.bfloat16)
        self.coefficients = None
        if draw.chance(3):
            hostile = draw.chance(3)
            values = [draw.pick(float("nan"), -1.0, 0.0, float("inf")) for _ in range(2)] if hostile else None
            self.calm &= not hostile
            self.coefficients = torch.tensor(values or [compactness, temperature], dtype=self.acc)
        self.numbers = (self.cell, compactness, temperature)
        self.cells = _cells(height, self.cell) * _cells(width, self.cell)

    def centers(self) -> tuple[Tensor, Tensor, Tensor]:
        """Centers [B,L,C], positions [B,L,2], mass [B,L]: of an iteration, or anything."""
        draw, (batch, _, _), channels = self.draw, self.size, self.features.shape[1]
        if self.calm or draw.chance(2):
            state = ops.soft_cluster(self.features, self.mask, self.coefficients, *self.numbers, 1)[:3]
            return tuple(part[-1] for part in state)
        self.calm = False
        kinds = [draw.kind() for _ in range(3)]
        shapes = ((batch, self.cells, channels), (batch, self.cells, 2), (batch, self.cells))
        return tuple(draw.values(kind, self.acc, *shape) for kind, shape in zip(kinds, shapes, strict=True))

    def case(self, *arguments, **own) -> Case:
        return Case(arguments, compared=self.calm, finite=self.calm, own=own.get("own"))

    def labels_are_nearest(self, features, centers, positions, mass):
        """For own=: the labelled centre is a candidate, and none is nearer by more than rounding."""

        def check(native: tuple[Tensor, ...], reference: tuple[Tensor, ...], index: int) -> None:
            labels, expected = native[index], reference[index]
            assert torch.equal(labels < 0, expected < 0)
            if not self.calm:
                assert ((labels >= -1) & (labels < max(self.cells, 1))).all()
                return
            if labels.numel() == 0:
                return
            kappa = (self.numbers[1] if self.coefficients is None else self.coefficients[0].item()) / self.cell
            f = features.double().permute(0, 2, 3, 1).flatten(1, 2)
            y, x = torch.meshgrid(*(torch.arange(size) for size in self.size[1:]), indexing="ij")
            p = torch.stack((y, x), -1).flatten(0, 1).double()

            def distance(label: Tensor) -> Tensor:
                j = label.flatten(1).long().clamp(min=0)[..., None]
                mu = centers.double().gather(1, j.expand(-1, -1, f.shape[-1]))
                s = positions.double().gather(1, j.expand(-1, -1, 2))
                return (f - mu).square().sum(-1) + kappa**2 * (p - s).square().sum(-1)

            ours, best = distance(labels), distance(expected)
            scale = 1 + best.abs().max() + kappa**2
            assert ((ours - best).abs() <= 1e-4 * scale).all()

        return check


def soft_assign(draw):
    c = Clustering(draw)
    centers, positions, mass = c.centers()
    mass = None if draw.chance(4) else mass
    own = {1: c.labels_are_nearest(c.features, centers, positions, mass)}
    return c.case(c.features, centers, positions, mass, c.mask, c.coefficients, *c.numbers, own=own)


def soft_assign_backward(draw):
    c = Clustering(draw)
    centers, positions, mass = c.centers()
    kind = draw.kind()
    c.calm &= kind in FINITE
    grad = draw.values(kind, c.dtype, c.size[0], 9, *c.size[1:])
    return c.case(grad, c.features, centers, positions, mass, c.mask, c.coefficients, *c.numbers)


def soft_cluster(draw):
    c = Clustering(draw)
    iterations = draw.pick(1, 2, 0)
    states = ops.soft_cluster(c.features, c.mask, c.coefficients, *c.numbers, iterations)
    own = {3: c.labels_are_nearest(c.features, *(part[-1] for part in states[:3]))}
    return c.case(c.features, c.mask, c.coefficients, *c.numbers, iterations, own=own)


def soft_cluster_backward(draw):
    c = Clustering(draw)
    iterations = draw.pick(1, 2, 0)
    states = list(ops.soft_cluster(c.features, c.mask, c.coefficients, *c.numbers, iterations)[:3])
    kinds = [draw.kind() for _ in states]
    if draw.chance(4):  # states that no iteration gives
        c.calm = False
        states = [draw.values(draw.kind(), c.acc, *state.shape) for state in states]
    c.calm &= all(kind in FINITE for kind in kinds)
    grads = [draw.values(kind, c.acc, *state.shape[1:]) for kind, state in zip(kinds, states, strict=True)]
    return c.case(*grads, c.features, c.mask, c.coefficients, *states, *c.numbers, draw.pick(False, True))


def _values(c: Clustering) -> Tensor:
    kind = c.draw.kind()
    c.calm &= kind in FINITE
    return c.draw.values(kind, c.dtype, c.size[0], c.draw.size(1, 3, 4, 9, 0), *c.size[1:])


def soft_pool(draw):
    c = Clustering(draw)
    centers, positions, mass = c.centers()
    values = _values(c)
    return c.case(c.features, values, centers, positions, mass, c.mask, c.coefficients, *c.numbers)


def soft_pool_backward(draw):
    c = Clustering(draw)
    centers, positions, mass = c.centers()
    values = _values(c)
    kinds = draw.kind(), draw.kind()
    c.calm &= all(kind in FINITE for kind in kinds)
    grads = (
        draw.values(kinds[0], c.acc, c.size[0], c.cells, values.shape[1]),
        draw.values(kinds[1], c.acc, c.size[0], c.cells),
    )
    return c.case(*grads, c.features, values, centers, positions, mass, c.mask, c.coefficients, *c.numbers)


CASES = {
    case.__name__: case
    for case in (
        srgb_to_lab,
        srgb_to_lab_backward,
        gaussian_blur,
        gaussian_blur_backward,
        soft_assign,
        soft_assign_backward,
        soft_cluster,
        soft_cluster_backward,
        soft_pool,
        soft_pool_backward,
    )
}
