import time

import numpy as np
import pytest
import scipy.ndimage
import skimage.measure
import torch
from grid import DTYPES, LAYOUTS, blocks, label_maps
from hypothesis import given, settings
from hypothesis import strategies as st

import dhvt_kernels as dk
from dhvt_kernels import _native
from dhvt_kernels._schema import ops
from dhvt_kernels.ops.connected_components import connected_components
from dhvt_kernels.reference.connected_components import connected_components as reference


def image(*rows):
    """Label map [1,H,W] from strings: one character per pixel, '.' for no segment."""
    return torch.tensor([[[-1 if c == "." else int(c) for c in row] for row in rows]], dtype=torch.int32)


def values(*rows):
    """Features [1,1,H,W] from strings of digits."""
    return image(*rows).float().unsqueeze(1)


def check(labels, expected, **options):
    out = connected_components(labels, **options)
    assert torch.equal(out.labels, expected)
    assert out.counts.tolist() == [int(expected.max()) + 1]
    assert out.labels.dtype == out.counts.dtype == torch.int32


def both(*arguments):
    """The native result, after checking that the reference gives the same."""
    with dk.backend("native"):
        native = ops.connected_components(*arguments)
    with dk.backend("reference"):
        expected = ops.connected_components(*arguments)
    assert torch.equal(native[0], expected[0])
    assert torch.equal(native[1], expected[1])
    return native


def spiral(side):
    """One pixel wide, label 1 on 0: as long as a component can be."""
    out = np.zeros((side, side), dtype=np.int32)
    y, x, dy, dx = 0, 0, 0, 1
    for steps in [side - 1, *(length for length in range(side - 1, 0, -2) for _ in range(2))]:
        for _ in range(steps):
            out[y, x] = 1
            y, x = y + dy, x + dx
        dy, dx = dx, -dy
    out[y, x] = 1
    return torch.from_numpy(out)[None]


def snake(height, width):
    """Rows of label 1 joined at alternating ends."""
    out = torch.zeros(1, height, width, dtype=torch.int32)
    out[:, ::2] = 1
    out[:, 1::4, -1] = 1
    out[:, 3::4, 0] = 1
    return out


def by_scipy(labels):
    """Components [H,W] by scipy, numbered in raster order."""
    out = np.full(labels.shape, -1, dtype=np.int64)
    total = 0
    for value in np.unique(labels[labels >= 0]):
        parts, count = scipy.ndimage.label(labels == value)
        out[parts > 0] = parts[parts > 0] + total
        total += count
    firsts = {}
    for value in out[out >= 0]:
        firsts.setdefault(int(value), len(firsts))
    return np.vectorize(lambda v: firsts.get(int(v), -1), otypes=[np.int64])(out) if out.size else out


# Known answers


def test_components_of_equal_labels(backend):
    check(image("112", "122", "1.2"), image("001", "011", "0.1"))
    check(image("121", "212"), image("012", "345"))  # corners do not connect


def test_numbered_in_raster_order_of_the_first_pixel(backend):
    check(image("9905", "3305"), image("0012", "3312"))


def test_small_components_join_the_nearest_mean(backend):
    labels = image("11233", "11233")
    assert connected_components(labels, min_size=3).labels[0, 0].tolist() == [0, 0, 0, 1, 1]  # first of equals
    check(labels, image("00111", "00111"), min_size=3, features=values("11688", "11688"))
    check(labels, image("00011", "00011"), min_size=3, features=values("11388", "11388"))


def test_ties_go_to_the_larger_then_to_the_first(backend):
    check(image("112333"), image("001111"), min_size=2)
    check(image("11233"), image("00011"), min_size=2)


def test_means_are_those_before_anything_joined(backend):
    # The 5 is nearer to the right's 9 than to the left's 0, but not than to the left's mean after the 6 joined.
    check(image("1123455"), image("0001111"), min_size=2, features=values("0065999"))


