"""Tokenizer, Hierarchy and Partition, on photographs and on every degenerate image."""

import copy
import itertools
import pickle

import pytest
import skimage.data
import torch
from scipy import ndimage
from torch.utils.data import DataLoader, Dataset

import dhvt_kernels as dk


def photo(height=96, width=128):
    image = torch.from_numpy(skimage.data.astronaut()).permute(2, 0, 1)[None, :, 40:424, :].float() / 255
    return torch.nn.functional.interpolate(image, size=(height, width), mode="area")


def check(partition, mask=None):
    """What every partition promises: every pixel in exactly one segment, ids dense, segments 4-connected."""
    batch = len(partition)
    assert partition.labels.dtype == torch.int32
    assert partition.counts.dtype == torch.int32
    for b in range(batch):
        labels, count = partition.labels[b], int(partition.counts[b])
        inside = torch.ones_like(labels, dtype=torch.bool) if mask is None else mask[b]
        assert (labels[~inside] == -1).all()
        assert sorted(labels[inside].unique().tolist()) == list(range(count))
        assert count <= partition.num_segments
        assert (partition.node[b, :count] >= 0).all()
        assert (partition.node[b, count:] == -1).all()
        for k in range(count):
            assert ndimage.label(labels.numpy() == k)[1] == 1, f"segment {k} of image {b} is not 4-connected"


def is_refinement(fine, coarse):
    pairs = torch.stack([fine.flatten(), coarse.flatten()]).unique(dim=1)
    return pairs.shape[1] == int(fine.max()) + 1


@pytest.mark.parametrize("leaves", ["soft", "pixels"])
@pytest.mark.parametrize("size", [(1, 1), (1, 13), (9, 1), (2, 3), (8, 8), (17, 40), (33, 31)])
@pytest.mark.parametrize("depth", [None, 1, 2, 3])
def test_any_size_and_depth(leaves, size, depth):
    images = torch.rand(2, 3, *size)
    check(dk.Tokenizer(leaves=leaves, depth=depth)(images))


@pytest.mark.parametrize("leaves", ["soft", "pixels"])
@pytest.mark.parametrize("criterion", [*dk.CRITERIA, "fixed"])
@pytest.mark.parametrize("select", ["optimal", "greedy"])
def test_criteria_selections_and_budgets(leaves, criterion, select):
    image = photo(48, 64)
    hierarchy = dk.Tokenizer(leaves=leaves).hierarchy(image)
    previous = None
    for budget in (1, 2, 7, 20, 48):
        partition = hierarchy.cut(criterion=criterion, select=select, max_tokens=budget)
        check(partition)
        assert partition.counts[0] <= budget
        assert partition.num_segments == min(budget, hierarchy.num_leaves)
        if select == "optimal" and previous is not None:
            assert is_refinement(partition.labels, previous.labels), "cuts at rising budgets are nested"
        previous = partition
    if criterion != "fixed":
        check(hierarchy.cut(criterion=criterion, select=select))


def test_fixed_reaches_the_budget_from_below():
    hierarchy = dk.Tokenizer(smoothing=0.0).hierarchy(photo())
    for budget in (10, 50, 100):
        assert budget - 3 <= int(hierarchy.cut(criterion="fixed", max_tokens=budget).counts[0]) <= budget


def test_rising_strength_merges_and_nests():
    hierarchy = dk.Tokenizer().hierarchy(photo())
    cuts = [hierarchy.cut(strength=strength) for strength in (0.0, 0.5, 1.0, 2.0, 5.0, 50.0, 1e6)]
    assert all(is_refinement(a.labels, b.labels) for a, b in itertools.pairwise(cuts))
    assert cuts[0].counts > cuts[3].counts > cuts[-1].counts == 1


def test_depth_gives_fewer_tokens():
    image = photo()
    counts = [int(dk.Tokenizer(depth=depth)(image).counts[0]) for depth in (1, 2, 3, None)]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > counts[1]
    leaves = dk.Tokenizer(depth=1).hierarchy(image)
    assert counts[0] == int(leaves.leaves.max()) + 1


