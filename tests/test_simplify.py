"""Fewer points: no line comes to cross or cover another, segments keep their neighbours and an area, junctions stay."""

from itertools import pairwise

import numpy as np
import pytest
import shapely
import torch
from arc_tools import MAPS, arcs_of, area, inside, parts, photographs, rings_of
from hypothesis import given, settings
from hypothesis import strategies as st

import dhvt_kernels as dk
from dhvt_kernels import reference
from dhvt_kernels._schema import ops
from dhvt_kernels.ops.simplify import METHODS

TOLERANCES = (0, 0.5, 1, 3, 1e6)


def check_no_crossing(arcs):
    """Two lines meet in an end of both, or not at all."""
    pieces = np.array([pair for line in arcs_of(arcs) for pair in pairwise(line)])
    lines = shapely.linestrings(pieces)
    i, j = shapely.STRtree(lines).query(lines, predicate="intersects")
    i, j = i[i < j], j[i < j]
    meeting = shapely.intersection(lines[i], lines[j])
    assert (shapely.get_type_id(meeting) == shapely.GeometryType.POINT).all(), "lines overlap"
    at = shapely.get_coordinates(meeting)[:, None]
    for ends in (pieces[i], pieces[j]):
        assert (ends == at).all(2).any(1).all(), "lines cross"


def check_areas(arcs, shape, whole):
    """Rings keep their orientation, segments an area; together they cover the picture once."""
    rings, owner = list(rings_of(arcs)), arcs.ring_labels.tolist()
    total = {}
    for ring, label, hole in zip(rings, owner, arcs.holes.tolist(), strict=True):
        assert (area(ring) < 0) == hole
        assert area(ring) != 0
        total[label] = total.get(label, 0) + area(ring)
    assert all(value > 0 for value in total.values())
    if whole:
        assert sum(total.values()) == shape[0] * shape[1]
    faces = shapely.get_parts(shapely.polygonize([shapely.LineString(line) for line in arcs_of(arcs)]))
    points = shapely.get_coordinates(shapely.point_on_surface(faces))
    covered = {label: inside([r for r, o in zip(rings, owner, strict=True) if o == label], points) for label in total}
    assert not len(total) or sum(c.astype(int) for c in covered.values()).max() == 1, "no face is of two segments"
    for label, mine in covered.items():
        assert shapely.area(faces)[mine].sum() == pytest.approx(total[label])


def check(labels, tolerance, method):
    arcs = dk.trace(torch.as_tensor(labels))
    simple = dk.simplify(arcs, tolerance=tolerance, method=method)
    kept = arcs_of(simple)
    for line, before, closed in zip(kept, arcs_of(arcs), arcs.closed.tolist(), strict=True):
        if closed:
            assert line[0] == line[-1]
            assert len(line) >= 4
            turn = before.index(line[0])
            before = before[turn:-1] + before[: turn + 1]
        else:
            assert (line[0], line[-1]) == (before[0], before[-1]), "junctions stay"
        rest = iter(before)
        assert all(point in rest for point in line), "the points that are left are old ones, in their order"
    if kept:
        check_no_crossing(simple)
    check_areas(simple, labels.shape, whole=bool((torch.as_tensor(labels) >= 0).all()))
    return arcs, simple


@pytest.mark.parametrize("method", METHODS)
@given(MAPS, st.sampled_from(TOLERANCES))
@settings(max_examples=150, deadline=None)
def test_random_maps(method, labels, tolerance):
    check(labels, tolerance, method)


@pytest.mark.parametrize("method", METHODS)
def test_photographs(method):
    for _, labels in photographs():
        points = [len(check(labels, tolerance, method)[1].points) for tolerance in TOLERANCES]
        assert points == sorted(points, reverse=True)
        assert points[0] == len(dk.trace(labels).points)
        assert points[3] < 0.4 * points[0]


@given(MAPS, st.sampled_from(METHODS), st.sampled_from(TOLERANCES))
@settings(max_examples=200, deadline=None)
def test_equals_the_reference(labels, method, tolerance):
    points, offsets, _, _, closed = dk.trace(torch.from_numpy(labels))[:5]
    for ours, plain in zip(
        ops.simplify(points, offsets, closed, tolerance, method),
        reference.simplify(points, offsets, closed, tolerance, method),
        strict=True,
    ):
        assert torch.equal(ours, plain)


