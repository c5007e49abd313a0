"""Path data: painted in order, it gives back the segments; nothing lies below what is transparent."""

import re
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import torch
from arc_tools import MAPS, centers, inside, photographs
from hypothesis import given, settings
from hypothesis import strategies as st

import dhvt_kernels as dk
from dhvt_kernels import reference
from dhvt_kernels._schema import ops

NUMBERS = {"M": 2, "m": 2, "L": 2, "l": 2, "h": 1, "v": 1, "c": 6, "z": 0}


def commands(text):
    """(letter, numbers) one by one, with repeated letters filled in; pairs after a move are lines."""
    for letter, rest in re.findall(r"([A-Za-z])([^A-Za-z]*)", text):
        numbers = [int(n) for n in re.findall(r"-?\d+", rest)]
        size = NUMBERS[letter]
        assert len(numbers) % max(size, 1) == 0
        assert (len(numbers) > 0) == (size > 0)
        for i in range(0, max(len(numbers), 1), max(size, 1)):
            yield letter if i == 0 else {"M": "L", "m": "l"}.get(letter, letter), numbers[i : i + size]


def draw(text):
    """Subpaths of the data as lists of points (x, y): the corners, and of curves all control points."""
    subpaths, here = [], (0, 0)
    for letter, numbers in commands(text):
        pairs = {"h": lambda n: [n[0], 0], "v": lambda n: [0, n[0]]}.get(letter, lambda n: n)(numbers)
        by = (0, 0) if letter.isupper() else here
        points = [(by[0] + pairs[i], by[1] + pairs[i + 1]) for i in range(0, len(pairs), 2)]
        if letter in "Mm":
            subpaths.append(points)
        elif letter == "z":
            points = [subpaths[-1][0]]
            if subpaths[-1][-1] != points[0]:
                subpaths[-1] += points
        else:
            subpaths[-1] += points
        here = points[-1]
    return subpaths


def check_compact(text):
    """Nothing could be left out: separators, repeated letters, lines of no length or straight on."""
    assert re.fullmatch(r"(?:[Mm]-?\d+(?: |(?=-))-?\d+[-\dlhvc LHV]*z)*", text), text
    assert not re.search(r" -| [a-zA-Z]|[a-zA-Z] |  |-0| 0\d", text)
    written = re.findall(r"[a-zA-Z]", text)
    assert all(a != b or a == "z" for a, b in pairwise(written)), "letters that repeat"
    for (a, first), (b, second) in pairwise(commands(text)):
        if a == b and a in "hv":
            assert first[0] * second[0] < 0, "one line"
    assert all(any(numbers) or letter in "Mmz" for letter, numbers in commands(text))


def paths_of(paths):
    assert paths.offsets[0] == 0
    assert paths.offsets[-1] == len(paths.text)
    text = bytes(paths.text.tolist()).decode("ascii")
    ends = pairwise(paths.offsets.tolist())
    return [(segment, text[a:b]) for segment, (a, b) in zip(paths.segments.tolist(), ends, strict=True)]


def lines(labels, opaque, scale=1.0):
    arcs = dk.trace(labels)
    return arcs, dk.svg_paths(arcs.points.double(), arcs.offsets, arcs, opaque=opaque, curves=False, scale=scale)


def filled(text, height, width):
    polygons = [[(y, x) for x, y in subpath] for subpath in draw(text)]
    return inside(polygons, centers(height, width)).reshape(height, width)


def unit_edges(polygon):
    """The lattice edges along a polygon (x, y), each as its two ends."""
    for (x0, y0), (x1, y1) in pairwise(polygon):
        assert (x0 == x1) != (y0 == y1)
        dx, dy = np.sign(x1 - x0), np.sign(y1 - y0)
        for i in range(abs(x1 - x0) + abs(y1 - y0)):
            yield frozenset([(x0 + i * dx, y0 + i * dy), (x0 + (i + 1) * dx, y0 + (i + 1) * dy)])


