"""The choices of `attention=`: all compute the same, and none is silently wrong."""

import sys
from dataclasses import replace
from importlib.machinery import ModuleSpec
from types import ModuleType

import pytest
import torch
import vits
from torch import nn
from torch.nn import functional as F

import dhvt_kernels as dk
from dhvt_kernels.retrofit import blocks, kernels
from dhvt_kernels.retrofit.kernels import Options, Row

#: Without flex, which takes 20 s to compile here and has no gradient on the CPU: it has tests of its own.
CHOICES = ("auto", "buckets", "nested", "varlen")
PACKED = ("nested", "varlen", "flex")

pytestmark = pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors is in prototype stage")


def photographs():
    """Four photographs, one of them plain: 4, 6, 4 and 1 token with `vits.adaptive`."""
    images = torch.cat([vits.plain_and_busy(), vits.photos(2)])
    images[3] = 0.5
    return images


def real(outputs, counts):
    """What is no padding of a model's outputs: of tokens those that are real."""
    rows = []
    for value in vits.tensors(outputs):
        if value.dim() == 3:
            own = value.shape[1] - max(counts)
            value = torch.cat([value[b, : own + count] for b, count in enumerate(counts)])
        rows.append(value)
    return rows


def close(found, expected):
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5 * max(1, float(other.abs().max())))


def results(vit, images):
    """Outputs and gradients."""
    vit.zero_grad()
    counts = vit.tokenize(images).counts.tolist()
    assert min(counts) == 1 < max(counts)
    outputs = real(vit(images), counts)
    sum(value.float().square().sum() for value in outputs).backward()
    gradients = {name: p.grad.clone() for name, p in vit.named_parameters() if p.grad is not None}
    return [value.detach() for value in outputs], gradients


def agree(found, expected):
    close(found[0], expected[0])
    assert found[1].keys() == expected[1].keys()
    for name, value in expected[1].items():
        tolerance = 1e-5 * max(1, float(value.abs().max()))
        torch.testing.assert_close(found[1][name], value, rtol=0, atol=tolerance, msg=name)


@pytest.mark.parametrize("family", vits.FAMILIES)
def test_all_choices_agree(family):
    """Outputs and the gradients of every parameter, with numbers of tokens down to one."""
    model, images = vits.make(family), photographs()
    expected = results(vits.adaptive(model, attention="mask"), images)
    for choice in ("buckets", "nested", "varlen"):
        agree(results(vits.adaptive(model, attention=choice), images), expected)


@torch.no_grad()
@pytest.mark.parametrize("family", ["timm-registers", "torchvision", "CLIPVisionModel"])
def test_features_agree(family):
    model, images = vits.make(family), photographs()
    expected = vits.adaptive(model, attention="mask").features(images, layers=(0, 1))
    for choice in CHOICES:
        found = vits.adaptive(model, attention=choice).features(images, layers=(0, 1))
        assert torch.equal(found.mask, expected.mask)
        close([x[found.mask] for x in found.tokens], [x[found.mask] for x in expected.tokens])


def ragged(images, counts):
    """A partition with these numbers of tokens, of 16 squares whose last ones are one."""
    whole, last = dk.GridTokenizer(8)(images), torch.tensor(counts, dtype=torch.int32)
    used = torch.arange(16) < last[:, None]
    labels = whole.labels.minimum(last[:, None, None] - 1)
    return replace(whole, labels=labels, counts=last, node=torch.where(used, whole.node, -1), probability=used.float())