def test_fragments_join_in_waves(backend):
    # From the kept component at the right, whatever the features say.
    check(image("12345666"), image("00000000"), min_size=2, features=values("90909000"))
    # Two fronts meet: in the middle, where 3 sees both in the second wave, or between 3 and 4.
    check(image("1123455"), image("0000111"), min_size=2)
    check(image("11234677"), image("00001111"), min_size=2)


def test_only_the_largest_component_of_a_label_is_kept(backend):
    labels = image("11212", "11222", "33333")
    check(labels, image("00111", "00111", "22222"), largest_only=True)
    check(image("1211", "1211"), image("0011", "0011"), largest_only=True)
    # Equal sizes: the first in raster order stays, the other one joins.
    check(image("121", "121"), image("011", "011"), largest_only=True)


def test_secondary_components_join_whatever_their_size(backend):
    check(image("1112111", "1112111"), image("0001111", "0001111"), largest_only=True)


def test_islands_out_of_reach(backend):
    # All too small: the largest of each piece stays, the first among equals, and the others join it.
    check(image("12.3", "...."), image("00.1", "...."), min_size=5)
    check(image("1233.4", "1233.5"), image("0000.1", "0000.1"), min_size=9, features=values("000009", "000000"))
    # A secondary one on an island shares the fate of its label's main one, here kept ...
    check(image("11.1"), image("00.0"), largest_only=True)
    # ... here joined to 2 ...
    check(image("1222.1", "1222.."), image("0000.0", "0000.."), min_size=3, largest_only=True)
    # ... here an island too.
    check(image("1.22", "1.22", "..22", "1..."), image("0.11", "0.11", "..11", "0..."), min_size=3, largest_only=True)


def test_min_size_above_the_image_keeps_the_largest(backend):
    labels = image("1122", "3322")
    check(labels, image("0000", "0000"), min_size=100)
    check(labels, image("0000", "0000"), min_size=100, features=torch.rand(1, 3, 2, 4))
    check(image("12131", "22333"), image("00000", "00000"), min_size=100, largest_only=True)


def test_one_pixel(backend):
    check(image("5"), image("0"), min_size=9, largest_only=True, features=torch.rand(1, 4, 1, 1))
    out = connected_components(image("."), min_size=9)
    assert out.labels.tolist() == [[[-1]]]
    assert out.counts.tolist() == [0]


@pytest.mark.parametrize("shape", [(0, 4, 4), (2, 0, 4), (2, 4, 0), (0, 0, 0)])
def test_empty(backend, shape):
    features = torch.empty(shape[0], 3, *shape[1:])
    out = connected_components(torch.empty(shape, dtype=torch.int32), features=features, min_size=3)
    assert out.labels.shape == shape
    assert out.counts.tolist() == [0] * shape[0]


def test_no_channels(backend):
    labels = image("11233", "11233")
    out = connected_components(labels, features=torch.empty(1, 0, 2, 5), min_size=3)
    assert torch.equal(out.labels, connected_components(labels, min_size=3).labels)


def test_labels_have_no_bound(backend):
    most = torch.iinfo(torch.int32).max
    labels = torch.tensor([[[most, most - 1, most], [most, 0, -most - 1]]], dtype=torch.int32)
    check(labels, image("012", "03."))
    check(labels, image("011", "02."), largest_only=True)


def test_nan_and_infinity_count_as_infinitely_far(backend):
    labels, features = image("11233", "11233"), values("11633", "11633")
    features[..., :2] = float("nan")
    check(labels, image("00111", "00111"), min_size=3, features=features)
    features[..., 3:] = float("inf")  # now both are infinitely far: the first of equals
    check(labels, image("00011", "00011"), min_size=3, features=features)


# Against other libraries


