"""What the compiler says of every CUDA kernel, as a Markdown table: `python -m benchmarks.kernels [sm_90]`.

Needs nvcc, and no GPU. Instances of one kernel for several dtypes share a row, with the range of their registers.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import torch

ROOT = Path(__file__).parent.parent
#: As CMakeLists.txt compiles them: from the PTX of the lowest architecture, and some without fused multiply-adds.
LOWEST = "compute_80"
UNFUSED = ("connected_components", "merge_pixels", "merge_tree", "scale_set", "tree_cut")


class Instance(NamedTuple):
    """One compiled kernel."""

    kernel: str
    registers: int
    spilled: int
    stack: int


def short(name: str) -> str:
    """`for_each_pixel_kernel<dhvt::LabPixel<float> >(long, ...)` is `LabPixel`; other kernels have their own name."""
    name = name.replace("(anonymous namespace)::", "").replace("dhvt::", "")
    name = re.sub(r"^void ", "", name)
    body = re.match(r"for_each(?:_pixel)?_kernel<(\w+)", name)
    return body[1] if body else re.split(r"[<(]", name)[0]


def parse(log: str) -> Iterator[Instance]:
    """The instances in what `ptxas -v` prints, demangled."""
    for block in log.split("Compiling entry function '")[1:]:
        stack, spilled = re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores", block).groups()
        yield Instance(
            short(block[: block.index("' for")]),
            int(re.search(r"Used (\d+) registers", block)[1]),
            int(spilled),
            int(stack),
        )


def compile_source(source: Path, architecture: str) -> list[Instance]:
    include = Path(torch.__file__).parent / "include"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as out:
        flags = [f"-arch={LOWEST}", f"-code={architecture}", "-std=c++20", "-O3", "--expt-relaxed-constexpr"]
        flags += ["-Xptxas=-v", "-cubin", *(["-fmad=false"] if source.stem in UNFUSED else [])]
        defines = ["-DTORCH_TARGET_VERSION=0x020a000000000000", '-DDHVT_CUDA_ARCHITECTURES="-"']
        includes = [f"-I{ROOT / 'csrc'}", "-isystem", str(include)]
        command = [os.environ.get("CUDACXX", "nvcc"), *flags, *defines, *includes, str(source), "-o", out.name]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{source.name}: {done.stderr}")
    return list(
        parse(subprocess.run(["c++filt"], input=done.stderr, capture_output=True, text=True, check=True).stdout)
    )


def main() -> None:
    architecture = sys.argv[1] if len(sys.argv) > 1 else "sm_90"
    if not shutil.which(os.environ.get("CUDACXX", "nvcc")):
        raise SystemExit("kernels: no nvcc found")
    sources = sorted((ROOT / "csrc" / "cuda").glob("*.cu"))
    print("| source | kernel | registers | spilled, bytes | stack, bytes |\n| --- | --- | --- | --- | --- |")
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for source, instances in zip(
            sources, pool.map(lambda s: compile_source(s, architecture), sources), strict=True
        ):
            for kernel in dict.fromkeys(instance.kernel for instance in instances):
                same = [instance for instance in instances if instance.kernel == kernel]
                low, high = (pick(one.registers for one in same) for pick in (min, max))
                registers = f"{low}" if low == high else f"{low}-{high}"
                spilled, stack = max(one.spilled for one in same), max(one.stack for one in same)
                print(f"| {source.stem} | `{kernel}` | {registers} | {spilled} | {stack} |")


if __name__ == "__main__":
    main()
