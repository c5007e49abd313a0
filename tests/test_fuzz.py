"""Operators and public functions on drawn arguments: hostile numbers, shapes, layouts, labels (docs/reliability.md).

Operators are called directly, where nothing but their own checks stands between bad arguments and memory, and public
functions with their gradients. The library must equal the reference, at every instruction-set level, as CUDA kernels
(on a GPU, or emulated) and as Triton's (on a GPU, or interpreted); give the same bits for 1 and 2 threads, and whatever
the order of a GPU's threads; write every element, and stay finite where it promises so. Operators answer arguments that
do not fit together with a RuntimeError, public functions with TypeError or ValueError.
"""

import contextlib
import os

import backends
import fuzz_public
import fuzz_segments
import fuzz_soft
import fuzz_trees
import fuzz_vector
import pytest
import torch
from fuzz_values import Draw, magnitude
from grid import TOLERANCE
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import dhvt_kernels
from dhvt_kernels import _native
from dhvt_kernels._schema import SCHEMAS, ops

QUICK, THOROUGH = 20, int(os.environ.get("DHVT_FUZZ_CASES", 10_000))
CASES = {**fuzz_soft.CASES, **fuzz_segments.CASES, **fuzz_trees.CASES, **fuzz_vector.CASES}
OPERATORS = sorted(SCHEMAS)
KERNELS = {"native": OPERATORS, **backends.KERNELS}
RUNS = [(kernels, name) for kernels, names in KERNELS.items() for name in names]
#: Triton's interpreter takes some twenty times as long: it gets one of so many cases, and ten at least.
INTERPRETED = 20


