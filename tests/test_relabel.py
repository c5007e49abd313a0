"""Looking labels up in a table."""

import pytest
import torch

import dhvt_kernels as dk


def test_every_label_and_those_outside(backend):
    labels = torch.randint(-3, 20, (3, 37, 501), dtype=torch.int32)
    labels[0, 0, :2] = torch.tensor([-(2**31), 2**31 - 1], dtype=torch.int32)
    table = torch.randint(-1, 1000, (3, 17), dtype=torch.int32)
    expected = [[table[b, k].item() if 0 <= k < 17 else -1 for k in labels[b].flatten().tolist()] for b in range(3)]
    assert dk.relabel(labels, table).flatten(1).tolist() == expected


def test_views(backend):
    labels = torch.randint(0, 5, (2, 30, 40), dtype=torch.int32)
    table = torch.randint(0, 9, (5, 2), dtype=torch.int32).t()
    view = labels.transpose(1, 2)
    out = dk.relabel(view, table)
    assert out.is_contiguous()
    assert torch.equal(out, dk.relabel(view.contiguous(), table.contiguous()))


def test_compiles_without_recompiling():
    compiled = torch.compile(dk.relabel, fullgraph=True)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for _ in range(2):
            labels, table = torch.randint(0, 5, (2, 8, 9)).int(), torch.randint(0, 9, (2, 5)).int()
            assert torch.equal(compiled(labels, table), dk.relabel(labels, table))


def test_bad_input():
    labels = torch.zeros(1, 2, 2, dtype=torch.int32)
    with pytest.raises(TypeError, match=r"labels: expected \[B,H,W\] of int32"):
        dk.relabel(labels.long(), labels[:, 0])
    with pytest.raises(ValueError, match=r"table: expected \[B,K\]"):
        dk.relabel(labels, labels)
