"""Which backend runs an operator, and what it says when it cannot (dhvt_kernels/_backends.py)."""

import itertools
import logging
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import backends
import pytest
import torch
from grid import assert_close
from samples import SAMPLES
from test_operators import call

import dhvt_kernels as dk
from dhvt_kernels import _backends, _native, reference, triton
from dhvt_kernels._schema import HOST_OPERATORS, NAMESPACE, SCHEMAS

ROOT = Path(__file__).parent.parent
DEVICE_OPERATORS = sorted(set(SCHEMAS) - set(HOST_OPERATORS))
LABELS = torch.tensor([[[0, 1, 1]]], dtype=torch.int32)
TABLE = torch.tensor([[5, 7]], dtype=torch.int32)

needs_library = pytest.mark.skipif(_native.native_error is not None, reason="needs the compiled library")
needs_triton = pytest.mark.skipif(triton.missing is not None, reason="needs Triton")
interpreted = pytest.mark.skipif(not triton.interpreted, reason="of Triton's interpreter, which stands for a GPU")


def python(code, **environment):
    """The finished process, in the project's folder; a variable of None is unset."""
    variables = {"DHVT_KERNELS_BACKEND": None, "TRITON_INTERPRET": None, "PYTHONPATH": str(ROOT), **environment}
    variables = {k: v for k, v in {**os.environ, **variables}.items() if v is not None}
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=variables, capture_output=True, text=True)


# --- every operator in every backend ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DEVICE_OPERATORS)
def test_every_operator_is_in_every_backend(name):
    assert callable(getattr(reference, name))
    assert callable(getattr(triton, name))
    if _native.native_error is None:
        assert backends._has_kernel(NAMESPACE, name, "CPU")
    for operators in backends.CUDA_OPERATORS.values():
        assert name in operators


@pytest.mark.parametrize("name", HOST_OPERATORS)
def test_outlines_are_made_on_the_cpu(name):
    assert callable(getattr(reference, name))
    assert not hasattr(triton, name)
    expected = f"{name} runs on the CPU only, on the compiled library or the reference"
    assert dk.supports(name, backend="triton", device="cpu") == expected
    for backend in ("native", "reference"):
        assert dk.supports(name, backend=backend, device="cuda") == expected
    assert dk.supports(name, backend="native", device="cpu") == _native.native_error


@pytest.mark.parametrize("name", DEVICE_OPERATORS)
def test_backends_agree_pairwise(name):
    """On an ordinary case, forward and backward: an operator of the gradients is one of them."""
    arguments = SAMPLES[name](torch.float32)[0]
    found = {}
    for backend in (*backends.NATIVE[-1:], "reference", *backends.KERNELS):
        with backends.use(backend):
            found[backend] = call(name, arguments)
    assert len(found) >= 2
    for (_, first), (_, second) in itertools.combinations(found.items(), 2):
        for a, b in zip(first, second, strict=True):
            assert a.shape == b.shape
            assert a.dtype == b.dtype
            assert a.stride() == b.stride()
            if a.is_floating_point():
                assert_close(a, b.double(), torch.float32, scale=10)
            else:
                assert torch.equal(a, b)


# --- reasons ----------------------------------------------------------------------------------------------------------


def test_reasons():
    assert dk.supports("relabel", backend="reference", device="cpu") is None
    if torch.version.cuda is None:
        for backend in ("reference", "triton"):
            assert dk.supports("relabel", backend=backend) == "torch was built without CUDA"
    for arguments, message in (
        (("blur", "native", "cpu"), "operator: expected one of .*relabel.*; found 'blur'"),
        (("relabel", "auto", "cpu"), "backend: expected one of reference, native, triton; found 'auto'"),
        (("relabel", "native", "tpu"), "device: expected one of cpu, cuda; found 'tpu'"),
    ):
        with pytest.raises(ValueError, match=message):
            dk.supports(arguments[0], backend=arguments[1], device=arguments[2])
    expected = "backend: expected one of auto, reference, native, triton; found 'jax'"
    with pytest.raises(ValueError, match=expected), dk.backend("jax"):
        pass