def fuzz(check, examples, kernels="native"):
    """`check(Draw)` for drawn data; the quick run of every change always draws the same."""
    quick = examples == QUICK
    if kernels == "triton-interpreted":
        examples = max(examples // INTERPRETED, 10)

    @settings(
        max_examples=examples,
        deadline=None,
        derandomize=quick,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def run(data):
        check(Draw(data))

    run()


def profiles(test):
    """Runs a test of `examples` cases in both profiles."""
    slow = pytest.param(THOROUGH, id="thorough", marks=pytest.mark.slow)
    return pytest.mark.parametrize("examples", [pytest.param(QUICK, id="quick"), slow])(test)


@pytest.fixture(autouse=True)
def _settings_restored():
    threads, level = torch.get_num_threads(), _native.cpu_level()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    _native.use_cpu_level(level)


def with_two_threads(function, *arguments):
    torch.set_num_threads(2)
    try:
        return function(*arguments)
    finally:
        torch.set_num_threads(1)


def flat(outputs):
    """The tensors of nested tuples."""
    if isinstance(outputs, torch.Tensor):
        return (outputs,)
    return tuple(tensor for part in outputs for tensor in flat(part))


def call(name, arguments):
    return flat(getattr(ops, name)(*arguments))


def same_bits(a, b):
    return torch.equal(a.contiguous().flatten().view(torch.uint8), b.contiguous().flatten().view(torch.uint8))


def check_equal(native, reference, arguments, compared, own=None):
    """Integers equal, floats close, in the tolerance of the coarsest dtype and relative to the largest number."""
    dtypes = [a.dtype for a in arguments if a.is_floating_point()]
    tolerance = 10 * TOLERANCE[max(dtypes, key=TOLERANCE.get, default=torch.float32)]
    for index, (a, b) in enumerate(zip(native, reference, strict=True)):
        assert (a.shape, a.dtype) == (b.shape, b.dtype), f"output {index}"
        if own and index in own:
            own[index](native, reference, index)
        elif not a.is_floating_point():
            assert torch.equal(a, b), f"output {index}"
        elif compared:
            scale = magnitude([*arguments, b])
            torch.testing.assert_close(
                a.double(), b.double(), rtol=tolerance, atol=tolerance * scale, equal_nan=True, msg=f"output {index}"
            )


def check_operator(name, draw):
    case = CASES[name](draw)
    _native.use_cpu_level(draw.pick(*_native.cpu_levels()))
    native = call(name, case.arguments)
    reference = flat(getattr(dhvt_kernels.reference, name)(*case.arguments))
    for a, b in zip(native, with_two_threads(call, name, case.arguments), strict=True):
        assert same_bits(a, b), "other bits for 2 threads"
    for index, output in enumerate(native):
        assert not case.finite or output.isfinite().all(), f"output {index} is not finite"
    tensors = [a for a in case.arguments if isinstance(a, torch.Tensor)]
    check_equal(native, reference, tensors, case.compared, case.own)


def in_force(kernels):
    """The library's kernels for the CPU, whose level each case draws, those for CUDA, or Triton's."""
    return contextlib.nullcontext() if kernels == "native" else backends.use(kernels)


@profiles
@pytest.mark.parametrize(("kernels", "name"), RUNS)
def test_operator(name, kernels, examples):
    with in_force(kernels):
        fuzz(lambda draw: check_operator(name, draw), examples, kernels)


#: Numbers out of range. Sizes beyond int32 are left out: where another size is 0, they make loops without end.
HOSTILE = {int: (-1, 0, -(2**63)), float: (-1.0, 0.0, 1e308, float("inf"), float("nan")), str: ("",)}


def spoiled(draw, argument):
    """A tensor with another size, number of dimensions or dtype; a number out of range."""
    if not isinstance(argument, torch.Tensor):
        return draw.pick(*HOSTILE[type(argument)])
    dim = draw.data.draw(st.integers(0, max(argument.dim() - 1, 0)))
    how = draw.pick("shorter", "longer", "fewer", "more", "dtype", "empty")
    if how == "dtype":
        return argument.to(draw.pick(torch.int64, torch.int32, torch.float64, torch.float16, torch.bool))
    if how == "more" or argument.dim() == 0:
        return argument[None]
    if how == "fewer":
        return argument.sum(dim).to(argument.dtype)
    if how == "longer":
        return torch.cat([argument, argument.narrow(dim, 0, min(1, argument.shape[dim]))], dim)
    return argument.narrow(dim, 0, 0 if how == "empty" else max(argument.shape[dim] - 1, 0))


def check_misfit(name, draw):
    arguments = list(CASES[name](draw).arguments)
    i = draw.pick(*(i for i, a in enumerate(arguments) if type(a) in (torch.Tensor, *HOSTILE)))
    arguments[i] = spoiled(draw, arguments[i])
    with contextlib.suppress(RuntimeError):  # anything else is a crash, or the wrong complaint
        call(name, arguments)


@profiles
@pytest.mark.parametrize(("kernels", "name"), RUNS)
def test_misfit(name, kernels, examples):
    with in_force(kernels):
        fuzz(lambda draw: check_misfit(name, draw), examples, kernels)


def check_hostile(name, draw):
    arguments = [fuzz_vector.hostile(draw, a) if type(a) is torch.Tensor else a for a in CASES[name](draw).arguments]
    with contextlib.suppress(RuntimeError):
        call(name, arguments)


@profiles
@pytest.mark.parametrize("name", fuzz_vector.CASES)
def test_hostile_values(name, examples):
    """Operators that follow indices from tensor to tensor, with indices that lead anywhere: an error, or an end."""
    fuzz(lambda draw: check_hostile(name, draw), examples)


def check_hostile_column(name, draw):
    arguments = list(CASES[name](draw).arguments)
    i = draw.pick(*(i for i, a in enumerate(arguments) if type(a) is torch.Tensor))
    arguments[i] = fuzz_vector.hostile(draw, arguments[i])
    with contextlib.suppress(RuntimeError):
        call(name, arguments)


@profiles
@pytest.mark.parametrize("name", fuzz_vector.CASES)
def test_one_hostile_argument(name, examples):
    fuzz(lambda draw: check_hostile_column(name, draw), examples)


JUNK = (None, "text", -1, 2**31, 2**70, True, 1.5, float("nan"), float("inf"), (), (1, 2), torch.zeros(()))


def leaf(argument):
    """A tensor, or a tuple of them, that gradients reach; other arguments as they are."""
    if isinstance(argument, tuple) and hasattr(argument, "_replace"):
        return argument._replace(mean=leaf(argument.mean), m2=leaf(argument.m2))
    if isinstance(argument, torch.Tensor) and argument.is_floating_point():
        return argument.detach().requires_grad_()
    return argument


def with_gradients(name, given):
    """Outputs of a public function, and the gradients that a fixed loss gives its differentiable arguments."""
    arguments = {key: leaf(a) if key in given.differentiable else a for key, a in given.arguments.items()}
    outputs = flat(getattr(dhvt_kernels, name)(**arguments))
    leaves = [t for a in arguments.values() if isinstance(a, (torch.Tensor, tuple)) for t in tensors_of(a)]
    leaves = [t for t in leaves if t.requires_grad]
    driven = [output for output in outputs if output.requires_grad]
    weights = [torch.linspace(-1, 1, o.numel(), dtype=o.dtype).reshape(o.shape) for o in driven]
    found = torch.autograd.grad(driven, leaves, weights, allow_unused=True) if driven and leaves else ()
    return tuple(o.detach() for o in outputs) + tuple(torch.zeros(0) if g is None else g for g in found)


def tensors_of(argument):
    return [t for t in (argument if isinstance(argument, tuple) else (argument,)) if isinstance(t, torch.Tensor)]


def check_public(name, draw):
    given = fuzz_public.CALLS[name](draw)
    _native.use_cpu_level(draw.pick(*_native.cpu_levels()))
    if draw.chance(3):
        key = draw.pick(*given.arguments)
        value = given.arguments[key]
        junk = spoiled(draw, value) if isinstance(value, torch.Tensor) and draw.chance(2) else draw.pick(*JUNK)
        with contextlib.suppress(TypeError, ValueError):
            with_gradients(name, given._replace(arguments={**given.arguments, key: junk}))
        return
    try:
        native = with_gradients(name, given)
    except ValueError:  # what an operator takes and its public function does not: sizes below 0, temperatures of 0
        return
    for a, b in zip(native, with_two_threads(with_gradients, name, given), strict=True):
        assert same_bits(a, b), "other bits for 2 threads"
    if not given.compared:
        return
    with dhvt_kernels.backend("reference"):
        reference = with_gradients(name, given)
    check_equal(native, reference, [t for a in given.arguments.values() for t in tensors_of(a)], True, given.own)


@profiles
@pytest.mark.parametrize("name", fuzz_public.CALLS)
def test_public(name, examples):
    fuzz(lambda draw: check_public(name, draw), examples)