def check(labels, opaque):
    """Paints the paths one over the other, and counts how often pixels are covered and edges written."""
    height, width = labels.shape
    arcs, paths = lines(labels, opaque)
    painted, cover, edges = np.full((height, width), -1), np.zeros((height, width), int), Counter()
    for segment, text in paths_of(paths):
        check_compact(text)
        mask = filled(text, height, width)
        assert opaque[segment] or (mask == (labels.numpy() == segment)).all(), "nothing on top of it"
        painted[mask] = segment
        cover += mask
        edges.update(edge for subpath in draw(text) for edge in unit_edges(subpath))
    known = labels.numpy().copy()
    known[(known < 0) | (known >= len(opaque))] = -1
    np.testing.assert_array_equal(painted, known)
    assert sorted(paths.segments.tolist()) == np.unique(known[known >= 0]).tolist(), "every segment once"
    assert (cover[known == -1] == 0).all(), "nothing is painted where no segment is"
    for segment in np.unique(known[known >= 0]):
        if not opaque[segment]:
            assert (cover[known == segment] == 1).all(), "nothing below"
    around = np.pad(known, 1, constant_values=-1)
    below, right = around[1:, 1:-1] != around[:-1, 1:-1], around[1:-1, 1:] != around[1:-1, :-1]
    boundary = {frozenset([(x, y), (x + 1, y)]) for y, x in np.argwhere(below).tolist()}
    boundary |= {frozenset([(x, y), (x, y + 1)]) for y, x in np.argwhere(right).tolist()}
    assert set(edges) == boundary, "every boundary is written, and nothing else"
    return arcs, paths, edges


@given(MAPS, st.lists(st.booleans(), min_size=0, max_size=5))
@settings(max_examples=300, deadline=None)
def test_painting_gives_back_the_labels(labels, opaque):
    check(torch.from_numpy(labels), torch.tensor(opaque, dtype=torch.bool))


@given(MAPS)
@settings(max_examples=200, deadline=None)
def test_painting_opaque_segments_gives_back_the_labels(labels):
    check(torch.from_numpy(labels), torch.ones(4, dtype=torch.bool))


def test_photographs():
    """Painting over each other takes less text than painting side by side, the fewer segments the less."""
    for _, labels in photographs():
        segments = int(labels.max()) + 1
        _, paths, edges = check(labels, torch.ones(segments, dtype=torch.bool))
        _, apart, twice = check(labels, torch.zeros(segments, dtype=torch.bool))
        assert len(paths.text) < (0.7 if segments < 10 else 0.96) * len(apart.text)
        assert min(edges.values()) == 1
        assert max(twice.values()) == 2


@pytest.mark.parametrize("opaque", [True, False])
def test_known_paths(opaque, backend):
    labels = torch.zeros(4, 5, dtype=torch.int32)
    labels[1:3, 1:4] = 1
    found = paths_of(lines(labels, torch.tensor([opaque, opaque]))[1])
    if opaque:  # the hole is not written: the inner segment covers it
        assert found == [(0, "M0 0h5v4h-5z"), (1, "M1 1h3v2h-3z")]
    else:
        assert found == [(1, "M1 1h3v2h-3z"), (0, "M0 0h5v4h-5zm1 1v2h3v-2z")]
    labels[1, 2] = -1  # what lies beside no segment stays free
    found = paths_of(lines(labels, torch.tensor([opaque, opaque]))[1])
    assert sum("m" in text for _, text in found) >= 1
    check(labels, torch.tensor([opaque, opaque]))


def test_a_letter_and_a_separator_are_written_when_they_are_needed(backend):
    points = torch.tensor([[0, 0], [3, 1], [1, 2], [-5, 2], [-5, 0], [0, 0]], dtype=torch.float64)
    arcs = dk.trace(torch.zeros(1, 1, dtype=torch.int32))
    paths = dk.svg_paths(
        points, torch.tensor([0, 6]), arcs, opaque=torch.ones(1, dtype=torch.bool), curves=False, scale=2.0
    )
    assert paths_of(paths) == [(0, "M0 0l2 6 2-4v-12h-4z")]