def one_line(points, tolerance, method, closed=False):
    given = torch.tensor(points, dtype=torch.int32), torch.tensor([0, len(points)]), torch.tensor([closed])
    points, offsets = ops.simplify(*given, tolerance, method)
    assert offsets.tolist() == [0, len(points)]
    return points.tolist()


# Lines over increasing x: between two points of them lie only points that went.
LINES = st.lists(st.tuples(st.integers(-9, 9), st.integers(1, 5)), min_size=2, max_size=30).map(
    lambda steps: [[y, x] for (y, _), x in zip(steps, np.cumsum([dx for _, dx in steps]).tolist(), strict=True)]
)


def halved(line, kept, tolerance):
    """Whether `kept` is what Douglas and Peucker keep of the line, up to rounding: of equally far points, any."""
    far = shapely.distance(shapely.LineString([line[0], line[-1]]), shapely.points(line))
    if len(kept) == 2:
        return kept == [line[0], line[-1]] and far.max() <= tolerance + 1e-9
    farthest = (i for i in np.nonzero(far >= max(tolerance, far.max()) - 1e-9)[0] if line[i] in kept)
    cuts = ((i, kept.index(line[i])) for i in farthest)
    return any(
        halved(line[: i + 1], kept[: k + 1], tolerance) and halved(line[i:], kept[k:], tolerance) for i, k in cuts
    )


@given(LINES, st.sampled_from([0, 0.5, 1, 2, 4]))
@settings(max_examples=300, deadline=None)
def test_douglas_peucker_as_written(line, tolerance):
    assert halved(line, one_line(line, tolerance, "douglas-peucker"), tolerance)


def test_douglas_peucker_as_shapely():
    """On lines without two points that are equally far."""
    generator = np.random.default_rng(0)
    for tolerance in (1, 10, 50):
        x = np.cumsum(generator.integers(1, 99, 200))
        line = np.stack([np.cumsum(generator.integers(-99, 100, 200)), x], 1).tolist()
        theirs = shapely.LineString(line).simplify(tolerance, preserve_topology=False)
        assert one_line(line, tolerance, "douglas-peucker") == [[int(y), int(x)] for y, x in theirs.coords]


@given(LINES, st.sampled_from([0, 0.5, 1, 2, 4]))
@settings(max_examples=300, deadline=None)
def test_visvalingam_as_written(line, tolerance):
    left = [*line]
    while len(left) > 2:
        sizes = [abs(area([*left[i - 1 : i + 2], left[i - 1]])) for i in range(1, len(left) - 1)]
        if min(sizes) > tolerance**2:
            break
        del left[1 + sizes.index(min(sizes))]
    assert one_line(line, tolerance, "visvalingam") == left


def test_known_lines(backend):
    line = [[0, 0], [1, 2], [0, 4], [5, 6], [0, 8]]
    assert one_line(line, 1.4, "visvalingam") == line  # areas 2, 6, 10
    assert one_line(line, 1.5, "visvalingam") == [[0, 0], [0, 4], [5, 6], [0, 8]]
    assert one_line(line, 0.9, "douglas-peucker") == line
    assert one_line(line, 1.0, "douglas-peucker") == [[0, 0], [0, 4], [5, 6], [0, 8]]
    assert one_line(line, 5.0, "douglas-peucker") == [[0, 0], [0, 8]]


@pytest.mark.parametrize("method", METHODS)
def test_the_smallest_areas_stay(method, backend):
    labels = torch.zeros(9, 9, dtype=torch.int32)
    labels[4, 4] = 1
    arcs, simple = check(labels, 1e6, method)
    assert arcs_of(simple)[0] == arcs_of(arcs)[0], "the picture keeps its corners"
    assert len(arcs_of(simple)[1]) == 4, "a pixel becomes a triangle"


@pytest.mark.parametrize("method", METHODS)
def test_a_pixel_between_two_lines_stays(method, backend):
    """Two arcs between the same junctions: one of them becomes a line, the other may not."""
    labels = torch.zeros(3, 4, dtype=torch.int32)
    labels[1, 1:3] = 1
    labels[:, 2:] += 2
    _, simple = check(labels, 1e6, method)
    between = [line for line in arcs_of(simple) if {tuple(line[0]), tuple(line[-1])} == {(1, 2), (2, 2)}]
    assert sorted(map(len, between)) == [2, 3, 3]