def test_a_forced_backend_that_cannot_run_raises_the_reason():
    if torch.cuda.is_available():
        pytest.skip("here it can run")
    reason = "backend 'triton' cannot run: Triton runs on CPU tensors only in its interpreter"
    call = "import dhvt_kernels as dk, torch; print('imported'); dk.srgb_to_lab(torch.rand(1, 3, 4, 4))"
    forced = python(call, DHVT_KERNELS_BACKEND="triton")
    assert forced.stdout == "imported\n"  # so that `dhvt info` can say the reason
    for process in (forced, python("import dhvt_kernels as dk\nwith dk.backend('triton'): pass")):
        assert process.returncode != 0
        assert reason in process.stderr.splitlines()[-1]


@pytest.mark.parametrize("name", _backends.BACKENDS)
def test_importing_does_not_ask_for_a_gpu(name):
    """A process that has asked for CUDA cannot use it after a fork."""
    code = "import torch; torch.version.cuda = '13.0'; torch.cuda.is_available = lambda: 1 / 0; import dhvt_kernels"
    assert python(code, DHVT_KERNELS_BACKEND=name).returncode == 0


def test_the_environment_is_checked():
    process = python("import dhvt_kernels", DHVT_KERNELS_BACKEND="tritn")
    expected = "DHVT_KERNELS_BACKEND: expected one of auto, reference, native, triton; found 'tritn'"
    assert process.stderr.splitlines()[-1] == f"ValueError: {expected}"
    empty = python("from dhvt_kernels import _backends; print(_backends._choice.name)", DHVT_KERNELS_BACKEND="")
    assert empty.stdout == "auto\n", empty.stderr
    again = """
import os
try:
    import dhvt_kernels
except ValueError:
    os.environ["DHVT_KERNELS_BACKEND"] = "auto"
import dhvt_kernels
"""
    assert python(again, DHVT_KERNELS_BACKEND="tritn").returncode == 0


@pytest.mark.parametrize(
    ("built", "device", "runs"),
    [
        ("sm_80 sm_90 PTX_90", (9, 0), True),
        ("sm_80", (8, 6), True),
        ("sm_86", (8, 0), False),
        ("sm_80 sm_90", (10, 0), False),
        ("sm_80 PTX_90", (12, 0), True),
        ("sm_100", (10, 3), True),
        ("PTX_90", (8, 9), False),
    ],
)
def test_machine_code_and_ptx(built, device, runs):
    assert _native._has_code(built, device) is runs


def test_the_library_names_the_device_that_it_has_no_code_for(monkeypatch):
    monkeypatch.setattr(_native, "native_error", None)
    monkeypatch.setattr(_native, "cuda_architectures", lambda: "sm_90")
    monkeypatch.setattr(_native, "gpu_missing", lambda: None)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: ((9, 0), (8, 0))[device])
    expected = "the library has no code for device 1 (sm_80); it was built for sm_90"
    assert _native.cuda_missing() == f"{expected} (CUDA_VISIBLE_DEVICES can leave the device out)"


@pytest.fixture
def new_gpu(monkeypatch):
    """A GPU that Triton can compile for; whether it can launch there has not been asked yet."""
    monkeypatch.setattr(_native, "gpu_missing", lambda: None)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(triton, "interpreted", False)
    triton.driver_missing.cache_clear()
    yield
    triton.driver_missing.cache_clear()