@torch.no_grad()
@pytest.mark.parametrize("choice", ["mask", "buckets"])
@pytest.mark.parametrize("family", vits.FAMILIES)
def test_padding_never_influences_a_token(family, choice, monkeypatch):
    """With huge values in the padding of the first block each image gives what it gives alone."""
    vit, images = vits.adaptive(vits.make(family), attention=choice), vits.photos(4)
    counts, calls = [14, 16, 5, 15], []
    partition = ragged(images, counts)
    expected = [real(vit(images[b : b + 1], partition[b]), [count]) for b, count in enumerate(counts)]
    block, keys = vit.adapter.block, vit.adapter.keys

    def poisoned(module, tokens, mask, inside):
        if len(calls) % 2 == 0:  # the first of two blocks
            rows = counts if choice == "mask" else [[16, 15, 14], [5]][len(calls) // 2]
            padding = torch.arange(tokens.shape[1]) >= torch.tensor(rows)[:, None] + tokens.shape[1] - max(rows)
            assert padding.any() == (rows != [5])
            tokens = torch.where(padding[..., None], 1e4 * torch.randn(tokens.shape), tokens)
        calls.append(module)
        return block(module, tokens, mask, inside)

    def check():
        calls.clear()
        found = [list(x.split(1)) for x in vits.tensors(vit(images, partition))]
        for b, count in enumerate(counts):
            for one, other in zip(found, expected[b], strict=True):
                own = one[b].shape[1] - max(counts) if one[b].dim() == 3 else 0
                close([one[b][0, : own + count] if one[b].dim() == 3 else one[b]], [other])

    monkeypatch.setattr(vit.adapter, "block", poisoned)
    check()
    monkeypatch.setattr(vit.adapter, "keys", lambda tokens, mask: keys(tokens, torch.ones_like(mask)))
    with pytest.raises(AssertionError, match="not close"):
        check()


@torch.no_grad()
@pytest.mark.parametrize("choice", ["buckets", "nested", "varlen"])
def test_what_the_blocks_are_given_in_the_padding_is_never_seen(choice, monkeypatch):
    """Padding that the model's own first steps filled with NaN does not even enter the blocks."""
    vit, images = vits.adaptive(vits.make("timm-clip"), attention=choice), photographs()
    expected, counts = vit(images), vit.tokenize(images).counts
    norm_pre = vit.model.norm_pre.forward

    def poisoned(tokens):
        padding = torch.arange(tokens.shape[1]) >= 1 + counts[:, None]
        return norm_pre(tokens).masked_fill(padding.unsqueeze(-1), torch.nan)

    monkeypatch.setattr(vit.model.norm_pre, "forward", poisoned)
    assert torch.equal(vit(images), expected)


@torch.no_grad()
def test_rows_of_one_length_are_not_touched(monkeypatch):
    """There is nothing to choose: no mask, no packing."""
    monkeypatch.setattr(kernels, "per_image", None)
    model, images = vits.make("timm"), vits.photos()
    grid = dk.retrofit(model, dk.GridTokenizer(8), attention="varlen")
    vits.equal(grid(images), model(images))
    with pytest.raises(TypeError, match="NoneType"):
        vits.adaptive(model, attention="varlen")(photographs())


@torch.no_grad()
def test_buckets_hold_rows_of_similar_length():
    vit, images = vits.adaptive(vits.make("timm"), attention="buckets"), photographs()
    shapes = []
    vit.model.blocks[0].register_forward_pre_hook(lambda block, args: shapes.append((args[0].shape, args[1])))
    vit(images)
    assert [tuple(shape[:2]) for shape, _ in shapes] == [(1, 7), (2, 5), (1, 2)], "6, 4, 4 and 1 with the class token"
    assert all(keys is None for _, keys in shapes)


@torch.no_grad()
def test_no_padding_goes_through_the_blocks_of_a_packed_row():
    vit, images = vits.adaptive(vits.make("timm"), attention="varlen"), photographs()
    shapes = []
    vit.model.blocks[0].mlp.register_forward_pre_hook(lambda mlp, args: shapes.append(list(args[0].shape)))
    vit(images)
    assert shapes == [[1, 6 + 4 + 4 + 1 + 4, 32]]


@torch.no_grad()
@pytest.mark.parametrize("choice", CHOICES)
def test_images_of_different_size(choice):
    model = vits.make("timm-dynamic")
    single = [vits.photos(1, *size)[0] for size in ((32, 32), (40, 24), (16, 48), (8, 8))]
    images, mask = dk.pad_images(single)
    images = images.masked_fill(~mask[:, None], torch.nan)
    together = vits.adaptive(model, attention=choice)(images, mask=mask)
    for found, image in zip(together, single, strict=True):
        vits.equal(found, vits.adaptive(model)(image[None])[0], 2e-5)


# What blocks do besides


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated")
@pytest.mark.parametrize("choice", ["buckets", "varlen"])
@pytest.mark.parametrize("family", ["timm", "ViTModel", "CLIPVisionModel"])
def test_gradient_checkpointing(family, choice):
    """What is computed again sees the same rows."""
    vit, images = vits.adaptive(vits.make(family), attention=choice).train(), photographs()
    expected = results(vit, images)
    if family.startswith("timm"):
        vit.model.set_grad_checkpointing()
    else:
        vit.model.gradient_checkpointing_enable()
    calls = []
    first = next(module for module in vit.model.modules() if type(module).__name__.lower().endswith("mlp"))
    first.register_forward_pre_hook(lambda *_: calls.append(1))
    agree(results(vit, images), expected)
    assert len(calls) in (2, 6), "twice for one row, or for each of three buckets"


@torch.no_grad()
@pytest.mark.parametrize("choice", ["mask", *CHOICES])
@pytest.mark.parametrize("family", ["timm", "torchvision", "Dinov2ForImageClassification"])
def test_autocast(family, choice):
    model, images = vits.make(family), photographs()
    vit = vits.adaptive(model, attention=choice)
    expected = vits.tensors(vit(images))[0]
    with torch.autocast("cpu", torch.bfloat16):
        found = vits.tensors(vit(images))[0]
    torch.testing.assert_close(found.float(), expected, rtol=0, atol=0.05 * float(expected.abs().max()))


@torch.no_grad()
def test_the_mask_compiles_to_one_graph():
    """As does "auto", which test_retrofit_module compiles."""
    torch._dynamo.reset()
    vit, images = vits.adaptive(vits.make("timm"), attention="mask"), photographs()
    vits.equal(torch.compile(vit, backend="eager", fullgraph=True)(images), vit(images))


@torch.no_grad()
def test_a_compiled_graph_takes_no_other_choice():
    torch._dynamo.reset()
    vit = vits.adaptive(vits.make("timm"), attention="varlen")
    with pytest.raises(Exception, match='expected "auto" or "mask"'):
        torch.compile(vit, backend="eager", fullgraph=True)(photographs())


def test_stochastic_depth_drops_images():
    """Which a packed row has not: refused where it is asked for, and otherwise not chosen."""
    vits.library("timm")
    model = vits._timm(drop_path_rate=0.5)(32)
    vit, images = vits.adaptive(model, attention="varlen"), photographs()
    with torch.no_grad():
        vits.equal(vit.eval()(images), vits.adaptive(model, attention="mask")(images))
        with pytest.raises(ValueError, match='attention="varlen": DropPath drops images in training, a row each'):
            vit.train()(images)
        batches = []
        model.blocks[0].register_forward_pre_hook(lambda block, args: batches.append(len(args[0])))
        vits.adaptive(model).train()(images)
    assert sum(batches) == 4


@torch.no_grad()
def test_blocks_that_are_compiled_get_whole_rows():
    vit, images = vits.adaptive(vits.make("timm")), photographs()
    expected = vit(images)
    for block in vit.model.blocks:
        block.compile(backend="eager")
    shapes = []
    vit.model.blocks[0].register_forward_pre_hook(lambda block, args: shapes.append(args[0].shape[:2]))
    vits.equal(vit(images), expected)
    assert shapes == [(4, 7)]
    vit = vits.adaptive(vit.model, attention="nested")
    with pytest.raises(ValueError, match='attention="nested": Block is compiled; expected attention="mask" or "buck'):
        vit(images)


@torch.no_grad()
@pytest.mark.parametrize("family", ["timm", "ViTModel"])
def test_blocks_that_attend_in_another_way_are_found_out(family):
    model, images = vits.make(family), photographs()
    vit = vits.adaptive(model)
    expected = vit(images)
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False
    if hasattr(model, "set_attn_implementation"):
        model.set_attn_implementation("eager")
    close(real(vit(images), [4, 6, 4, 1]), real(expected, [4, 6, 4, 1]))
    for choice in PACKED:
        with pytest.raises(ValueError, match=f'attention="{choice}": a block never called torch\'s scaled_dot'):
            vits.adaptive(model, attention=choice)(images)


@torch.no_grad()
@pytest.mark.parametrize("family", ["timm", "ViTModel"])
def test_a_model_that_attends_in_another_way_is_not_tried_on_one_row(family, monkeypatch):
    vit, images = vits.adaptive(vits.make(family)), photographs()
    monkeypatch.setattr(blocks, "_packed", None)
    with pytest.raises(TypeError, match="NoneType"):
        vit(images)
    if family == "timm":
        vit.model.blocks[1].attn.fused_attn = False
    else:
        vit.model.set_attn_implementation("eager")
    assert vits.tensors(vit(images))[0].isfinite().all()


# Adapters of one's own


class Own(nn.Module):
    """Layers of torch, with grouped queries beside them."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Linear(3 * 16, 32)
        self.layers = nn.ModuleList(nn.TransformerEncoderLayer(32, 2, 64, batch_first=True) for _ in range(2))
        self.q, self.kv = nn.Linear(32, 32), nn.Linear(32, 16)

    def grouped(self, tokens, keys):
        query = self.q(tokens).unflatten(2, (4, 8)).transpose(1, 2)
        key, value = self.kv(tokens).unflatten(2, (2, 2, 4)).repeat(1, 1, 1, 1, 2).permute(2, 0, 3, 1, 4)
        mask = None if keys is None else keys[:, None, None]
        out = F.scaled_dot_product_attention(query, key, value, mask, 0.0, False, scale=0.7, enable_gqa=True)
        return tokens + out.transpose(1, 2).flatten(2)

    def layer(self, number):
        return lambda tokens, keys: self.layers[number](tokens, src_key_padding_mask=None if keys is None else ~keys)


class OwnAdapter(dk.Adapter):
    patch_size, channels, width = 4, 3, 32
    mean, std = (0, 0, 0), (1, 1, 1)

    def embed(self, patches):
        return self.model.embedding(patches.flatten(2))

    def positions(self, height, width):
        return None

    def forward(self, tokens, mask):
        return self.features(tokens, mask, (-1,))[0]

    def features(self, tokens, mask, layers):
        return self.run([self.model.layer(0), self.model.grouped, self.model.layer(1)], tokens, mask, layers)


class Masking(OwnAdapter):
    def forward(self, tokens, mask):
        for layer in self.model.layers:
            tokens = layer(tokens, src_key_padding_mask=None if mask is None else ~mask)
        return tokens


@torch.no_grad()
def test_an_adapter_of_ones_own_runs_its_blocks():
    """Torch's own layers, which have a fast path that calls no attention; a scale and grouped heads."""
    model, images = Own().eval(), photographs()

    def run(choice):
        return dk.retrofit(model, dk.Tokenizer(cell=4), max_tokens=14, adapter=OwnAdapter, attention=choice)

    expected = real(run("mask")(images), [4, 6, 4, 1])
    for choice in CHOICES:
        close(real(run(choice)(images), [4, 6, 4, 1]), expected)
    assert len(run("auto").features(images, layers=(0, 2)).tokens) == 2


class Shortening(OwnAdapter):
    """Its rows are no longer those that the numbers of tokens tell of."""

    def forward(self, tokens, mask):
        return super().forward(tokens[:, :3], None if mask is None else mask[:, :3])


@torch.no_grad()
@pytest.mark.parametrize("adapter", [Masking, Shortening])
def test_an_adapter_that_masks_itself(adapter):
    model = Own().eval()

    def run(choice):
        return dk.retrofit(model, dk.Tokenizer(cell=4), max_tokens=14, adapter=adapter, attention=choice)

    vits.equal(run("auto")(photographs()), run("mask")(photographs()), 0)
    with pytest.raises(ValueError, match='attention="varlen": the adapter masks the padding itself; expected "auto"'):
        run("varlen")(photographs())


def test_a_block_that_attends_to_something_else():
    model = Own().eval()
    model.grouped = lambda tokens, keys: F.scaled_dot_product_attention(tokens, tokens, tokens)
    vit = dk.retrofit(model, dk.Tokenizer(cell=4), max_tokens=14, adapter=OwnAdapter, attention="varlen")
    with pytest.raises(ValueError, match=r"a block attends to other than \[1,H,15,E\] without a mask: found \[\[1, 15"):
        vit(photographs())


def test_an_unknown_choice():
    with pytest.raises(ValueError, match="attention: expected one of auto, mask, buckets, nested, varlen, flex; found"):
        dk.retrofit(Own(), dk.Tokenizer(), adapter=OwnAdapter, attention="flash")


# Kernels

COUNTS = (3, 1, 130, 7)


def packed(dtype=torch.float32, heads=4, keys=4, width=16):
    torch.manual_seed(0)
    total = sum(COUNTS)
    query = torch.randn(1, heads, total, width, dtype=dtype)
    key, value = torch.randn(2, 1, keys, total, width, dtype=dtype)
    return query, key, value, Row(COUNTS, torch.tensor((0, *COUNTS), dtype=torch.int32).cumsum(0, dtype=torch.int32))


def one_by_one(query, key, value, options, counts=COUNTS):
    """Written out: softmax of the scaled scores, image by image."""
    times = query.shape[1] // key.shape[1]
    key, value = (x.repeat_interleave(times, 1) for x in (key, value))
    out, scale = [], options.scale or query.shape[-1] ** -0.5
    for q, k, v in zip(*(x.split(counts, 2) for x in (query, key, value)), strict=True):
        scores = scale * q @ k.transpose(-1, -2)
        if options.is_causal:
            scores = scores.masked_fill(torch.ones_like(scores, dtype=torch.bool).triu(1), -torch.inf)
        out.append(scores.softmax(-1) @ v)
    return torch.cat(out, 2)


@pytest.mark.parametrize("options", [Options(0.0, False, None, False), Options(0.0, False, 0.7, True)])
@pytest.mark.parametrize("kernel", [kernels.varlen, kernels.nested])
def test_kernels(kernel, options):
    query, key, value, row = packed(keys=2 if options.enable_gqa else 4)
    torch.testing.assert_close(
        kernel(query, key, value, row, options), one_by_one(query, key, value, options), rtol=0, atol=1e-5
    )


def test_causal_attention():
    query, key, value, row = packed()
    options = Options(0.0, True, None, False)
    expected = one_by_one(query, key, value, options)
    torch.testing.assert_close(kernels.varlen(query, key, value, row, options), expected, rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match='attention="nested": torch has no causal attention'):
        kernels.nested(query, key, value, row, options)


@pytest.mark.parametrize("kernel", [kernels.varlen, kernels.nested])
def test_attention_dropout_is_passed_on(kernel):
    query, key, value, row = packed()
    out = kernel(query, key, torch.ones_like(value), row, Options(0.5, False, None, False))
    assert not torch.allclose(out, torch.ones(()), atol=0.01), "weights without dropout add up to 1"
    assert 0.8 < out.mean() < 1.2


@pytest.mark.parametrize("is_causal", [False, True])
def test_the_blocks_of_flex_attention_hold_every_pair(is_causal):
    """And no block that holds none."""
    counts = (5, 300, 1, 1, 77, 128, 3)
    starts = torch.tensor((0, *counts)).cumsum(0).int()
    total = sum(counts)
    mask = kernels.block_mask(Row(counts, starts), total, is_causal)
    image = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    place = torch.arange(total)
    pair = image[:, None] == image
    blocks = (
        F.pad(pair, (0, -total % 128, 0, -total % 128)).unflatten(1, (-1, 128)).unflatten(0, (-1, 128)).any(3).any(1)
    )
    assert torch.equal(mask.to_dense()[0, 0].bool(), blocks)
    allowed = mask.mask_mod(0, 0, place[:, None], place)
    assert torch.equal(allowed, pair & (place[:, None] >= place) if is_causal else pair)


def test_what_flex_attention_cannot():
    query, key, value, row = packed()
    with pytest.raises(ValueError, match='attention="flex": FlexAttention has no dropout'):
        kernels.flex(query, key, value, row, Options(0.1, False, None, False))
    with pytest.raises(ValueError, match='attention="flex": FlexAttention has no gradient on the CPU'):
        kernels.flex(query.requires_grad_(), key, value, row, Options(0.0, False, None, False))


@pytest.mark.slow
@torch.no_grad()
def test_flex_attention():
    """Twice: the second row has another length. Compiling takes a while."""
    for options in (Options(0.0, False, None, False), Options(0.0, True, 0.7, True)):
        query, key, value, row = packed(keys=2 if options.enable_gqa else 4)
        expected = one_by_one(query, key, value, options)
        torch.testing.assert_close(kernels.flex(query, key, value, row, options), expected, rtol=0, atol=1e-5)
    images = photographs()
    for family in ("timm", "torchvision", "ViTModel"):
        torch._dynamo.reset()  # torch 2.13 cannot compile it for the CPU with too many sizes that vary
        model = vits.make(family)
        expected = real(vits.adaptive(model, attention="mask")(images), [4, 6, 4, 1])
        close(real(vits.adaptive(model, attention="flex")(images), [4, 6, 4, 1]), expected)


# CUDA's kernels, by stand-ins that take what they take


def stand_in(calls, dropout=False):
    """Computes by a loop, and looks at the arguments; `window_size` as in torch, `causal` as in flash-attn."""

    def varlen_attn(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, window_size=(-1, -1), dropout_p=0.0, causal=0):
        counts = cu_seq_q.diff().tolist()
        assert cu_seq_q.dtype == torch.int32
        assert cu_seq_q[0] == 0
        assert cu_seq_q[-1] == len(query) == len(key) == len(value)
        assert cu_seq_k is cu_seq_q
        assert max_q == max_k == max(counts)
        assert query.dim() == 3
        assert query.dtype == torch.bfloat16
        assert all(x.stride(-1) == 1 and x.shape[1:] == query.shape[1:] for x in (key, value))
        calls.append(dropout_p)
        rows = (x.transpose(0, 1).unsqueeze(0).float() for x in (query, key, value))
        options = Options(0.0, bool(causal) or window_size == (-1, 0), None, False)
        return one_by_one(*rows, options, counts)[0].transpose(0, 1).to(query.dtype)

    return varlen_attn


@pytest.fixture
def fake_gpu(monkeypatch):
    """As if bfloat16 on the CPU had CUDA's kernels; the lists of calls of torch's and of flash-attn's."""
    torch_calls, flash_calls = [], []
    monkeypatch.setattr(kernels, "_has_flash", lambda device, dtype: dtype == torch.bfloat16)
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", stand_in(torch_calls))
    module = ModuleType("flash_attn")
    module.flash_attn_varlen_func = stand_in(flash_calls)
    module.__spec__ = ModuleSpec("flash_attn", None)  # transformers asks for it when it is imported
    monkeypatch.setitem(sys.modules, "flash_attn", module)
    found = (kernels.torch_varlen, kernels.flash_attn)
    for cached in found:
        cached.cache_clear()
    yield torch_calls, flash_calls
    for cached in found:
        cached.cache_clear()


@pytest.mark.parametrize(
    "options",
    [
        Options(0.0, False, None, False),
        Options(0.0, True, None, False),
        Options(0.0, False, 0.7, True),
        Options(0.3, True, None, False),
    ],
)
def test_a_varlen_kernel_gets_what_it_takes(fake_gpu, options):
    query, key, value, row = packed(torch.bfloat16, keys=2 if options.enable_gqa else 4)
    out = kernels.varlen(query, key, value, row, options)
    assert fake_gpu == (([], [0.3]) if options.dropout_p else ([0.0], [])), "torch's has no dropout"
    expected = one_by_one(query.float(), key.float(), value.float(), options)
    torch.testing.assert_close(out.float(), expected, rtol=0, atol=0.03)


@torch.no_grad()
@pytest.mark.parametrize("family", ["timm", "torchvision", "ViTModel"])
def test_a_model_on_a_varlen_kernel(fake_gpu, family):
    """In bfloat16, and under autocast; float32 has no such kernel."""
    model, images = vits.make(family), photographs()
    expected = real(vits.adaptive(model, attention="mask")(images), [4, 6, 4, 1])
    vit = vits.adaptive(model, attention="varlen")
    close(real(vit(images), [4, 6, 4, 1]), expected)
    assert fake_gpu == ([], [])
    with torch.autocast("cpu", torch.bfloat16):
        found = real(vit(images), [4, 6, 4, 1])
    assert fake_gpu == ([0.0, 0.0], [])
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.float(), other, rtol=0, atol=0.05 * float(other.abs().max()))


