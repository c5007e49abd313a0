"""Building, the wheel, and importing where something is missing."""

import os
import re
import resource
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from dhvt_kernels import _native

ROOT = Path(__file__).parent.parent
USE = """
import torch, dhvt_kernels as dk
print(dk.__file__)
print(dk.connected_components(torch.zeros(1, 2, 2, dtype=torch.int32)).counts.tolist())
"""

# One worker runs them all, so that the wheel is built once.
pytestmark = [pytest.mark.xdist_group("packaging"), pytest.mark.skipif(os.name != "posix", reason="Linux only")]


def copy_sources(to):
    """What a source distribution holds, without anything built here."""
    for name in ("setup.py", "pyproject.toml", "CMakeLists.txt", "README.md", "LICENSE"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, to)
    ignore = shutil.ignore_patterns("_C.so*", "__pycache__")
    for folder in ("csrc", "dhvt_kernels"):
        shutil.copytree(ROOT / folder, to / folder, ignore=ignore)
    return to


def run(command, cwd, **environment):
    """The finished process, output captured; an environment variable of None is unset."""
    variables = {k: v for k, v in {**os.environ, **environment}.items() if v is not None}
    return subprocess.run([str(part) for part in command], cwd=cwd, env=variables, capture_output=True, text=True)


def build_wheel(source, **environment):
    pip = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-v",
        "--no-build-isolation",
        "--no-deps",
        "-w",
        source / "dist",
        source,
    ]
    return run(pip, source, **environment)


def use(folder, **environment):
    """Imports the package that lies in `folder`, in a new Python, and runs an operator."""
    result = run([sys.executable, "-c", USE], folder, PYTHONPATH=str(folder), DHVT_KERNELS_BACKEND=None, **environment)
    assert result.returncode == 0, result.stderr
    file, counts = result.stdout.splitlines()
    assert Path(file).parent.parent == folder
    assert counts == "[1]"
    return result.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from clean sources, without optimisation and for one GPU: that compiles several times faster."""
    source = copy_sources(tmp_path_factory.mktemp("source"))
    result = build_wheel(source, CMAKE_BUILD_TYPE="None", TORCH_CUDA_ARCH_LIST="9.0")
    assert result.returncode == 0, result.stdout + result.stderr
    (file,) = (source / "dist").glob("*.whl")
    return file


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    folder = tmp_path_factory.mktemp("installed")
    zipfile.ZipFile(wheel).extractall(folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(("cuda", "minutes"), [("0", 3), ("auto", 5)])
def test_a_build_takes_few_minutes_on_two_cores(tmp_path, cuda, minutes):
    """By processor time, which other work on the machine does not change much."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = build_wheel(copy_sources(tmp_path), DHVT_KERNELS_CUDA=cuda, TORCH_CUDA_ARCH_LIST=None)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert result.returncode == 0, result.stdout + result.stderr
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 2 * 60 * minutes


def test_one_wheel_for_every_python(wheel):
    assert re.fullmatch(r"dhvt_kernels-[\d.]+-py3-none-(linux|macosx)_\w+\.whl", wheel.name)
    names = zipfile.ZipFile(wheel).namelist()
    assert {"dhvt_kernels/_C.so", "dhvt_kernels/py.typed", "dhvt_kernels/ops/__init__.py"} <= set(names)
    assert {f"dhvt_kernels/viewer/page.{end}" for end in ("html", "css", "js")} <= set(names)
    assert not [name for name in names if name.endswith((".cpp", ".h")) or name.startswith(("tests", "csrc"))]


def test_every_module_is_in_the_wheel(wheel):
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "dhvt_kernels").rglob("*.py")}
    assert modules <= set(zipfile.ZipFile(wheel).namelist())


def test_the_wheel_runs_its_kernels(installed):
    assert use(installed) == ""


@pytest.mark.skipif(not shutil.which("nm"), reason="needs nm")
def test_undefined_symbols_are_only_stable_ones(installed):
    lines = run(["nm", "-D", "--undefined-only", installed / "dhvt_kernels" / "_C.so"], installed).stdout.splitlines()
    symbols = [line.split()[-1] for line in lines]
    assert any(symbol.startswith("aoti_torch_") for symbol in symbols)
    torch_shims = re.compile(r"(aoti_torch|torch)_\w+")
    system = re.compile(r"\w+@+(GLIBC|GLIBCXX|CXXABI|GCC)_[\d.]+|__gmon_start__|_ITM_\w+|__cxa_finalize")
    assert [s for s in symbols if not torch_shims.fullmatch(s) and not system.fullmatch(s)] == []


@pytest.mark.skipif(not shutil.which("nm"), reason="needs nm")
@pytest.mark.parametrize("level", ["avx2", "avx512"])
def test_levels_share_no_code(level):
    """A function that two levels emit is one function after linking; then a machine without AVX-512 might run it."""
    objects = list((ROOT / "build" / "cmake" / "CMakeFiles" / f"{level}.dir").rglob("*.o"))
    if not objects:
        pytest.skip("no build folder for x86-64")
    symbols = run(["nm", "-C", "--defined-only", *objects], ROOT).stdout.splitlines()
    weak = [line.split(maxsplit=2)[2] for line in symbols if re.match(r"[0-9a-f]+ [uVW] ", line)]
    assert any(f"dhvt::{level}::" in name for name in weak)
    assert [name for name in weak if f"dhvt::{level}::" not in name] == []