def test_cost_is_the_criterion_of_the_partition():
    tokenizer = dk.Tokenizer()
    image = photo()
    partition = tokenizer(image)
    moments = partition.moments(tokenizer.features(image))
    cost = dk.information_criterion(moments).sum(1)
    torch.testing.assert_close(partition.cost, cost, rtol=1e-4, atol=0)


@pytest.mark.parametrize("leaves", ["soft", "pixels"])
def test_native_equals_reference(leaves):
    image = photo(40, 56)
    tokenizer = dk.Tokenizer(leaves=leaves)
    with dk.backend("native"):
        native = tokenizer(image)
    with dk.backend("reference"):
        reference = tokenizer(image)
    assert torch.equal(native.labels, reference.labels)
    torch.testing.assert_close(native.cost, reference.cost)
    torch.testing.assert_close(native.expected_tokens, reference.expected_tokens, rtol=1e-3, atol=1e-3)


def test_bitwise_deterministic_for_any_number_of_threads():
    image = photo(200, 230)
    results = []
    threads = torch.get_num_threads()
    try:
        for number in (1, 2, 5, 1):
            torch.set_num_threads(number)
            x = image.clone().requires_grad_()
            partition = dk.Tokenizer()(x)
            (partition.expected_tokens.sum() + partition.soft_pool(x)[0].square().sum()).backward()
            results.append((partition.labels, partition.cost.detach(), x.grad))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_images_of_a_batch_do_not_touch():
    images = torch.cat([photo(), photo().flip(3), torch.rand(1, 3, 96, 128)])
    together = dk.Tokenizer()(images)
    for b in range(3):
        alone = dk.Tokenizer()(images[b : b + 1])
        one = together[b]
        assert torch.equal(one.labels, alone.labels)
        assert torch.equal(one.counts, alone.counts)
        assert torch.equal(one.cost, alone.cost)
        torch.testing.assert_close(one.soft_pool(images[b : b + 1]), alone.soft_pool(images[b : b + 1]))


@pytest.mark.parametrize("leaves", ["soft", "pixels"])
def test_padded_image_equals_the_image(leaves):
    singles = [photo(50, 61)[0], photo(64, 33)[0], torch.rand(3, 1, 1)]
    images, mask = dk.pad_images(singles)
    tokenizer = dk.Tokenizer(leaves=leaves, criterion="mdl")
    padded = tokenizer(images, mask)
    check(padded, mask)
    for b, single in enumerate(singles):
        alone = tokenizer(single[None])
        height, width = single.shape[1:]
        assert torch.equal(padded.labels[b, :height, :width], alone.labels[0])
        torch.testing.assert_close(padded.cost[b], alone.cost[0])


def test_budget_holds_in_a_padded_batch():
    images, mask = dk.pad_images([photo(50, 61)[0], photo(64, 33)[0]])
    assert (dk.Tokenizer(max_tokens=9)(images, mask).counts <= 9).all()


def test_image_in_two_parts_has_a_segment_for_each():
    mask = torch.ones(1, 32, 64, dtype=torch.bool)
    mask[..., 30:34] = False
    partition = dk.Tokenizer(max_tokens=1)(photo(32, 64), mask)
    check(partition, mask)
    assert partition.counts[0] == 2


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_dtypes_of_images(dtype):
    image = (photo() * 255).round()
    image = image.to(torch.uint8) if dtype == torch.uint8 else (image / 255).to(dtype)
    expected = image.double() / 255 if dtype == torch.uint8 else image.double()
    check(dk.Tokenizer()(image))
    agreement = (dk.Tokenizer()(image).boundaries() == dk.Tokenizer()(expected).boundaries()).float().mean()
    assert agreement > 0.99