def test_a_width_that_no_varlen_kernel_takes(fake_gpu):
    query, key, value, row = packed(torch.bfloat16, width=12)
    options = Options(0.0, False, None, False)
    expected = one_by_one(query.float(), key.float(), value.float(), options)
    torch.testing.assert_close(kernels.varlen(query, key, value, row, options).float(), expected, rtol=0, atol=0.03)
    assert fake_gpu == ([], [])


@pytest.mark.parametrize(
    ("width", "dropout", "taken"), [(16, 0.0, True), (12, 0.0, False), (264, 0.0, False), (16, 0.5, False)]
)
def test_auto_off_the_cpu_is_never_one_call_per_image(fake_gpu, monkeypatch, width, dropout, taken):
    """On tensors without data, whose device is no CPU; no flash-attn, which alone has dropout."""
    monkeypatch.setattr(kernels, "_autocast", lambda x: x)  # which such a device has not
    monkeypatch.setattr(kernels, "flash_attn", lambda: None)
    monkeypatch.setattr(kernels, "torch_varlen", lambda: lambda query, *_: query)
    query, key, value, row = packed(torch.bfloat16, width=width)
    call = [x.to("meta") for x in (query, key, value)] + [row, Options(dropout, False, None, False)]
    if taken:
        assert kernels.auto(*call).shape == query.shape
    else:
        with pytest.raises(kernels.NotPacked, match="no kernel for rows of different length"):
            kernels.auto(*call)
        assert kernels.varlen(*call).shape == query.shape


def test_without_a_varlen_kernel_it_is_one_call_per_image(fake_gpu, monkeypatch):
    monkeypatch.setattr(kernels, "torch_varlen", lambda: None)
    monkeypatch.setattr(kernels, "flash_attn", lambda: None)
    query, key, value, row = packed(torch.bfloat16)
    options = Options(0.0, False, None, False)
    expected = one_by_one(query.float(), key.float(), value.float(), options)
    torch.testing.assert_close(kernels.varlen(query, key, value, row, options).float(), expected, rtol=0, atol=0.03)
    assert fake_gpu == ([], [])