def test_a_level_can_be_forced():
    code = "from dhvt_kernels import _native; print(_native.cpu_level())"
    for level in (*_native.cpu_levels(), None):
        result = run([sys.executable, "-c", code], ROOT, DHVT_KERNELS_CPU=level)
        assert result.stdout.strip() == (level or _native.cpu_levels()[-1])


def test_a_level_that_the_machine_lacks_is_refused():
    result = run([sys.executable, "-c", "import dhvt_kernels"], ROOT, DHVT_KERNELS_CPU="avx1024")
    assert result.returncode != 0
    expected = f"CPU level 'avx1024' cannot run: expected one of {', '.join(_native.cpu_levels())}"
    assert expected in result.stderr.splitlines()[-1]


@pytest.mark.slow
def test_sources_compile_for_aarch64(tmp_path):
    """With the compiler of `pip install ziglang`."""
    pytest.importorskip("ziglang")
    flags = ["-std=c++20", "-Wall", "-Wextra", "-Wno-unused-parameter", "-Werror", "-DDHVT_LEVEL=baseline"]
    flags += ["-DTORCH_TARGET_VERSION=0x020a000000000000", f"-I{ROOT / 'csrc'}"]
    flags += ["-isystem", Path(torch.__file__).parent / "include", "-c", "-o", tmp_path / "out.o"]
    for source in (ROOT / "csrc").rglob("*.cpp"):
        result = run([sys.executable, "-m", "ziglang", "c++", "-target", "aarch64-linux-gnu", *flags, source], ROOT)
        assert result.returncode == 0, result.stderr


def test_without_the_library_it_runs_on_the_reference_and_says_so_once(tmp_path):
    copy_sources(tmp_path)
    message = use(tmp_path)
    assert message.count("tensors run on the plain PyTorch reference") == 1
    assert "_C.so was not built" in message
    assert len(message.splitlines()) == 1


def test_a_broken_library_is_a_reason_not_a_crash(tmp_path):
    copy_sources(tmp_path)
    (tmp_path / "dhvt_kernels" / "_C.so").write_bytes(b"not a library")
    assert "_C.so does not load with torch" in use(tmp_path)


def test_without_a_compiler_it_installs_and_says_so(tmp_path):
    source = copy_sources(tmp_path)
    (source / "bin").mkdir()
    result = build_wheel(source, PATH=str(source / "bin"), CXX=None)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "no C++ compiler found" in result.stdout + result.stderr
    (file,) = (source / "dist").glob("*.whl")
    zipfile.ZipFile(file).extractall(source / "site")
    assert "tensors run on the plain PyTorch reference" in use(source / "site")


def test_without_torch_the_build_prints_the_command(tmp_path):
    source = copy_sources(tmp_path)
    (source / "hidden").mkdir()
    (source / "hidden" / "torch.py").write_text("raise ModuleNotFoundError(\"No module named 'torch'\")")
    result = run([sys.executable, "setup.py", "build_ext"], source, PYTHONPATH=str(source / "hidden"))
    assert result.returncode != 0
    assert "pip install --no-build-isolation ." in result.stderr
    assert "Traceback" not in result.stderr


def test_cmake_alone_builds(tmp_path):
    """One operator is enough to know: the wheel has compiled the others."""
    source = copy_sources(tmp_path)
    for file in (source / "csrc" / "cpu").rglob("*.cpp"):
        if file.stem not in ("connected_components", "level"):
            file.unlink()
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    torch_directory = f"-DDHVT_TORCH_DIR={Path(torch.__file__).parent}"
    for command in (
        ["cmake", "-S", ".", "-B", "build", "-G", "Ninja", torch_directory],
        ["cmake", "--build", "build"],
        ["cmake", "--install", "build", "--prefix", "."],
    ):
        result = run(command, source, PATH=path, DHVT_KERNELS_CUDA="0")
        assert result.returncode == 0, result.stdout + result.stderr
    assert use(source) == ""


@pytest.mark.skipif(not shutil.which("nvcc"), reason="needs nvcc")
def test_the_wheel_has_cuda_kernels_and_runs_without_a_gpu(installed):
    code = "from dhvt_kernels import _native; print(_native.cuda_architectures())"
    assert run([sys.executable, "-c", code], installed, PYTHONPATH=str(installed)).stdout.strip() == "sm_90"


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"DHVT_KERNELS_CUDA": "yes"}, "DHVT_KERNELS_CUDA: expected auto, 0 or 1; found yes"),
        ({"DHVT_KERNELS_CUDA": "1", "CUDACXX": "/nowhere/nvcc"}, "DHVT_KERNELS_CUDA=1, and no nvcc was found"),
        ({"TORCH_CUDA_ARCH_LIST": "90"}, "TORCH_CUDA_ARCH_LIST: expected entries such as 9.0 or 9.0+PTX; found 90"),
    ],
)
def test_settings_of_the_cuda_build(tmp_path, environment, message):
    if "TORCH_CUDA_ARCH_LIST" in environment and not shutil.which("nvcc"):
        pytest.skip("needs nvcc")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    configure = ["cmake", "-S", ROOT, "-B", tmp_path, "-G", "Ninja", f"-DDHVT_TORCH_DIR={Path(torch.__file__).parent}"]
    result = run(configure, tmp_path, PATH=path, **environment)
    assert result.returncode != 0
    assert message in " ".join(result.stderr.split())
