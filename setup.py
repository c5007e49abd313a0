"""Builds _C.so with CMake. Everything that is not the compiled library is in pyproject.toml."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent.resolve()


def tool(name: str) -> str | None:
    """The program next to this Python, else the one on the path."""
    return shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)


class CMakeBuild(build_ext):
    """Runs CMake and ninja once; without a C++ compiler it builds nothing and says so."""

    def build_extension(self, ext: Extension) -> None:
        if not any(shutil.which(compiler) for compiler in (os.environ.get("CXX"), "c++", "g++", "clang++") if compiler):
            print(
                "dhvt_kernels: no C++ compiler found, so no kernels are built: "
                "the package runs on its PyTorch reference."
            )
            return
        try:
            import torch
        except ImportError:
            sys.exit(
                "dhvt_kernels: torch is not installed in the environment that builds. Install it, then run: "
                "pip install --no-build-isolation ."
            )
        cmake, ninja = tool("cmake"), tool("ninja")
        if not cmake or not ninja:
            sys.exit("dhvt_kernels: building needs CMake and ninja. Run: pip install cmake ninja")
        # pip gives an editable install a new temporary folder each time; here the next one compiles only what changed.
        build = (ROOT / "build" if self.editable_mode else Path(self.build_temp)).resolve() / "cmake"
        configure = ["-S", str(ROOT), "-B", str(build), "-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}"]
        subprocess.run([cmake, *configure, f"-DDHVT_TORCH_DIR={Path(torch.__file__).parent}"], check=True)
        jobs = os.environ.get("MAX_JOBS")
        subprocess.run([cmake, "--build", str(build), *(["--parallel", jobs] if jobs else [])], check=True)
        subprocess.run([cmake, "--install", str(build), "--prefix", str(Path(self.build_lib).resolve())], check=True)

    def copy_extensions_to_source(self) -> None:
        """For editable installs and `build_ext --inplace`; a running process keeps the library it has mapped."""
        for built in self.get_outputs():
            fresh = ROOT / "dhvt_kernels" / "_C.so.new"
            shutil.copy2(built, fresh)
            fresh.replace(fresh.with_suffix(""))

    def get_outputs(self) -> list[str]:
        library = Path(self.build_lib) / "dhvt_kernels" / "_C.so"
        return [str(library)] if library.exists() else []


class AnyPythonWheel(bdist_wheel):
    """The library has no Python API, so one wheel serves every CPython."""

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


setup(
    ext_modules=[Extension("dhvt_kernels._C", sources=[])],
    cmdclass={"build_ext": CMakeBuild, "bdist_wheel": AnyPythonWheel},
)