def test_curves(backend):
    """A line and two curves; the handles of a line at its ends."""
    control = [[0, 0], [0, 0], [0, 4], [0, 4], [1.5, 5], [2, 5], [4, 4], [5, 2], [5, -1], [0, 0]]
    points = torch.tensor(control, dtype=torch.float64)
    arcs = dk.trace(torch.zeros(1, 1, dtype=torch.int32))
    opaque = torch.ones(1, dtype=torch.bool)
    paths = dk.svg_paths(points, torch.tensor([0, 10]), arcs, opaque=opaque, curves=True, scale=10)
    assert paths_of(paths) == [(0, "M0 0h40c10 15 10 20 0 40-20 10-50 10-40-40z")]


@given(st.integers(0, 2**20), st.sampled_from([1.0, 10.0, 0.37]))
@settings(max_examples=60, deadline=None)
def test_rounding_does_not_add_up(seed, scale):
    """Every control point lies where it does by itself, at most half a unit away."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 4, (6, 6), dtype=torch.int32, generator=generator)
    arcs = dk.trace(labels)
    chains = dk.Chains(arcs.points.double(), arcs.offsets, arcs.closed)
    fitted = dk.fit_curves(chains, tolerance=0.5)
    opaque = torch.rand(4, generator=generator) < 0.7
    for points, offsets, curves in ((fitted.points, fitted.offsets, True), (chains.points / 3, chains.offsets, False)):
        paths = dk.svg_paths(points, offsets, arcs, opaque=opaque, curves=curves, scale=scale)
        scaled = (points * scale).numpy()
        exact = np.sign(scaled) * np.floor(np.abs(scaled) + 0.5)
        known = {(int(x), int(y)) for y, x in exact}
        for _, text in paths_of(paths):
            assert {point for subpath in draw(text) for point in subpath} <= known


def check_equal(*arguments):
    for ours, plain in zip(ops.svg_paths(*arguments), reference.svg_paths(*arguments), strict=True):
        assert torch.equal(ours, plain)


@given(MAPS, st.lists(st.booleans(), min_size=0, max_size=5), st.sampled_from([0.3, 1.0, 7.0]))
@settings(max_examples=200, deadline=None)
def test_equals_the_reference(labels, opaque, scale):
    corners, ends, left, right, closed, ring_arcs, ring_offsets = dk.trace(torch.from_numpy(labels))[:7]
    rest = left, right, ring_arcs, ring_offsets, torch.tensor(opaque, dtype=torch.bool)
    curves = ops.fit_curves(corners.double(), ends, closed, 0.5)
    for arguments in ((corners.double(), ends, *rest, False, scale), (*curves, *rest, True, scale)):
        for size in ((0, 0), labels.shape, (3, 20)):
            check_equal(*arguments, *size)


def test_photographs_equal_the_reference():
    for _, labels in photographs():
        corners, ends, left, right, closed, ring_arcs, ring_offsets = dk.trace(labels)[:7]
        opaque = torch.rand(int(labels.max()) + 1) < 0.9
        curves = ops.fit_curves(corners.double(), ends, closed, 0.7)
        for size in ((0, 0), labels.shape):
            check_equal(*curves, left, right, ring_arcs, ring_offsets, opaque, True, 10.0, *size)


def test_many_neighbours():
    """More than a segment's priority is kept exact for: islands in one segment, and around them a second."""
    labels = torch.zeros(50, 50, dtype=torch.int32)
    labels[1:49:2, 1:49:2] = 2 + torch.arange(24 * 24, dtype=torch.int32).reshape(24, 24)
    labels[:, 25:] = torch.where(labels[:, 25:] == 0, 1, labels[:, 25:])
    _, _, edges = check(labels, torch.ones(600, dtype=torch.bool))
    assert max(edges.values()) <= 2
    corners, ends, left, right, _, ring_arcs, ring_offsets = dk.trace(labels)[:7]
    opaque = torch.ones(600, dtype=torch.bool)
    for size in ((0, 0), labels.shape):
        check_equal(corners.double(), ends, left, right, ring_arcs, ring_offsets, opaque, False, 1.0, *size)


