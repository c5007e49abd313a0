"""What holds for every operator of the schema, whatever it computes."""

import backends
import pytest
import torch
from grid import DTYPES, assert_close
from samples import SAMPLES

from dhvt_kernels import _native
from dhvt_kernels._schema import SCHEMAS, ops

OPERATORS = sorted(SCHEMAS)
TRITON = [(backend, name) for backend, names in backends.TRITON_OPERATORS.items() for name in names]


def flat(outputs):
    return (outputs,) if isinstance(outputs, torch.Tensor) else tuple(outputs)


def call(name, arguments):
    return flat(getattr(ops, name)(*arguments))


def test_every_operator_has_samples():
    assert set(SAMPLES) == set(SCHEMAS)


#: References that ask autograd, which the modes of opcheck leave out.
BY_AUTOGRAD = ("srgb_to_lab_backward", "soft_assign_backward", "soft_cluster_backward", "soft_pool_backward")


@pytest.mark.parametrize(
    ("kernels", "name"),
    [
        *(("auto", name) for name in OPERATORS),
        *(("reference", name) for name in OPERATORS if name not in BY_AUTOGRAD),
        *TRITON,
    ],
)
def test_opcheck(kernels, name):
    """Schema, fake kernel and dispatch agree with what the kernel does: sizes, dtypes, strides, nothing modified."""
    with backends.use(kernels):
        for arguments in SAMPLES[name](torch.float32):
            torch.library.opcheck(
                getattr(ops, name).default,
                arguments,
                test_utils=("test_schema", "test_faketensor"),
                raise_exception=True,
            )


@pytest.fixture(params=_native.cpu_levels())
def level(request):
    """Runs the test once per instruction-set level."""
    before = _native.cpu_level()
    _native.use_cpu_level(request.param)
    yield request.param
    _native.use_cpu_level(before)


def check_against_reference(backend, name, dtype):
    """Both promise the same outputs; floating values are held to float64 in the operator's own tests."""
    for arguments in SAMPLES[name](dtype):
        with backends.use(backend):
            found = call(name, arguments)
        with backends.use("reference"):
            reference = call(name, arguments)
        for index, (a, b) in enumerate(zip(found, reference, strict=True)):
            assert a.shape == b.shape, f"output {index}"
            assert a.dtype == b.dtype, f"output {index}"
            if a.is_floating_point():
                assert_close(a, b, dtype, scale=10)
            else:
                torch.testing.assert_close(a, b, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", OPERATORS)
def test_native_equals_reference_in_shape_dtype_and_value(level, name, dtype):
    check_against_reference(f"native-{level}", name, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("triton", "name"), TRITON)
def test_triton_equals_reference_in_shape_dtype_and_value(triton, name, dtype):
    check_against_reference(triton, name, dtype)


@pytest.mark.parametrize("name", OPERATORS)
def test_bitwise_equal_for_any_number_of_threads(level, name):
    arguments = SAMPLES[name](torch.float32)[0]
    threads = torch.get_num_threads()
    results = []
    try:
        for number in (1, 2, 3, 5, 1):
            torch.set_num_threads(number)
            results.append(call(name, arguments))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert torch.equal(a.view(torch.uint8) if a.dim() else a, b.view(torch.uint8) if b.dim() else b)


@pytest.mark.parametrize("name", OPERATORS)
def test_inputs_are_not_modified(name):
    arguments = SAMPLES[name](torch.float32)[0]
    before = [a.clone() if isinstance(a, torch.Tensor) else a for a in arguments]
    call(name, arguments)
    for a, b in zip(arguments, before, strict=True):
        if isinstance(a, torch.Tensor):
            torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)