def test_channels_last_and_views():
    image = photo()
    expected = dk.Tokenizer()(image).labels
    assert torch.equal(dk.Tokenizer()(image.contiguous(memory_format=torch.channels_last)).labels, expected)
    wide = torch.zeros(1, 3, 96, 256)
    wide[..., ::2] = image
    assert torch.equal(dk.Tokenizer()(wide[..., ::2]).labels, expected)


def encoder_tokenizer(**options):
    torch.manual_seed(3)
    scale = {"noise": 0.01, "compactness": 0.1, "temperature": 0.05, "selection_temperature": 1.0}
    return dk.Tokenizer(dk.ConvEncoder(4), **{**scale, **options})


def loss_of(tokenizer, images):
    partition = tokenizer(images)
    sums, mass = partition.soft_pool(images)
    return (
        partition.expected_tokens.sum() + partition.pool(images).square().sum() + (sums / (mass[..., None] + 1)).sum()
    )


@pytest.mark.parametrize("leaves", ["soft", "pixels"])
def test_expected_tokens_gradient(leaves):
    """Against finite differences: the relaxed count is smooth while the tree keeps its shape."""
    image = torch.rand(1, 3, 12, 10, dtype=torch.float64, requires_grad=True)
    tokenizer = dk.Tokenizer(leaves=leaves, cell=4, iterations=0, temperature=1.0, noise=400.0)
    assert torch.autograd.gradcheck(
        lambda x: tokenizer(x).expected_tokens, (image,), eps=1e-7, atol=1e-3, nondet_tol=0.0, fast_mode=True
    )


def test_gradients_reach_every_parameter_of_an_encoder():
    tokenizer = encoder_tokenizer()
    loss_of(tokenizer, photo(40, 48)).backward()
    for name, parameter in tokenizer.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name


def test_straight_through_gate():
    """Forward the hard cut, backward the relaxed one."""
    image = photo(40, 48).requires_grad_()
    partition = dk.Tokenizer()(image)
    gate = partition.gate
    expected = (torch.arange(partition.num_segments) < partition.counts[:, None]).float()
    assert torch.equal(gate.detach(), expected)
    weights = torch.rand_like(gate)
    (by_gate,) = torch.autograd.grad((gate * weights).sum(), image, retain_graph=True)
    (by_probability,) = torch.autograd.grad((partition.probability * weights).sum(), image)
    torch.testing.assert_close(by_gate, by_probability)
    assert by_gate.abs().max() > 0


def test_pool_is_exact_with_and_without_gradients():
    image = photo(40, 48)
    with torch.no_grad():
        expected = dk.Tokenizer()(image).pool(image)
    torch.testing.assert_close(dk.Tokenizer()(image.clone().requires_grad_()).pool(image).detach(), expected)


def test_soft_pool_conserves_mass():
    image = photo()
    sums, mass = dk.Tokenizer(max_tokens=30)(image).soft_pool(image)
    torch.testing.assert_close(mass.sum(), torch.tensor(96.0 * 128.0))
    torch.testing.assert_close(sums.sum(1), image.sum((2, 3)))


def test_training_moves_the_number_of_tokens():
    images = photo(64, 64)
    tokenizer = encoder_tokenizer(selection_temperature=20.0)
    optimizer = torch.optim.Adam(tokenizer.parameters(), lr=0.01)
    target = 0.5 * float(tokenizer(images).expected_tokens.detach())
    history = []
    for _ in range(25):
        optimizer.zero_grad()
        loss = (tokenizer(images).expected_tokens / target - 1).square().sum()
        loss.backward()
        optimizer.step()
        history.append(float(loss.detach()))
    assert min(history) < 0.25 * history[0]


@pytest.mark.parametrize("leaves", ["soft", "pixels"])
@pytest.mark.parametrize("compiler", ["eager", "inductor"])
def test_compiles_whole_and_once(leaves, compiler):
    torch._dynamo.reset()
    tokenizer = dk.Tokenizer(leaves=leaves, max_tokens=20)
    compiled = torch.compile(tokenizer, fullgraph=True, backend=compiler)
    first, second = photo(40, 48), photo(40, 48).flip(2)
    for image in (first, second):
        with torch._dynamo.config.patch(error_on_recompile=image is second):
            partition = compiled(image)
        assert torch.equal(partition.labels, tokenizer(image).labels)
        assert partition.num_segments == 20


