"""Sums of colours and positions over segments: exact, whatever the labels."""

import numpy as np
import pytest
import torch
from grid import label_maps
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import dhvt_kernels as dk
from dhvt_kernels import _native
from dhvt_kernels._schema import ops


def expected(image, labels, segments):
    """Segment by segment, in numpy."""
    image, labels = image.numpy().astype(np.int64), labels.numpy()
    y, x = np.indices(labels.shape)
    columns = [np.ones_like(y), y, x, y * y, y * x, x * x]
    columns += [column for c in image for column in (c, y * c, x * c, c * c)]
    return [[int(column[labels == k].sum()) for column in columns] for k in range(segments)]


def check(image, labels, segments):
    found = dk.color_sums(image, labels, num_segments=segments)
    assert found.dtype == torch.int64
    assert found.shape == (segments, 6 + 4 * len(image))
    assert found.tolist() == expected(image, labels, segments)
    return found


@given(
    arrays(np.int32, st.tuples(st.integers(0, 7), st.integers(0, 9)), elements=st.integers(-2, 4)),
    st.integers(0, 4),
    st.integers(0, 5),
)
@settings(max_examples=150, deadline=None)
def test_random_maps(labels, channels, segments):
    image = torch.randint(0, 256, (channels, *labels.shape), dtype=torch.uint8)
    check(image, torch.from_numpy(labels), segments)


@pytest.mark.parametrize("size", [(19, 23), (1, 30), (30, 1), (1, 1)], ids=str)
@pytest.mark.parametrize("name", ["blocks", "one", "none", "pixels", "noise", "hostile", "padded"])
def test_label_maps(name, size, backend):
    labels = label_maps(1, *size, 30)[name][0]
    check(torch.randint(0, 256, (3, *size), dtype=torch.uint8), labels, 30)


def test_views(backend):
    labels = torch.randint(-1, 4, (20, 30), dtype=torch.int32)[::2, 3:].t()
    image = torch.randint(0, 256, (9, 20, 30), dtype=torch.uint8)[1::4, ::2, 3:].transpose(1, 2)
    check(image, labels, 4)


def test_sums_of_a_union_are_sums():
    labels = torch.randint(0, 6, (40, 50), dtype=torch.int32)
    image = torch.randint(0, 256, (3, 40, 50), dtype=torch.uint8)
    parts = check(image, labels, 6)
    joined = check(image, labels // 2, 3)
    assert torch.equal(parts[::2] + parts[1::2], joined)


@pytest.mark.parametrize("shape", [(1, 2**17), (2**17, 1)])
def test_long_pictures_do_not_overflow(shape):
    """Squares of coordinates up to 2^34, 2^17 of them: beyond int32, and what float64 adds exactly."""
    image = torch.full((1, *shape), 255, dtype=torch.uint8)
    found = dk.color_sums(image, torch.zeros(shape, dtype=torch.int32), num_segments=1)[0].tolist()
    n = 2**17
    along, square = n * (n - 1) // 2, n * (n - 1) * (2 * n - 1) // 6
    one = [0, along] if shape[0] == 1 else [along, 0]
    two = [0, 0, square] if shape[0] == 1 else [square, 0, 0]
    assert found == [n, *one, *two, 255 * n, *(255 * v for v in one), 255 * 255 * n]


@pytest.mark.skipif(_native.native_error is not None, reason="a limit of the library")
def test_too_large_pictures_are_an_error():
    for shape in ((1, 2**17 + 1), (2**17 + 1, 1), (2**15, 2**14 + 1)):
        image = torch.zeros(1, 1, 1, dtype=torch.uint8).expand(1, *shape)
        with pytest.raises(RuntimeError, match=r"at most 2\^29 pixels, and 2\^17 in a row or column"):
            ops.color_sums(image, torch.zeros(1, 1, dtype=torch.int32).expand(shape), 1)


def test_compiles():
    image, labels = torch.randint(0, 256, (3, 6, 7), dtype=torch.uint8), torch.zeros(6, 7, dtype=torch.int32)
    compiled = torch.compile(
        lambda image, labels: dk.color_sums(image, labels, num_segments=2) * 2, backend="aot_eager", fullgraph=True
    )
    assert torch.equal(compiled(image, labels), dk.color_sums(image, labels, num_segments=2) * 2)


def test_bad_arguments():
    image, labels = torch.zeros(3, 2, 4, dtype=torch.uint8), torch.zeros(2, 4, dtype=torch.int32)
    with pytest.raises(TypeError, match=r"image: expected \[C,H,W\] of uint8; found \[3,2,4\] of float32"):
        dk.color_sums(image.float(), labels, num_segments=1)
    with pytest.raises(ValueError, match=r"image: expected \[C,H,W\] = \[3,2,4\]; found \[3,2,3\]"):
        dk.color_sums(image[:, :, 1:], labels, num_segments=1)
    with pytest.raises(ValueError, match="labels: expected a tensor on the CPU; found meta"):
        dk.color_sums(image.to("meta"), labels.to("meta"), num_segments=1)
    row = torch.zeros(1, 2**17 + 1, dtype=torch.int32)
    with pytest.raises(ValueError, match=r"labels: expected sides up to 131072 .*; found \[1, 131073\]"):
        dk.color_sums(row[None].byte(), row, num_segments=1)
    with pytest.raises(ValueError, match="num_segments: expected an integer >= 0; found -1"):
        dk.color_sums(image, labels, num_segments=-1)
