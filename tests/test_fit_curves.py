"""Lines and curves through points: few, near, smooth where the points are, and with their corners."""

from itertools import pairwise

import numpy as np
import pytest
import shapely
import torch
from arc_tools import MAPS, area, parts, photographs
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import dhvt_kernels as dk
from dhvt_kernels import reference
from dhvt_kernels._schema import ops


def fit(points, tolerance=0.3, closed=False):
    """The control points of one chain, piece by piece [n,4,2]."""
    points = torch.as_tensor(np.asarray(points, float))
    chains = dk.Chains(points, torch.tensor([0, len(points)]), torch.tensor([closed]))
    fitted = dk.fit_curves(chains, tolerance=tolerance)
    assert fitted.offsets.tolist() == [0, len(fitted.points)]
    assert len(fitted.points) % 3 == 1
    out = fitted.points.numpy()
    return np.stack([out[i : i + 4] for i in range(0, len(out) - 1, 3)])


def is_line(piece):
    return (piece[0] == piece[1]).all() and (piece[2] == piece[3]).all()


def along(pieces, steps=200):
    t = np.linspace(0, 1, steps)[:, None]
    weights = (1 - t) ** 3, 3 * (1 - t) ** 2 * t, 3 * (1 - t) * t**2, t**3
    return np.concatenate([sum(w * p for w, p in zip(weights, piece, strict=True)) for piece in pieces])


def distances(points, pieces):
    """Of each point from the curves, as drawn in small steps."""
    return shapely.distance(shapely.linestrings(along(pieces)), shapely.points(points))


def turns(pieces, closed=True):
    """The angles in degrees between the pieces at their joints, and whether both are curves."""
    first = [p[3] - p[0] if is_line(p) else p[1] - p[0] for p in pieces]
    last = [p[3] - p[0] if is_line(p) else p[3] - p[2] for p in pieces]
    bent = [not is_line(p) for p in pieces]
    count = len(pieces) if closed else len(pieces) - 1
    for i in range(count):
        a, b = last[i], first[(i + 1) % len(pieces)]
        cosine = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
        yield np.degrees(np.arccos(np.clip(cosine, -1, 1))), bent[i] and bent[(i + 1) % len(pieces)]


def check_smooth(pieces, closed):
    """One tangent where two curves meet; a line is no tangent of its neighbours, but nearly."""
    for angle, curves in turns(pieces, closed):
        assert angle < (1e-3 if curves else 12)


def circle(radius, count=None):
    angle = np.linspace(0, 2 * np.pi, (count or int(8 * radius)) + 1)
    return np.stack([radius * np.sin(angle), radius * np.cos(angle)], 1)


@pytest.mark.parametrize("radius", [5, 12, 40, 300])
def test_circle(radius, backend):
    points = circle(radius)
    points[-1] = points[0]
    pieces = fit(points, closed=True)
    assert 2 <= len(pieces) <= 8
    assert not any(map(is_line, pieces))
    assert (pieces[0, 0] == pieces[-1, 3]).all()
    assert (pieces[1:, 0] == pieces[:-1, 3]).all()
    assert abs(np.hypot(*along(pieces).T) - radius).max() < 0.35
    assert distances(points, pieces).max() < 0.35
    check_smooth(pieces, closed=True)


def staircase(corners, per_unit=1):
    """Midpoints of unit edges along a polygon: what `edge_points` gives."""
    sides = []
    for a, b in pairwise(corners):
        count = int(np.abs(np.subtract(b, a)).max() * per_unit)
        sides.append(np.asarray(a) + (np.arange(count)[:, None] + 0.5) / count * np.subtract(b, a))
    points = np.concatenate(sides)
    return np.concatenate([points, points[:1]])


@pytest.mark.parametrize("side", [8, 20, 101])
def test_square(side, backend):
    corners = np.array([[0, 0], [0, side], [side, side], [side, 0], [0, 0]]) + 3
    pieces = fit(staircase(corners), closed=True)
    assert len(pieces) == 4
    assert all(map(is_line, pieces))
    found = {tuple(np.round(p[0], 9)) for p in pieces}
    assert found == {tuple(map(float, c)) for c in corners}
    assert [angle for angle, _ in turns(pieces)] == pytest.approx([90] * 4)


def test_triangle_with_slanted_sides(backend):
    corners = np.array([[0, 0], [30, 10], [4, 40], [0, 0]], float)
    pieces = fit(staircase(corners), closed=True)
    assert len(pieces) == 3
    np.testing.assert_allclose(sorted(map(tuple, pieces[:, 0])), sorted(map(tuple, corners[:3])), atol=1e-9)