@needs_triton
def test_triton_needs_a_c_compiler(new_gpu, monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CC", raising=False)
    expected = "Triton needs a C compiler: there is no gcc or clang, and CC names none"
    assert dk.supports("relabel", backend="triton") == expected


@needs_triton
def test_triton_needs_its_driver(new_gpu, monkeypatch):
    class Driver:
        @property
        def active(self):
            raise RuntimeError("a reason\nof two lines")

    monkeypatch.setenv("CC", "cc")
    monkeypatch.setattr("triton.runtime.driver", Driver())
    needs = "for which it needs a C compiler, Python's headers and libcuda.so"
    expected = f"Triton cannot build its driver, {needs} (a reason of two lines)"
    assert dk.supports("relabel", backend="triton") == expected


@needs_triton
def test_triton_names_the_device_that_is_too_old(new_gpu, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (6, 1))
    expected = "device 0 is sm_61; Triton runs from sm_80 on (CUDA_VISIBLE_DEVICES can leave it out)"
    assert dk.supports("relabel", backend="triton") == expected


@pytest.mark.parametrize(
    ("stand_in", "reason"),
    [
        ("raise RuntimeError('of its own')", "Triton cannot be imported (RuntimeError: of its own)"),
        ("__version__ = '3.3rc1'", "Triton 3.3rc1 is older than 3.4"),
        ("__version__ = '3.5rc1'", "the Triton kernels cannot be loaded (AttributeError: "),
    ],
)
def test_an_unusual_triton_is_a_reason_and_no_error(stand_in, reason, tmp_path):
    (tmp_path / "triton").mkdir()
    (tmp_path / "triton" / "__init__.py").write_text(stand_in)
    (tmp_path / "triton" / "language.py").write_text("constexpr = int")
    code = """
import dhvt_kernels as dk
from dhvt_kernels import _backends, _native
_native.cuda_missing = lambda: "no code"
_backends._choice.cuda_starts()
print(dk.supports("relabel", backend="triton"))
"""
    process = python(code, PYTHONPATH=f"{tmp_path}:{ROOT}")
    assert process.stdout.startswith(reason), process.stdout + process.stderr


@needs_triton
@pytest.mark.parametrize(("value", "expected"), [("true", True), ("on", True), ("0", False)])
def test_triton_itself_says_whether_it_interprets(value, expected):
    process = python("from dhvt_kernels import triton; print(triton.interpreted)", TRITON_INTERPRET=value)
    assert process.stdout == f"{expected}\n", process.stderr


# --- the choice when CUDA starts --------------------------------------------------------------------------------------


@pytest.fixture
def starting(monkeypatch):
    """A choice as it is before torch has started CUDA, on a machine with a GPU that the library has no code for."""
    monkeypatch.setattr(_native, "cuda_missing", lambda: "the library has no code for device 0")
    monkeypatch.setattr(_native, "gpu_missing", lambda: None)
    choice = _backends._Choice()
    yield choice
    for library in choice._hiding.values():
        library._destroy()


@needs_library
def test_a_forced_library_refuses_tensors_that_it_has_no_code_for(starting, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    starting.switch("native")
    for name in SCHEMAS:
        assert backends._has_kernel(NAMESPACE, name, "CUDA"), name
    message = "relabel: backend 'native' cannot run: the library has no code for device 0"
    with pytest.raises(RuntimeError, match=message):
        _backends._refuse("relabel", "native", dk.supports("relabel", backend="native"))(LABELS, TABLE)
    assert dk.relabel(LABELS, TABLE).tolist() == [[[5, 7, 7]]]


@interpreted
def test_a_gpu_without_native_code_runs_triton_and_says_so_once(starting, caplog):
    with caplog.at_level(logging.WARNING, "dhvt_kernels"):
        starting.cuda_starts()
        starting.cuda_starts()
    assert caplog.messages == ["CUDA tensors run on Triton kernels: the library has no code for device 0"]
    for name in SCHEMAS:
        first = re.search(r"^CUDA.*$", torch._C._dispatch_dump(f"{NAMESPACE}::{name}"), re.MULTILINE)
        assert ("_backends.py" in first[0] if first else False) == (name not in HOST_OPERATORS), name


def test_a_gpu_without_native_code_or_triton_runs_the_reference_and_says_so_once(starting, caplog, monkeypatch):
    monkeypatch.setattr(triton, "missing_on", lambda device: "Triton is not installed")
    with caplog.at_level(logging.WARNING, "dhvt_kernels"):
        starting.cuda_starts()
        starting.cuda_starts()
    (message,) = caplog.messages
    assert message.startswith("CUDA tensors run on the plain PyTorch reference, which is slow: the library has no code")
    assert message.endswith("; Triton is not installed")
    assert backends._has_kernel(NAMESPACE, "relabel", "CUDA")


@needs_library
def test_a_fallback_is_said_when_cuda_has_started_inside_a_block(starting, caplog, monkeypatch):
    monkeypatch.setattr(triton, "missing_on", lambda device: "Triton is not installed")
    monkeypatch.setattr(_backends, "_choice", starting)
    with caplog.at_level(logging.WARNING, "dhvt_kernels"):
        with dk.backend("reference"):
            monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
            starting.cuda_starts()
            assert caplog.messages == []
        with dk.backend("auto"):
            pass
    (message,) = caplog.messages
    assert message.startswith("CUDA tensors run on the plain PyTorch reference, which is slow: the library has no code")


@needs_library
@pytest.mark.parametrize("name", ["auto", "reference", "native"])
def test_what_the_cpu_alone_runs_is_refused_on_a_gpu(starting, name, monkeypatch):
    refused = []
    monkeypatch.setattr(triton, "missing_on", lambda device: "Triton is not installed")
    monkeypatch.setattr(_backends, "_refuse", lambda *arguments: refused.append(arguments) or reference.relabel)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    starting.switch(name)
    for operator in HOST_OPERATORS:
        (message,) = {reason for found, _, reason in refused if found == operator}
        assert message == f"{operator} runs on the CPU only, on the compiled library or the reference"


# --- the choice lasts -------------------------------------------------------------------------------------------------


class Calls(torch.utils.data.Dataset):
    """Says which backend is in force where it is read, and what an operator gives there."""

    def __len__(self):
        return 2

    def __getitem__(self, index):
        return _backends._choice.name, dk.relabel(LABELS, TABLE)[0]


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_workers_of_a_data_loader_inherit_the_choice(start):
    loader = torch.utils.data.DataLoader(Calls(), num_workers=1, multiprocessing_context=start)
    with dk.backend("reference"):
        found = list(loader)
    assert [name for (name,), _ in found] == ["reference"] * 2
    assert [labels.tolist() for _, labels in found] == [[[[5, 7, 7]]]] * 2
    assert _backends._choice.name == os.environ.get(_backends.VARIABLE, "auto")


@interpreted
def test_compiled_functions_obey_the_choice(monkeypatch):
    """One graph, no recompilation: the operator in it is opaque."""
    ran = []
    monkeypatch.setattr(triton, "relabel", lambda *arguments: ran.append("triton") or reference.relabel(*arguments))
    compiled = torch.compile(lambda labels: dk.relabel(labels, TABLE) + 1, fullgraph=True, backend="aot_eager")
    assert compiled(LABELS).tolist() == [[[6, 8, 8]]]
    assert ran == []
    with torch._dynamo.config.patch(error_on_recompile=True), dk.backend("triton"):
        assert compiled(LABELS).tolist() == [[[6, 8, 8]]]
        assert ran == ["triton"]
        with dk.backend("reference"):
            compiled(LABELS)
        compiled(LABELS)
    compiled(LABELS)
    assert ran == ["triton", "triton"]


def test_the_last_of_overlapping_blocks_is_in_force():
    before = _backends._choice.name, os.environ.get(_backends.VARIABLE)
    first, second, third = (dk.backend(name) for name in ("reference", "auto", "reference"))
    for block, expected in ((first, "reference"), (second, "auto"), (third, "reference")):
        block.__enter__()
        assert _backends._choice.name == os.environ[_backends.VARIABLE] == expected
    third.__exit__(None, None, None)
    assert _backends._choice.name == "auto"
    first.__exit__(None, None, None)
    assert _backends._choice.name == os.environ[_backends.VARIABLE] == "auto"
    second.__exit__(None, None, None)
    assert (_backends._choice.name, os.environ.get(_backends.VARIABLE)) == before


def test_modules_are_pickled_without_the_choice():
    with dk.backend("reference"):
        data = pickle.dumps(dk.Tokenizer(max_tokens=5))
    tokenizer = pickle.loads(data)
    assert tokenizer(torch.rand(1, 3, 24, 24)).counts.item() <= 5


def test_the_choice_ends_with_an_error():
    before = os.environ.get(_backends.VARIABLE)

    def fail():
        with dk.backend("reference"):
            assert os.environ[_backends.VARIABLE] == "reference"
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert os.environ.get(_backends.VARIABLE) == before
    assert _backends._choice.name == (before or "auto")


@interpreted
def test_the_environment_chooses():
    code = "import dhvt_kernels; from dhvt_kernels import _backends; print(_backends._choice.name)"
    process = python(code, DHVT_KERNELS_BACKEND="triton", TRITON_INTERPRET="1")
    assert process.stdout.strip() == "triton", process.stderr