def test_compiles_with_gradients():
    torch._dynamo.reset()
    # In float64: ten rounds of clustering multiply what the two convolutions round differently.
    tokenizer, images = encoder_tokenizer().double(), photo(40, 48).double()
    expected = torch.autograd.grad(loss_of(tokenizer, images), list(tokenizer.parameters()))
    compiled = torch.compile(loss_of, fullgraph=True)
    actual = torch.autograd.grad(compiled(tokenizer, images), list(tokenizer.parameters()))
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)


def test_state_dict_pickle_copy_and_dtype():
    tokenizer, images = encoder_tokenizer(), photo(40, 48)
    labels = tokenizer(images).labels
    fresh = dk.Tokenizer(dk.ConvEncoder(4), noise=0.01, compactness=0.1, temperature=0.05)
    fresh.load_state_dict(tokenizer.state_dict())
    for other in (fresh, pickle.loads(pickle.dumps(tokenizer)), copy.deepcopy(tokenizer)):
        assert torch.equal(other(images).labels, labels)
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        check(copy.deepcopy(tokenizer).to(dtype)(images.to(dtype)))


def test_partition_pickles():
    partition = dk.Tokenizer()(photo(40, 48))
    again = pickle.loads(pickle.dumps(partition))
    assert torch.equal(again.labels, partition.labels)
    assert again.num_segments == partition.num_segments