@pytest.mark.parametrize("count", [2, 3, 4, 7, 1000])
def test_line(count, backend):
    points = np.linspace([3, 4], [-20, 60], count)
    (piece,) = fit(points, tolerance=1e-9)
    np.testing.assert_array_equal(piece, points[[0, 0, -1, -1]])


def test_s_curve(backend):
    x = np.linspace(0, 60, 121)
    points = np.stack([12 * np.sin(2 * np.pi * x / 60), x], 1)
    pieces = fit(points, tolerance=0.3)
    assert len(pieces) <= 4
    assert (pieces[0, 0] == points[0]).all()
    assert (pieces[-1, 3] == points[-1]).all()
    assert distances(points, pieces).max() < 0.35
    check_smooth(pieces, closed=False)
    assert len(fit(points, tolerance=3.0)) < len(pieces) < len(fit(points, tolerance=0.01))


def test_a_corner_between_curves(backend):
    """A half circle on a straight base."""
    angle = np.linspace(0, np.pi, 120)
    base = np.stack([np.zeros(79), np.linspace(-19.5, 19.5, 79)], 1)
    points = np.concatenate([20 * np.stack([np.sin(angle), np.cos(angle)], 1), base])
    pieces = fit(np.concatenate([points, points[:1]]), closed=True)
    assert 1 <= sum(map(is_line, pieces)) <= 3
    assert len(pieces) <= 5
    angles = [angle for angle, _ in turns(pieces)]
    assert sum(angle > 60 for angle in angles) == 2
    assert sum(angle < 12 for angle in angles) == len(angles) - 2
    joints = np.array([p[0] for p in pieces])
    for corner in ([0, 20], [0, -20]):
        assert np.hypot(*(joints - corner).T).min() < 0.6


def enclosed(pieces):
    return abs(area(along(pieces).tolist()))


def test_a_closed_chain_encloses_something(backend):
    """However large the tolerance: islands do not vanish."""
    for count in (4, 5, 6, 9, 30):
        for radius in (0.5, 2.0):
            points = circle(radius, count)
            points[-1] = points[0]
            for tolerance in (0.3, 1.0, 5.0):
                assert enclosed(fit(points, tolerance, closed=True)) > 0.1 * abs(area(points.tolist()))


@pytest.mark.parametrize("closed", [False, True])
def test_few_and_repeated_points(closed, backend):
    for points in (
        [[1, 2], [1, 2]],
        [[1, 2], [3, 4]],
        [[1, 2], [1, 2], [1, 2]],
        [[1, 2], [5, 5], [1, 2]],
        [[1, 2]] * 9,
        [[0, 0]] * 5 + [[0, 9]] * 5 + [[0, 0]],
        [[0, 0], [0, 5], [0, 10], [0, 5], [0, 0]],
    ):
        pieces = fit(points, closed=closed)
        assert np.isfinite(pieces).all()
        low, high = np.min(points, 0), np.max(points, 0)
        assert (pieces >= low - 1).all()
        assert (pieces <= high + 1).all()


@given(
    arrays(np.float64, st.tuples(st.integers(2, 40), st.just(2)), elements=st.floats(-20, 20, width=16)),
    st.booleans(),
    st.sampled_from([0.0, 0.2, 1.0, 5.0]),
)
@settings(max_examples=200, deadline=None)
def test_near_the_points_and_equal_to_the_reference(points, closed, tolerance):
    """Ends of pieces may lie where a corner was found, 1.5 from the points, or are smoothed."""
    if closed:
        points[-1] = points[0]
    given = torch.from_numpy(points), torch.tensor([0, len(points)]), torch.tensor([closed]), tolerance
    for ours, plain in zip(ops.fit_curves(*given), reference.fit_curves(*given), strict=True):
        torch.testing.assert_close(ours, plain, rtol=0, atol=0)
    pieces = fit(points, tolerance, closed)
    if not closed:
        assert (pieces[0, 0] == points[0]).all()
        assert (pieces[-1, 3] == points[-1]).all()
    assert (pieces[1:, 0] == pieces[:-1, 3]).all()


def chains_of(image, labels):
    arcs = dk.trace(labels)
    planes = torch.zeros(int(labels.max()) + 1, 3, 3, dtype=torch.float64)
    planes[..., 0] = dk.segment_pool(image[None].float(), labels[None], num_segments=len(planes))[0].double()
    return dk.edge_points(arcs, image, labels, planes=planes, noise=torch.full((len(planes),), 100.0).double())