def test_very_many_neighbours_take_no_longer_each():
    """Quadratic, this would run for most of a minute."""
    labels = torch.zeros(401, 401, dtype=torch.int32)
    labels[1::2, 1::2] = 1 + torch.arange(40_000, dtype=torch.int32).reshape(200, 200)
    _, paths = lines(labels, torch.ones(40_001, dtype=torch.bool))
    assert paths.segments[0] == 0
    assert paths_of(paths)[0][1] == "M0 0h401v401h-401z"


def given_of(labels):
    arcs = dk.trace(labels)
    return {
        "points": arcs.points.double(),
        "offsets": arcs.offsets,
        "arcs": arcs,
        "opaque": torch.ones(2, dtype=torch.bool),
        "curves": False,
        "scale": 1.0,
    }


def test_bad_arguments():
    given = given_of(torch.tensor([[0, 0, 1]], dtype=torch.int32))
    arcs = given["arcs"]
    for change, error, message in (
        ({"arcs": None}, TypeError, "arcs: expected Arcs; found NoneType"),
        ({"points": arcs.points}, TypeError, r"points: expected \[P,2\] of float64"),
        ({"opaque": arcs.left}, TypeError, r"opaque: expected \[K\] of bool"),
        ({"curves": 1}, TypeError, "curves: expected a bool; found int"),
        ({"curves": True, "offsets": arcs.offsets * 0}, ValueError, "expected to go from 0 to"),
        ({"curves": True}, ValueError, r"at least 1 point for every arc, 3 n \+ 1 for curves"),
        ({"offsets": arcs.offsets[:-1]}, ValueError, r"offsets: expected \[A\+1\] = \[4\]; found \[3\]"),
        ({"scale": 0.0}, ValueError, "scale: expected a finite number > 0"),
        ({"scale": float("nan")}, ValueError, "scale: expected a finite number > 0"),
        ({"size": 3}, TypeError, r"size: expected None or \(height, width\); found 3"),
        ({"size": (1.5, 2)}, TypeError, "size: expected an integer; found float"),
        ({"size": (0, 2)}, ValueError, "size: expected an integer >= 1; found 0"),
        ({"scale": 1e9}, ValueError, r"points: expected finite numbers, below 2\^30 times the scale"),
        ({"points": given["points"] * float("nan")}, ValueError, "points: expected finite numbers"),
    ):
        with pytest.raises(error, match=message):
            dk.svg_paths(**{**given, **change})


@pytest.mark.skipif(dk._native.native_error is not None, reason="checks of the library")
def test_rings_that_do_not_fit_are_an_error():
    given = given_of(torch.tensor([[0, 0, 1], [0, 1, 1]], dtype=torch.int32))
    arcs = given["arcs"]
    rings, ends, most = arcs.ring_arcs, arcs.ring_offsets, 2**31 - 1
    one = torch.tensor([1])
    spoiled = [arcs._replace(ring_arcs=rings.index_fill(0, one, n)) for n in (-9, 9, most, ~most)]
    spoiled += [arcs._replace(ring_arcs=torch.cat([rings[:1], rings[:-1]]))]
    spoiled += [arcs._replace(ring_offsets=torch.tensor(o)) for o in ([0, 0, 4], [0, 9, 4], [-1, 2, 4], [0], [0, 4, 2])]
    spoiled += [arcs._replace(ring_offsets=torch.tensor([0, 2**63 - 1, 4])), arcs._replace(ring_offsets=ends[:0])]
    spoiled += [arcs._replace(left=arcs.right, right=arcs.left), arcs._replace(left=arcs.left.flip(0))]
    for bad in spoiled:
        with pytest.raises(RuntimeError, match="ring_"):
            dk.svg_paths(**{**given, "arcs": bad})
    # Arcs that do not meet draw nonsense, and end.
    for far in (1, 1e6):
        points = far * torch.randn_like(given["points"])
        dk.svg_paths(**{**given, "points": points})
        dk.svg_paths(**{**given, "points": points, "size": (2, 3)})


def test_compiles_with_a_graph_break():
    given = given_of(torch.randint(0, 2, (6, 7), dtype=torch.int32))
    compiled = torch.compile(lambda points: dk.svg_paths(**{**given, "points": points}).text.sum() + 1, backend="eager")
    assert compiled(given["points"]) == dk.svg_paths(**given).text.sum() + 1