def test_autocast_changes_nothing_for_the_default_features():
    image = photo(40, 48)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        partition = dk.Tokenizer()(image)
    assert torch.equal(partition.labels, dk.Tokenizer()(image).labels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        check(encoder_tokenizer()(image))


def test_no_grad_and_inference_mode():
    image = photo(40, 48).requires_grad_()
    for context in (torch.no_grad(), torch.inference_mode()):
        with context:
            partition = dk.Tokenizer()(image)
        assert not partition.expected_tokens.requires_grad


class Photos(Dataset):
    tokenizer = dk.Tokenizer(max_tokens=16)

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return self.tokenizer(photo(40, 48).roll(index, dims=3)).labels[0]


def test_dataloader_workers():
    dataset = Photos()
    for labels, index in zip(DataLoader(dataset, num_workers=2, batch_size=None), range(4), strict=True):
        assert torch.equal(labels, dataset[index])


@pytest.mark.parametrize("leaves", ["soft", "pixels"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_non_finite_pixels_stay_in_their_segment(leaves, bad):
    image = photo(40, 48).repeat(2, 1, 1, 1)
    image[0, :, 20:22, 20] = bad
    partition = dk.Tokenizer(leaves=leaves)(image)
    check(partition)
    means = partition.pool(image)
    held = set(partition.labels[0, 20:22, 20].tolist())
    assert set((~means[0].isfinite()).any(-1).nonzero()[:, 0].tolist()) <= held
    assert int(partition.counts[0]) > 5
    alone = dk.Tokenizer(leaves=leaves)(image[1:])
    assert torch.equal(partition[1].labels, alone.labels), "the other image of the batch is as without it"
    assert int(dk.Tokenizer(leaves=leaves, max_tokens=4)(image).counts.max()) <= 4


def test_check_finite():
    image = photo(40, 48)
    tokenizer = dk.Tokenizer(check_finite=True)
    check(tokenizer(image))
    image[0, 0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match="images: expected finite values; found NaN or infinity"):
        tokenizer(image)


def test_constant_image_is_one_token():
    for leaves in ("soft", "pixels"):
        partition = dk.Tokenizer(leaves=leaves)(torch.full((1, 3, 40, 48), 0.3))
        assert partition.counts.tolist() == [1]


def test_empty_batch():
    partition = dk.Tokenizer(max_tokens=5)(torch.rand(0, 3, 20, 20))
    assert len(partition) == 0
    assert partition.labels.shape == (0, 20, 20)
    assert partition.pool(torch.rand(0, 3, 20, 20)).shape == (0, 5, 3)


def test_partition_indexing():
    partition = dk.Tokenizer()(photo(40, 48).repeat(2, 1, 1, 1))
    assert len(list(partition)) == 2
    assert torch.equal(partition[-1].labels, partition.labels[1:])
    with pytest.raises(IndexError):
        partition[2]


def test_boundaries():
    partition = dk.Tokenizer()(photo(40, 48))
    labels, edges = partition.labels[0], partition.boundaries()[0]
    for y, x in itertools.product(range(40), range(48)):
        right = x < 47 and labels[y, x] != labels[y, x + 1]
        below = y < 39 and labels[y, x] != labels[y + 1, x]
        assert bool(edges[y, x]) == bool(right or below)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"leaves": "squares"}, "leaves: expected one of soft, pixels; found 'squares'"),
        ({"cell": 0}, "cell: expected an integer >= 1; found 0"),
        ({"iterations": -1}, "iterations: expected an integer >= 0"),
        ({"temperature": 0.0}, "temperature: expected a finite number > 0"),
        ({"temperature": float("nan")}, "temperature: expected a finite number > 0"),
        ({"compactness": -1.0}, "compactness: expected a finite number >= 0"),
        ({"depth": 0}, "depth: expected an integer >= 1"),
        ({"criterion": "bik"}, "criterion: expected one of"),
        ({"criterion": "fixed"}, 'criterion: "fixed" expects max_tokens'),
        ({"max_tokens": 0}, "max_tokens: expected an integer >= 1"),
        ({"noise": 0.0}, "noise: expected a finite number > 0"),
        ({"merge_noise": 0.0}, "merge_noise: expected a finite number > 0"),
        ({"pixel_correlation": 0.0}, "pixel_correlation: expected a finite number > 0"),
        ({"strength": -1.0}, "strength: expected a finite number >= 0"),
        ({"select": "best"}, "select: expected one of optimal, greedy"),
        ({"lookahead": 0}, "lookahead: expected an integer >= 1"),
        ({"selection_temperature": 0.0}, "selection_temperature: expected a finite number > 0"),
        ({"distance": "cosine"}, "distance: expected one of"),
        ({"grad": "first"}, "grad: expected one of full, last"),
    ],
)
def test_bad_options_are_refused_at_construction(options, message):
    with pytest.raises(ValueError, match=message):
        dk.Tokenizer(**options)


@pytest.mark.parametrize("leaves", ["soft", "pixels"])
def test_the_tree_takes_its_noise_from_the_tokenizer(leaves):
    class Scaled(torch.nn.Module):
        def __init__(self, scale):
            super().__init__()
            self.lab, self.scale = dk.features.SmoothedLab(), scale

        def forward(self, images):
            return self.scale * self.lab(images)

    def parents(scale, **options):
        options |= {"distance": "contrast", "compactness": 5 * scale, "temperature": 4 * scale**2}
        return dk.Tokenizer(Scaled(scale), leaves=leaves, **options).hierarchy(image).tree.parent

    image = photo(40, 48)
    expected = parents(1.0, noise=16.0)
    # Powers of two round nothing.
    assert torch.equal(parents(0.25, noise=1.0), expected)
    assert torch.equal(parents(0.25, noise=4.0, merge_noise=1.0), expected)
    assert not torch.equal(parents(0.25, noise=16.0), expected)