@pytest.mark.parametrize("method", METHODS)
def test_a_point_in_the_triangle_keeps_a_corner(method, backend):
    """A bay with an island in it: the corners of the bay stay until the island is outside of their triangle."""
    labels = torch.zeros(12, 12, dtype=torch.int32)
    labels[:8, :8] = 1
    labels[6, 6] = 2
    arcs, simple = check(labels, 8, method)
    line = next(line for line, before in zip(arcs_of(simple), arcs_of(arcs), strict=True) if [8, 8] in before)
    assert [8, 8] in line
    labels[6, 6] = 1
    arcs, simple = check(labels, 8, method)
    assert [8, 8] not in simple.points.tolist()


def test_a_dropped_point_is_near():
    """Within the tolerance, or twice that where a point besides had to stay."""
    for _, labels in photographs():
        arcs = dk.trace(labels)
        for tolerance in (0.8, 2.5):
            simple = dk.simplify(arcs, tolerance=tolerance, method="douglas-peucker")
            exact = 0
            for before, after, closed in zip(arcs_of(arcs), arcs_of(simple), arcs.closed.tolist(), strict=True):
                far = shapely.distance(shapely.LineString(after), shapely.points(before)).max()
                assert far <= 2 * tolerance
                if not closed and len(after) == len(
                    shapely.LineString(before).simplify(tolerance, preserve_topology=False).coords
                ):
                    assert far <= tolerance
                    exact += 1
            assert exact > 0.5 * len(arcs.left)


def test_bad_arguments():
    arcs = dk.trace(torch.zeros(2, 2, dtype=torch.int32))
    with pytest.raises(TypeError, match="arcs: expected Arcs; found tuple"):
        dk.simplify(tuple(arcs), tolerance=1)
    with pytest.raises(TypeError, match=r"arcs.points: expected \[P,2\] of int32; found \[5,2\] of float64"):
        dk.simplify(arcs._replace(points=arcs.points.double()), tolerance=1)
    with pytest.raises(ValueError, match=r"arcs.offsets: expected to go from 0 to 5; found 0 to 4"):
        dk.simplify(arcs._replace(offsets=torch.tensor([0, 4])), tolerance=1)
    with pytest.raises(ValueError, match=r"arcs.offsets: expected \[A\+1\] = \[2\]; found \[3\]"):
        dk.simplify(arcs._replace(offsets=torch.tensor([0, 2, 5])), tolerance=1)
    with pytest.raises(ValueError, match="at least 2 points for every chain, 4 for a closed arc"):
        dk.simplify(arcs._replace(points=arcs.points[:3], offsets=torch.tensor([0, 3])), tolerance=1)
    with pytest.raises(ValueError, match=r"arcs.points: expected a tensor on the CPU; found meta"):
        dk.simplify(arcs._replace(**{n: getattr(arcs, n).to("meta") for n in arcs._fields}), tolerance=1)
    for bad in (-1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="tolerance: expected a finite number >= 0"):
            dk.simplify(arcs, tolerance=bad)
    with pytest.raises(ValueError, match="method: expected one of visvalingam, douglas-peucker; found 'vw'"):
        dk.simplify(arcs, tolerance=1, method="vw")


@pytest.mark.skipif(dk._native.native_error is not None, reason="checks of the library")
def test_hostile_offsets_are_an_error():
    points, closed = torch.zeros(6, 2, dtype=torch.int32), torch.tensor([False, False])
    most = 2**63 - 1
    for offsets in ([0, most, 6], [0, -most - 1, 6], [most, 3, 6], [-3, 3, 6], [0, 5, 6], [0, 3, 7], [1, 3, 6]):
        with pytest.raises(RuntimeError, match="expected"):
            ops.simplify(points, torch.tensor(offsets), closed, 1.0, "visvalingam")
    far = torch.tensor([[-(2**31), 0], [2**31 - 1, 0]], dtype=torch.int32)
    with pytest.raises(RuntimeError, match=r"at most 2\^29 lattice points"):
        ops.simplify(far, torch.tensor([0, 2]), closed[:1], 1.0, "visvalingam")


def test_compiles_with_a_graph_break():
    arcs = dk.trace(torch.randint(0, 3, (6, 7), dtype=torch.int32))
    compiled = torch.compile(lambda tolerance: dk.simplify(arcs, tolerance=tolerance).points.sum() + 1, backend="eager")
    assert compiled(1.5) == dk.simplify(arcs, tolerance=1.5).points.sum() + 1
    assert len(parts(arcs.points, arcs.offsets)) == len(arcs.left)