@pytest.mark.parametrize("name", ["blocks", "one", "none", "pixels", "noise", "hostile", "padded"])
def test_equals_scipy_and_skimage(backend, name):
    labels = label_maps(2, 37, 23, 4)[name]
    out = connected_components(labels)
    for b in range(2):
        expected = by_scipy(labels[b].numpy())
        np.testing.assert_array_equal(out.labels[b].numpy(), expected)
        assert out.counts[b] == expected.max() + 1
        other = skimage.measure.label(labels[b].numpy().astype(np.int64).clip(-1), connectivity=1, background=-1)
        np.testing.assert_array_equal(out.labels[b].numpy(), other - 1)


@pytest.mark.parametrize("labels", [spiral(75), snake(99, 40), snake(99, 40).transpose(1, 2), spiral(4)])
def test_long_shapes(backend, labels):
    out = connected_components(labels)
    np.testing.assert_array_equal(out.labels[0].numpy(), by_scipy(labels[0].numpy()))
    joined = connected_components(labels, min_size=labels.numel() // 2)
    assert joined.counts.tolist() == [1]


# Native against reference, bit for bit


@st.composite
def cases(draw):
    batch, height, width = draw(st.integers(1, 2)), draw(st.integers(1, 70)), draw(st.integers(1, 9))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    labels = torch.from_numpy(rng.integers(-1, draw(st.integers(1, 6)), (batch, height, width)).astype(np.int32))
    features = None
    if draw(st.booleans()):
        # Tenths are not exact in binary, so a different order of summation would show in ties.
        features = torch.from_numpy(rng.integers(0, 3, (batch, draw(st.integers(1, 6)), height, width)) * 0.1)
        features[torch.from_numpy(rng.random(features.shape)) < draw(st.sampled_from([0, 0.05]))] = float("nan")
        features = features.to(draw(st.sampled_from(DTYPES)))
        features = LAYOUTS[draw(st.sampled_from(sorted(LAYOUTS)))](features)
    return labels, features, draw(st.integers(0, 12)), draw(st.booleans())


@settings(max_examples=100, deadline=None)
@given(cases())
def test_native_equals_reference_and_keeps_its_promises(case):
    labels, features, _, largest_only = case
    out, counts = both(*case)
    assert torch.equal(out >= 0, labels >= 0)
    for b in range(len(labels)):
        ids = out[b][out[b] >= 0].tolist()
        assert sorted(set(ids)) == list(range(int(counts[b])))
        if largest_only:
            assert counts[b] <= len(labels[b][labels[b] >= 0].unique())
        else:
            # Without secondary components nothing shares an id across a gap.
            for i in range(int(counts[b])):
                assert scipy.ndimage.label((out[b] == i).numpy())[1] == 1
        alone, count = both(labels[b : b + 1], None if features is None else features[b : b + 1], *case[2:])
        assert torch.equal(alone[0], out[b])
        assert count[0] == counts[b]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_sums_have_one_order(backend, layout):
    """Left and right hold the same values in another order: only the rounding of the sums decides for the middle."""
    labels = torch.tensor([0, 0, 0, 1, 2, 2, 2], dtype=torch.int32).expand(60, 70, 7)
    left = torch.rand(60, 2, 70, 3, dtype=torch.float64)
    right = left.flatten(2)[:, :, torch.randperm(210)].reshape(left.shape)
    features = torch.cat([left, torch.full((60, 2, 70, 1), 3.0, dtype=torch.float64), right], 3)
    features = LAYOUTS[layout](features)
    out = connected_components(labels, features=features, min_size=100)
    assert torch.equal(out.labels, reference(labels, features, 100, False)[0])
    assert set(out.labels[:, 0, 3].tolist()) == {0, 1}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_and_dtypes(layout, dtype):
    labels = label_maps(2, 70, 24, 4)["noise"]
    features = torch.randn(2, 5, 70, 24).to(dtype)
    expected = both(labels, features, 5, True)
    with dk.backend("native"):
        out = ops.connected_components(
            labels.transpose(1, 2).contiguous().transpose(1, 2), LAYOUTS[layout](features), 5, True
        )
    assert torch.equal(out[0], expected[0])
    assert torch.equal(out[1], expected[1])


@pytest.mark.parametrize("name", ["blocks", "one", "none", "pixels", "noise", "hostile", "padded"])
@pytest.mark.parametrize("largest_only", [False, True])
def test_label_maps(name, largest_only):
    labels = label_maps(2, 66, 20, 5)[name]
    both(labels, torch.rand(2, 3, 66, 20), 7, largest_only)


@pytest.mark.parametrize("width", [1, 3, 8, 15, 16, 17, 63, 64, 65, 127, 128, 130])
@pytest.mark.parametrize("level", _native.cpu_levels())
def test_widths_around_whole_vectors_and_words(level, width):
    best = _native.cpu_level()
    _native.use_cpu_level(level)
    try:
        for num_labels in (2, 40):
            labels = torch.randint(-1, num_labels, (1, 35, width), dtype=torch.int32)
            both(labels.repeat_interleave(2, 2)[..., :width].contiguous(), torch.rand(1, 5, 35, width), 4, True)
    finally:
        _native.use_cpu_level(best)


def columns_with_noise(height, width):
    """Components that are cut by every strip, with fragments beside all of them."""
    labels = torch.arange(width, dtype=torch.int32).repeat(1, height, 1)
    noise = torch.rand(labels.shape) < 0.2
    labels[noise] = torch.randint(0, width, (int(noise.sum()),), dtype=torch.int32)
    return labels


@pytest.mark.parametrize(
    ("labels", "min_size", "largest_only"),
    [
        (blocks(1, 370, 370, 37), 0, False),  # more pixels than one block joins
        (blocks(1, 370, 370, 37), 9, True),
        (blocks(1, 40, 600, 30), 9, True),  # several tiles per strip
        (torch.zeros(1, 1, 66_000, dtype=torch.int32), 9, True),  # wider than 2^16
        (columns_with_noise(160, 260), 9, True),  # more parts of strips than are sorted in shared memory
    ],
    ids=["large", "large-joined", "tiles", "wide", "columns"],
)
def test_sizes_where_kernels_go_other_ways(backend, labels, min_size, largest_only):
    labels = labels.clone()
    noise = torch.rand(labels.shape) < 0.05
    labels[noise] = torch.randint(-1, 3, (int(noise.sum()),), dtype=torch.int32)
    features = torch.rand(len(labels), 2, *labels.shape[1:]) if min_size else None
    out = connected_components(labels, features=features, min_size=min_size, largest_only=largest_only)
    expected = reference(labels, features, min_size, largest_only)
    assert torch.equal(out.labels, expected[0])
    assert torch.equal(out.counts, expected[1])


@pytest.mark.parametrize("scale", [1, 4096, 2**24])
def test_labels_that_are_far_apart(backend, scale):
    labels = torch.randint(0, 100, (1, 20, 30), dtype=torch.int32) * scale
    features = torch.rand(1, 1, 20, 30)
    out = connected_components(labels, features=features, min_size=2, largest_only=True)
    assert torch.equal(out.labels, reference(labels // scale, features, 2, True)[0])


def test_padding_changes_nothing(backend):
    small = torch.randint(-1, 3, (1, 40, 11), dtype=torch.int32)
    features = torch.rand(1, 3, 40, 11)
    labels = torch.full((2, 70, 20), -1, dtype=torch.int32)
    labels[0, :40, :11], labels[1] = small, torch.randint(-1, 3, (70, 20))
    padded = torch.full((2, 3, 70, 20), float("nan"))
    padded[0, :, :40, :11], padded[1] = features, 0.5
    alone = connected_components(small, features=features, min_size=4)
    out = connected_components(labels, features=padded, min_size=4)
    assert torch.equal(out.labels[:1, :40, :11], alone.labels)
    assert (out.labels[0, 40:] == -1).all()
    assert (out.labels[0, :, 11:] == -1).all()
    assert out.counts[0] == alone.counts[0]


def test_clean_up_of_superpixels_gives_connected_segments():
    labels = torch.arange(12 * 14).reshape(1, 1, 12, 14).float()
    labels = torch.nn.functional.interpolate(labels, scale_factor=8).int()[:, 0]
    swap = torch.rand(labels.shape) < 0.15
    labels[swap] = labels.roll((3, 5), (1, 2))[swap]
    out = connected_components(labels, features=torch.rand(1, 3, 96, 112), min_size=8, largest_only=True)
    assert out.counts[0] <= 12 * 14
    assert torch.equal(connected_components(out.labels).counts, out.counts)


@pytest.mark.parametrize("num_labels", [2, 3, 10**6])
def test_noise_takes_linear_time(num_labels):
    labels = torch.randint(0, num_labels, (1, 1000, 1000), dtype=torch.int32)
    features = torch.rand(1, 3, 1000, 1000)
    start = time.process_time()
    out = connected_components(labels, features=features, min_size=4)
    assert time.process_time() - start < 5  # a quadratic algorithm takes minutes
    sizes = torch.bincount(out.labels.flatten())
    assert len(sizes) == out.counts[0]
    if num_labels == 2:
        assert sizes.min() >= 4


def test_bitwise_equal_for_any_number_of_threads():
    labels = torch.randint(0, 2, (1, 300, 200), dtype=torch.int32)
    features = torch.rand(1, 3, 300, 200, dtype=torch.float64)
    threads = torch.get_num_threads()
    try:
        results = []
        for number in (1, 2, 5):
            torch.set_num_threads(number)
            results.append(connected_components(labels, features=features, min_size=20).labels)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


# How it behaves as a PyTorch function


def test_compiles_without_graph_break_or_recompile():
    def function(labels, features):
        out = connected_components(labels, features=features * 2, min_size=4, largest_only=True)
        return out.labels + 1, out.counts

    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    for seed in range(2):
        labels = torch.randint(-1, 3, (2, 20, 10), dtype=torch.int32)
        features = torch.rand(2, 3, 20, 10, requires_grad=True)
        with torch.compiler.set_stance("fail_on_recompile" if seed else "default"):
            actual = compiled(labels, features)
        for a, b in zip(actual, function(labels, features), strict=True):
            assert torch.equal(a, b)


def test_features_that_require_grad():
    labels = image("11233", "11233")
    out = connected_components(labels, features=values("11688", "11688").requires_grad_(), min_size=3)
    assert not out.labels.requires_grad
    assert out.counts.tolist() == [2]


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        (([[1]],), {}, TypeError, r"labels: expected a tensor \[B,H,W\]; found list"),
        ((torch.zeros(1, 2, 2),), {}, TypeError, r"labels: expected \[B,H,W\] of int32; found \[1,2,2\] of float32"),
        ((torch.zeros(2, 2, dtype=torch.int32),), {}, ValueError, r"labels: expected \[B,H,W\]; found \[2,2\]"),
        (
            (image("11"),),
            {"features": torch.zeros(1, 3, 2, 2)},
            ValueError,
            r"features: expected \[B,C,H,W\] = \[1,3,1,2\]",
        ),
        ((image("11"),), {"features": image("11").unsqueeze(1)}, TypeError, "features: expected .* of float32"),
        ((image("11"),), {"min_size": -1}, ValueError, "min_size: expected an integer >= 0; found -1"),
        ((image("11"),), {"min_size": 1.5}, TypeError, "min_size: expected an integer; found float"),
        ((image("11"),), {"largest_only": 1}, TypeError, "largest_only: expected a bool; found int"),
    ],
)
def test_bad_input(arguments, options, error, message):
    with pytest.raises(error, match=message):
        connected_components(*arguments, **options)
