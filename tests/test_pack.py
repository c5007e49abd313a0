import pytest
import torch
from grid import DTYPES

from dhvt_kernels._schema import ops
from dhvt_kernels.ops.pack import pack, pad, unpack

B, K, D = 4, 6, 3


def int32(*numbers):
    return torch.tensor(numbers, dtype=torch.int32)


COUNTS = {
    "ragged": int32(2, 0, 6, 1),
    "none": int32(0, 0, 0, 0),
    "full": int32(6, 6, 6, 6),
    "hostile": int32(-3, 7, 2**31 - 1, 1),
}


def rows_of(values, counts):
    return [v[: max(0, min(n, values.shape[1]))] for v, n in zip(values, counts.tolist(), strict=True)]


def resized(rows, length):
    out = rows.new_zeros(length, rows.shape[1])
    out[: len(rows)] = rows[:length]
    return out


@pytest.mark.parametrize("name", COUNTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("strided", [False, True])
def test_pack_and_unpack(backend, strided, dtype, name):
    values, counts = torch.randn(B, K, D).to(dtype), COUNTS[name]
    rows = rows_of(values, counts)
    if strided:
        values = values.transpose(0, 2).contiguous().transpose(0, 2)
    ragged = torch.cat(rows)
    packed, offsets = pack(values, counts)
    assert torch.equal(packed, ragged)
    assert offsets.dtype == torch.int32
    assert offsets.tolist() == [0, *torch.tensor([len(r) for r in rows]).cumsum(0).tolist()]
    for total in (0, 1, 5, len(ragged), 40):
        packed, offsets = pack(values, counts, total=total)
        assert torch.equal(packed, resized(ragged, total))
        assert offsets[-1] == min(total, len(ragged))
    packed, offsets = pack(values, counts)
    for length in (0, 1, 4, K, 9):
        assert torch.equal(unpack(packed, offsets, length=length), torch.stack([resized(r, length) for r in rows]))


@pytest.mark.parametrize("name", COUNTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("length", [0, 1, 4, K, 9])
def test_pad(backend, length, dtype, name):
    values, counts = torch.randn(B, K, D).to(dtype), COUNTS[name]
    rows = rows_of(values, counts)
    out, mask = pad(values, counts, length=length)
    assert torch.equal(out, torch.stack([resized(r, length) for r in rows]))
    assert mask.dtype == torch.bool
    assert mask.tolist() == [[n < len(r) for n in range(length)] for r in rows]


def test_many_rows(backend):
    values, counts = torch.randn(5, 400, 2), int32(400, 0, 399, 1, 123)
    packed, offsets = pack(values, counts)
    assert torch.equal(packed, torch.cat(rows_of(values, counts)))
    assert torch.equal(unpack(packed, offsets, length=400), pad(values, counts, length=400)[0])


def test_hostile_offsets_stay_inside(backend):
    values = torch.randn(3, 4, 2)
    for offsets in (int32(-5, 2**31 - 1, -(2**31), 9), int32(9, 5, 1, 0), int32(7, 7, 7, 7)):
        packed = ops.pack(values, offsets, 6)
        assert packed.isfinite().all()
        assert ops.unpack(packed, offsets, 5).isfinite().all()


def test_degenerate(backend):
    packed, offsets = pack(torch.ones(0, 4, 2), int32())
    assert packed.shape == (0, 2)
    assert offsets.tolist() == [0]
    assert pack(torch.ones(0, 4, 2), int32(), total=3)[0].eq(0).all()
    assert pack(torch.ones(2, 0, 2), int32(1, 1))[1].tolist() == [0, 0, 0]
    assert pack(torch.ones(2, 3, 0), int32(1, 1))[0].shape == (2, 0)
    assert unpack(torch.ones(0, 2), int32(0, 1), length=3).eq(0).all()
    assert pad(torch.ones(0, 4, 2), int32(), length=3)[0].shape == (0, 3, 2)


def test_gradients():
    values = torch.randn(3, 4, 2, dtype=torch.float64, requires_grad=True)
    ragged = torch.randn(6, 2, dtype=torch.float64, requires_grad=True)
    counts, offsets = int32(2, 0, 4), int32(0, 2, 2, 6)
    functions = [
        (lambda v: pack(v, counts, total=5)[0], values),
        (lambda v: pack(v, counts)[0].pow(3), values),
        (lambda v: unpack(v, offsets, length=3), ragged),
        (lambda v: unpack(v, offsets, length=5).pow(3), ragged),
        (lambda v: pad(v, counts, length=3)[0], values),
        (lambda v: pad(v, counts, length=5)[0].pow(3), values),
    ]
    for function, inputs in functions:
        assert torch.autograd.gradcheck(function, (inputs,))
        assert torch.autograd.gradgradcheck(function, (inputs,))


def test_compile():
    def function(values, counts):
        packed, offsets = pack(values, counts, total=12)
        padded, mask = pad(values, counts, length=5)
        return unpack(packed, offsets, length=5).square().sum() + (padded * mask.unsqueeze(-1)).sum()

    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    for call in range(2):
        with torch._dynamo.config.patch(error_on_recompile=call == 1):
            values, counts = torch.randn(B, K, D, requires_grad=True), torch.randint(0, K, (B,), dtype=torch.int32)
            actual = torch.autograd.grad(compiled(values, counts), values)[0]
            torch.testing.assert_close(actual, torch.autograd.grad(function(values, counts), values)[0])


def test_bad_input():
    values, counts = torch.ones(2, 3, 4), int32(1, 2)
    with pytest.raises(ValueError, match=r"counts: expected \[B\] = \[2\]; found \[1\] of int32"):
        pack(values, int32(1))
    with pytest.raises(TypeError, match=r"counts: .*int64"):
        pad(values, counts.long(), length=2)
    with pytest.raises(ValueError, match="total: expected an integer >= 0; found -1"):
        pack(values, counts, total=-1)
    with pytest.raises(TypeError, match="total: expected an integer; found float"):
        pack(values, counts, total=2.0)
    with pytest.raises(ValueError, match="length: expected an integer >= 0; found -1"):
        pad(values, counts, length=-1)
    with pytest.raises(ValueError, match=r"cu_seqlens: expected \[B\+1\]; found \[0\]"):
        unpack(values[0], int32(), length=2)