def test_bad_images():
    tokenizer = dk.Tokenizer()
    with pytest.raises(TypeError, match=r"images: expected a tensor \[B,C,H,W\]; found ndarray"):
        tokenizer(photo().numpy())
    with pytest.raises(ValueError, match=r"images: expected \[B,C,H,W\]; found \[3, 8, 8\]"):
        tokenizer(torch.rand(3, 8, 8))
    with pytest.raises(ValueError, match=r"images: expected \[B,C,H,W\] with C, H, W >= 1; found \[1, 3, 0, 8\]"):
        tokenizer(torch.rand(1, 3, 0, 8))
    with pytest.raises(ValueError, match=r"images: expected \[B,3,H,W\]"):
        tokenizer(torch.rand(1, 4, 8, 8))
    with pytest.raises(TypeError, match="images: expected"):
        tokenizer(torch.zeros(1, 3, 8, 8, dtype=torch.int64))
    with pytest.raises(TypeError, match=r"mask: expected a tensor \[B,H,W\]; found list"):
        tokenizer(torch.rand(1, 3, 8, 8), [[True]])
    with pytest.raises(ValueError, match=r"mask: expected \[B,H,W\] = \[1,8,8\]; found \[1,8,9\] of bool"):
        tokenizer(torch.rand(1, 3, 8, 8), torch.ones(1, 8, 9, dtype=torch.bool))
    with pytest.raises(TypeError, match=r"features: expected an nn\.Module or None; found function"):
        dk.Tokenizer(lambda x: x)
    with pytest.raises(ValueError, match="features: expected the module to return"):
        dk.Tokenizer(torch.nn.AvgPool2d(2))(torch.rand(1, 3, 8, 8))
    with pytest.raises(TypeError, match="unexpected keyword argument 'budget'"):
        tokenizer.hierarchy(torch.rand(1, 3, 8, 8)).cut(budget=3)
    with pytest.raises(ValueError, match="expected leaves"):
        dk.Tokenizer(leaves="pixels")(torch.rand(1, 3, 8, 8)).soft_pool(torch.rand(1, 3, 8, 8))
    with pytest.raises(ValueError, match="images: expected at least one; found none"):
        dk.pad_images([])


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_gradients_of_a_non_finite_pixel_stay_there(backend, bad):
    images = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    images[0, :, 3, 5] = bad
    images.requires_grad_()
    dk.Tokenizer()(images).expected_tokens.sum().backward()
    broken = ~images.grad.isfinite().all(1)[0]
    broken[3, 5] = False
    assert not broken.any()


def test_partitions_compare_by_identity():
    partition = dk.Tokenizer()(torch.rand(2, 3, 16, 16))
    assert partition == partition
    assert partition != copy.deepcopy(partition)


def test_compiles_with_symbolic_sizes_and_numbers():
    torch.compiler.reset()
    tokenizer, images = dk.Tokenizer(strength=1.5), torch.rand(2, 3, 24, 40)
    compiled = torch.compile(tokenizer, backend="eager", fullgraph=True, dynamic=True)
    assert torch.equal(compiled(images).labels, tokenizer(images).labels)


@pytest.mark.parametrize("size", [2**31, 2**70])
def test_sizes_beyond_int32_are_refused(size):
    labels = torch.zeros(1, 2, 2, dtype=torch.int32)
    with pytest.raises(ValueError, match=f"num_segments: expected an integer <= 2147483647; found {size}"):
        dk.region_graph(labels, num_segments=size)
    with pytest.raises(ValueError, match="cell: expected an integer <= 2147483647"):
        dk.Tokenizer(cell=size)


def test_padding_wants_tensors():
    with pytest.raises(TypeError, match=r"images: expected tensors \[C,H,W\]; found \['list'\]"):
        dk.pad_images([[1.0]])


@pytest.mark.parametrize(("name", "other"), [("compactness", "temperature"), ("temperature", "compactness")])
def test_a_number_beside_a_learned_one_is_checked(name, other):
    with pytest.raises(ValueError, match=f"{name}: expected a finite number"):
        dk.soft_cluster(torch.rand(1, 3, 8, 8), cell=4, **{name: -1.0, other: torch.tensor(1.0)})