def test_photographs():
    """Fewer numbers than points; near them; equal to the reference."""
    for image, labels in list(photographs())[::4]:
        chains = chains_of(image, labels)
        for tolerance in (0.4, 1.0):
            fitted = dk.fit_curves(chains, tolerance=tolerance)
            plain = reference.fit_curves(chains.points, chains.offsets, chains.closed, tolerance)
            assert torch.equal(fitted.points, plain[0])
            assert torch.equal(fitted.offsets, plain[1])
            assert len(fitted.points) < 0.8 * len(chains.points)
            by_chain = zip(*(parts(c.points.numpy(), c.offsets) for c in (chains, fitted)), strict=True)
            for points, out in by_chain:
                pieces = np.stack([out[i : i + 4] for i in range(0, len(out) - 1, 3)])
                far = distances(points, pieces)
                joints = shapely.distance(shapely.multipoints(out[::3]), shapely.points(points))
                assert far[joints > 1.5].max(initial=0) < tolerance + 0.05
                assert far.max() < tolerance + 0.5


@given(MAPS)
@settings(max_examples=60, deadline=None)
def test_every_arc_has_pieces(labels):
    labels = torch.from_numpy(labels)
    arcs = dk.trace(labels)
    planes = torch.zeros(4, 1, 3, dtype=torch.float64)
    image = torch.zeros(1, *labels.shape, dtype=torch.uint8)
    chains = dk.edge_points(arcs, image, labels, planes=planes, noise=planes[:, 0, 0])
    fitted = dk.fit_curves(chains, tolerance=0.5)
    assert fitted.offsets[-1] == len(fitted.points)
    assert (fitted.offsets.diff() % 3 == 1).all()
    assert (fitted.offsets.diff() >= 4).all()
    for line, out, closed in zip(*(parts(c.points, c.offsets) for c in (chains, fitted)), arcs.closed, strict=True):
        assert torch.equal(out[[0, -1]], line[[0, -1]]) or closed
        assert torch.equal(out[0], out[-1]) or not closed
        if closed:
            assert enclosed(np.stack([out[i : i + 4] for i in range(0, len(out) - 1, 3)])) > 0.1


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 1e308, 1e-320])
@pytest.mark.parametrize("closed", [False, True])
def test_hostile_numbers_end(bad, closed):
    generator = np.random.default_rng(0)
    for count in (2, 3, 5, 8, 60):
        points = np.cumsum(generator.normal(size=(count, 2)), 0)
        for where in (0, count // 2, slice(None), slice(None, None, 3)):
            spoiled = points.copy()
            spoiled[where] = bad
            for tolerance in (0.0, 1.0, 1e300):
                fit(spoiled, tolerance, closed)


def test_bad_arguments():
    chains = dk.Chains(torch.zeros(4, 2, dtype=torch.float64), torch.tensor([0, 4]), torch.tensor([False]))
    with pytest.raises(TypeError, match="chains: expected Chains; found Arcs"):
        dk.fit_curves(dk.trace(torch.zeros(2, 2, dtype=torch.int32)), tolerance=1)
    with pytest.raises(TypeError, match=r"chains.points: expected \[P,2\] of float64; found \[4,2\] of float32"):
        dk.fit_curves(chains._replace(points=chains.points.float()), tolerance=1)
    with pytest.raises(ValueError, match=r"chains.offsets: expected to go from 0 to 4; found 0 to 3"):
        dk.fit_curves(chains._replace(offsets=torch.tensor([0, 3])), tolerance=1)
    with pytest.raises(ValueError, match=r"chains.offsets: expected at least 2 points"):
        dk.fit_curves(chains._replace(offsets=torch.tensor([0, 3, 4]), closed=torch.tensor([True, True])), tolerance=1)
    for bad in (-1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="tolerance: expected a finite number >= 0"):
            dk.fit_curves(chains, tolerance=bad)


@pytest.mark.skipif(dk._native.native_error is not None, reason="checks of the library")
def test_hostile_offsets_are_an_error():
    points, closed = torch.zeros(6, 2, dtype=torch.float64), torch.tensor([False, True])
    most = 2**63 - 1
    for offsets in ([0, most, 6], [0, -most - 1, 6], [most, 3, 6], [-3, 3, 6], [0, 5, 6], [0, 3, 7]):
        with pytest.raises(RuntimeError, match="expected"):
            ops.fit_curves(points, torch.tensor(offsets), closed, 1.0)
    for tolerance in (-1.0, float("nan")):
        with pytest.raises(RuntimeError, match="tolerance: expected at least 0"):
            ops.fit_curves(points, torch.tensor([0, 3, 6]), closed, tolerance)


def test_compiles_with_a_graph_break():
    points = torch.from_numpy(circle(9))
    chains = dk.Chains(points, torch.tensor([0, len(points)]), torch.tensor([True]))
    compiled = torch.compile(
        lambda tolerance: dk.fit_curves(chains, tolerance=tolerance).points.sum() + 1, backend="eager"
    )
    assert compiled(1.5) == dk.fit_curves(chains, tolerance=1.5).points.sum() + 1
