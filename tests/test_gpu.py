"""What only a GPU can show, of the library's and Triton's kernels: streams, graphs, devices, and no waiting."""

import re
import sys

import backends
import pytest
import torch
from test_packaging import copy_sources, run

import dhvt_kernels as dk

#: The backends that have kernels for the GPU of this machine.
BACKENDS = [name for name, kernels in (("native", "cuda"), ("triton", "triton")) if kernels in backends.KERNELS]
#: The most kernels and memory operations of the tokenizer with soft leaves, in the library.
MOST_LAUNCHES = 30

pytestmark = pytest.mark.skipif(not BACKENDS, reason="needs a GPU, and a library with CUDA kernels or Triton")
counts_launches = pytest.mark.parametrize("forced", [name for name in BACKENDS if name == "native"], indirect=True)


@pytest.fixture(params=BACKENDS)
def forced(request):
    """The backend that runs the operators during the test."""
    with dk.backend(request.param):
        yield


@pytest.fixture
def images():
    """Smooth noise, so that there is something to find."""
    noise = torch.rand(4, 3, 16, 14)
    return torch.nn.functional.interpolate(noise, size=(224, 200), mode="bicubic").clamp(0, 1).cuda()


@pytest.fixture
def tokenizer(forced):
    return dk.Tokenizer(max_tokens=100)


def on_cpu(function, *arguments):
    """What a function gives for tensors of the CPU, where a forced backend need not run."""
    with dk.backend("auto"):
        return function(*arguments)


def gradient(tokenizer, images):
    """Of everything that has one, by the images."""
    with torch.enable_grad():
        batch = images.detach().requires_grad_()
        partition = tokenizer(batch)
        pooled, mass = partition.soft_pool(tokenizer.features(batch))
        loss = (pooled / mass.clamp_min(1)[..., None]).square().mean() + partition.expected_tokens.sum() / 100
        return torch.autograd.grad(loss + partition.pool(batch).square().mean(), batch)[0]


def assert_same_bits(first, second):
    assert torch.equal(first.labels, second.labels)
    assert torch.equal(first.counts, second.counts)
    assert torch.equal(first.probability, second.probability)
    assert torch.equal(first.cost, second.cost)


def capture(function, images):
    """A function of images as a graph, and its output."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side), torch.no_grad():
        function(images)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    graph.enable_debug_mode()
    with torch.no_grad(), torch.cuda.graph(graph):
        output = function(images)
    return graph, output


def test_agrees_with_the_cpu(tokenizer, images):
    """Sums are taken in another order, so a near tie may fall otherwise: most of every segment must be the same."""
    found, expected = tokenizer(images), on_cpu(tokenizer, images.cpu())
    assert (found.counts.cpu() - expected.counts).abs().max() <= 2
    for a, b in zip(found.labels.cpu(), expected.labels, strict=True):
        pairs = torch.bincount((a.long() * 100 + b.long()).flatten(), minlength=10000).reshape(100, 100)
        assert pairs.amax(1).sum() > 0.97 * a.numel()


def test_a_second_run_has_the_same_bits(tokenizer, images):
    assert_same_bits(tokenizer(images), tokenizer(images))
    assert torch.equal(gradient(tokenizer, images), gradient(tokenizer, images))


def test_a_graph_replays_on_new_images(tokenizer, images):
    static = images.clone()
    graph, partition = capture(tokenizer, static)
    for batch in (images.flip(0), images.flip(3)):
        static.copy_(batch)
        graph.replay()
        assert_same_bits(partition, tokenizer(batch))


def test_the_gradient_is_a_graph(tokenizer, images):
    static = images.clone()
    graph, found = capture(lambda batch: gradient(tokenizer, batch), static)
    static.copy_(images.flip(0))
    graph.replay()
    assert torch.equal(found, gradient(tokenizer, images.flip(0)))


def test_a_graph_keeps_its_kernels(tokenizer, images):
    """Whatever is in force when it is replayed."""
    static = images.clone()
    graph, partition = capture(tokenizer, static)
    expected = tokenizer(images.flip(0))
    with dk.backend("reference"):
        static.copy_(images.flip(0))
        graph.replay()
    assert_same_bits(partition, expected)


@pytest.mark.skipif("triton" not in BACKENDS, reason="needs Triton")
def test_without_the_library_a_gpu_runs_triton_and_says_so_once(tmp_path):
    copy_sources(tmp_path)
    code = """
import torch, dhvt_kernels as dk
for _ in range(2):
    print(dk.relabel(*(torch.zeros(size, dtype=torch.int32, device="cuda") for size in ((1, 2, 2), (1, 3)))).tolist())
with dk.backend("triton"):  # nothing changes
    dk.srgb_to_lab(torch.rand(1, 3, 4, 4, device="cuda"))
