import pytest
import torch
from grid import blocks, label_maps

from dhvt_kernels.ops.position_histogram import position_histogram

B, H, W, K = 2, 13, 18, 20
MAPS = tuple(label_maps(1, 8, 8, 4))


def oracle(labels, number, grid, sizes):
    out = torch.zeros(len(labels), number, *grid, dtype=torch.float64)
    for b, (height, width) in enumerate(sizes):
        for y in range(height):
            for x in range(width):
                k = labels[b, y, x].item()
                if 0 <= k < number:
                    out[b, k, y * grid[0] // height, x * grid[1] // width] += 1
    return out / out.sum((2, 3), keepdim=True).clamp(min=1)


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("grid", [(1, 1), (3, 4), (14, 14), (40, 7)])
def test_values(backend, grid, name):
    labels = label_maps(B, H, W, K)[name]
    number = H * W if name == "pixels" else K
    for sizes in (None, [[13, 18], [9, 5]], [[0, 18], [1, 1]]):
        given = None if sizes is None else torch.tensor(sizes, dtype=torch.int32)
        actual = position_histogram(labels, num_segments=number, grid=grid, sizes=given)
        expected = oracle(labels, number, grid, sizes or [[H, W]] * B)
        assert actual.dtype == torch.float32
        torch.testing.assert_close(actual.double(), expected, rtol=1e-6, atol=0)


def test_regular_patches_are_one_hot(backend):
    out = position_histogram(blocks(2, 224, 224, 16), num_segments=196, grid=(14, 14))
    assert torch.equal(out.flatten(2), torch.eye(196).expand(2, -1, -1))


def test_sizes_beyond_the_tensor_count_as_its_own(backend):
    labels = label_maps(2, H, W, K)["noise"]
    for wrong in (1000, 2**31 - 1):
        sizes = torch.tensor([[wrong, wrong], [-5, -(2**31)]], dtype=torch.int32)
        out = position_histogram(labels, num_segments=K, grid=(3, 4), sizes=sizes)
        assert torch.equal(out[0], position_histogram(labels, num_segments=K, grid=(3, 4))[0])
        assert out[1].eq(0).all()


def test_a_strided_label_map(backend):
    labels = label_maps(2, H, W, K)["noise"]
    strided = labels.transpose(1, 2).contiguous().transpose(1, 2)
    arguments = {"num_segments": K, "grid": (3, 4)}
    assert torch.equal(position_histogram(strided, **arguments), position_histogram(labels, **arguments))


@pytest.mark.parametrize("shape", [(0, 4, 5), (2, 0, 5), (2, 4, 0), (1, 1, 1)])
@pytest.mark.parametrize("number", [0, 2])
def test_degenerate(backend, shape, number):
    out = position_histogram(torch.zeros(shape, dtype=torch.int32), num_segments=number, grid=(2, 3))
    assert out.shape == (shape[0], number, 2, 3)
    assert out.sum() == (1 if shape == (1, 1, 1) and number else 0)


def test_compile():
    compiled = torch.compile(position_histogram, fullgraph=True, backend="aot_eager")
    for call in range(2):
        with torch._dynamo.config.patch(error_on_recompile=call == 1):
            labels = label_maps(B, H, W, K)["noise"]
            actual = compiled(labels, num_segments=K, grid=(3, 4))
            assert torch.equal(actual, position_histogram(labels, num_segments=K, grid=(3, 4)))


def test_bad_input():
    labels = torch.zeros(1, 4, 5, dtype=torch.int32)
    with pytest.raises(ValueError, match=r"grid\[0\]: expected an integer >= 1; found 0"):
        position_histogram(labels, num_segments=1, grid=(0, 3))
    with pytest.raises(TypeError, match="grid: expected"):
        position_histogram(labels, num_segments=1, grid=3)
    with pytest.raises(ValueError, match="sizes"):
        position_histogram(labels, num_segments=1, grid=(2, 3), sizes=torch.zeros(2, 2, dtype=torch.int32))
    with pytest.raises(TypeError, match=r"labels: .*int64"):
        position_histogram(labels.long(), num_segments=1, grid=(2, 3))