"""
    process = run([sys.executable, "-c", code], tmp_path, PYTHONPATH=str(tmp_path), DHVT_KERNELS_BACKEND=None)
    assert process.stdout.splitlines() == ["[[[0, 0], [0, 0]]]"] * 2, process.stderr
    assert process.stderr.count("CUDA tensors run on Triton kernels: _C.so was not built") == 1


def launches(graph, folder):
    graph.debug_dump(str(folder / "graph.dot"))
    return len(re.findall(r'^\s*"graph_\d+_node_\d+"\s*\[', (folder / "graph.dot").read_text(), re.MULTILINE))


@counts_launches
def test_launches(tokenizer, images, tmp_path):
    torch.utils.deterministic.fill_uninitialized_memory = False  # a launch for every tensor
    graph, _ = capture(tokenizer, images)
    assert 10 < launches(graph, tmp_path) <= MOST_LAUNCHES


def merging_graph():
    """The merging of static features from the pixels as a graph."""
    torch.utils.deterministic.fill_uninitialized_memory = False
    static = torch.randn(2, 8, 224, 224, device="cuda")
    return static, *capture(dk.merge_pixels, static)


def test_merging_from_the_pixels_is_a_graph(forced):
    """Every bit is the CPU's."""
    static, graph, tree = merging_graph()
    for features in (torch.randn(2, 8, 224, 224), torch.zeros(2, 8, 224, 224)):
        static.copy_(features)
        graph.replay()
        expected = on_cpu(dk.merge_pixels, features)
        for found, value in zip((*tree[:2], *tree.moments), (*expected[:2], *expected.moments), strict=True):
            assert torch.equal(found.cpu(), value)


@counts_launches
def test_launches_of_merging_from_the_pixels(forced, tmp_path):
    _, graph, _ = merging_graph()
    assert 20 < launches(graph, tmp_path) <= 60


def test_nothing_waits_for_the_device(tokenizer, images):
    gradient(tokenizer, images)
    mode = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        gradient(tokenizer, images)
    finally:
        torch.cuda.set_sync_debug_mode(mode)


def test_runs_on_the_current_stream(tokenizer, images):
    expected, expected_gradient = tokenizer(images), gradient(tokenizer, images)
    side = torch.cuda.Stream()
    late = torch.zeros_like(images)
    torch.cuda.synchronize()
    with torch.cuda.stream(side):
        torch.cuda._sleep(200_000_000)  # a kernel on another stream would read zeros
        late.copy_(images)
        found, found_gradient = tokenizer(late), gradient(tokenizer, late)
    side.synchronize()
    assert_same_bits(found, expected)
    assert torch.equal(found_gradient, expected_gradient)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_runs_on_the_device_of_its_tensors(tokenizer, images):
    found = tokenizer(images.to("cuda:1"))
    assert found.labels.device == torch.device("cuda:1")
    assert torch.cuda.current_device() == 0
    assert torch.equal(found.labels.cpu(), tokenizer(images).labels.cpu())
    assert torch.equal(gradient(tokenizer, images.to("cuda:1")).cpu(), gradient(tokenizer, images).cpu())


def test_compiles_without_breaks(tokenizer, images):
    compiled = torch.compile(lambda batch: tokenizer(batch).labels, fullgraph=True)
    assert torch.equal(compiled(images), tokenizer(images).labels)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_autocast_changes_nothing(tokenizer, images, dtype):
    with torch.autocast("cuda", dtype=dtype):
        found = tokenizer(images)
    assert_same_bits(found, tokenizer(images))


def test_gradients_agree_with_the_cpu(tokenizer, images):
    batch = images[:2].double()
    expected = on_cpu(gradient, tokenizer, batch.cpu())
    torch.testing.assert_close(gradient(tokenizer, batch).cpu(), expected, rtol=1e-6, atol=1e-9)


def test_tensors_on_two_devices_are_refused(images):
    labels = torch.zeros(4, 224, 200, dtype=torch.int32)
    with pytest.raises(ValueError, match="labels: expected device cuda:0; found cpu"):
        dk.segment_pool(images, labels, num_segments=1)


def test_memory_beyond_2_to_the_31_elements(forced):
    """An image whose pixels lie 2^31 elements apart, and one of so many pixels."""
    apart = torch.zeros(2**31 + 8, dtype=torch.uint8, device="cuda")
    apart[2**31 :] = 255
    image = apart.as_strided((1, 3, 1, 2), (1, 1, 1, 2**31))
    assert dk.srgb_to_lab(image)[0, 0, 0].tolist() == pytest.approx([0, 100], abs=1e-3)
    labels = torch.zeros(1, 46341, 46342, dtype=torch.int32, device="cuda")
    labels[:, -1] = 1
    assert dk.relabel(labels, torch.tensor([[5, 7]], dtype=torch.int32, device="cuda"))[0, -2:, -1].tolist() == [5, 7]


@pytest.mark.parametrize("size", [(4096, 8), (2048, 40), (64, 4096)])
def test_long_components_are_whole_in_every_run(forced, size):
    """Many tiles and strips are joined side by side; the order differs from run to run."""
    labels = torch.zeros(3, *size, dtype=torch.int32)
    labels[1, :, ::2] = 1  # stripes
    labels[2, 1::4, 1:] = labels[2, 3::4, :-1] = 1  # a snake
    expected = on_cpu(dk.connected_components, labels)
    for _ in range(200):
        found = dk.connected_components(labels.cuda())
        assert torch.equal(found.labels.cpu(), expected.labels)
        assert torch.equal(found.counts.cpu(), expected.counts)
