"""Compiles every Triton kernel for a GPU, where there is none: a line per kernel, with its operator and dtype.

A program, run without `TRITON_INTERPRET`, with the names of operators and of dtypes: launches become compilations, and
outputs stay as they were allocated; which kernels an operator launches does not depend on what they compute.
"""

import sys

import torch
from samples import SAMPLES
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile

import dhvt_kernels.triton
from dhvt_kernels.triton import _launch

TARGET = GPUTarget("cuda", 90, 32)
NAMES = {"float16": "fp16", "bfloat16": "bf16", "float32": "fp32", "float64": "fp64", "bool": "i1", "uint8": "u8"}


def parameter_type(value, special=True):
    """Triton's name of an argument's type, as its launcher would find it."""
    if isinstance(value, torch.Tensor):
        name = str(value.dtype).removeprefix("torch.")
        return "*" + NAMES.get(name, name.replace("int", "i"))
    if value is None or (special and type(value) is int and value == 1):
        return "constexpr"  # Triton makes a kernel of its own for both
    if isinstance(value, bool):
        return "u1"
    if isinstance(value, float):
        return "fp32"
    return "i32" if -(2**31) <= value < 2**31 else "i64"


class Compiler:
    """Stands for `launch`."""

    def __init__(self):
        self.seen = set()
        self.operator = ""

    def __call__(self, kernel, programs, like, *arguments, warps=4, **constants):
        names = kernel.arg_names
        values = dict(zip(names, arguments, strict=False))
        varying = {parameter.name for parameter in kernel.params if parameter.do_not_specialize}
        pointers = {name for name, value in values.items() if isinstance(value, torch.Tensor)}
        assert not varying & pointers, f"{kernel.fn.__name__}: {varying & pointers} must stay aligned: rename them"
        signature = {name: parameter_type(value, name not in varying) for name, value in values.items()}
        constexprs = {name: values[name] for name, kind in signature.items() if kind == "constexpr"} | constants
        signature |= dict.fromkeys(constants, "constexpr")
        for parameter in kernel.params:
            if parameter.is_constexpr and parameter.name in values:
                signature[parameter.name], constexprs[parameter.name] = "constexpr", values[parameter.name]
        assert set(signature) == set(names), f"{kernel.fn.__name__}: {set(names) ^ set(signature)}"
        key = (kernel.fn.__name__, warps, *map(str, (signature, constexprs)))
        if key in self.seen:
            return
        self.seen.add(key)
        source = ASTSource(fn=kernel, signature=signature, constexprs=constexprs)
        options = {"num_warps": warps, "enable_fp_fusion": False}
        compiled = compile(source, target=TARGET, options=options)
        assert "acq_rel" not in compiled.asm["ptx"], f"{kernel.fn.__name__}: an atomic is not relaxed, so it is a fence"
        print(self.operator, kernel.fn.__name__, len(compiled.asm["cubin"]), flush=True)


if __name__ == "__main__":
    operators, dtypes = sys.argv[1].split(","), sys.argv[2].split(",")
    compiler = Compiler()
    for name, module in list(sys.modules.items()):
        if name.startswith("dhvt_kernels.triton.") and hasattr(module, "launch"):
            module.launch = compiler
    _launch.launch = compiler
    for operator in operators:
        for dtype in dtypes:
            compiler.operator = f"{operator} {dtype}"
            for arguments in SAMPLES[operator](getattr(torch, dtype)):
                getattr(dhvt_kernels.triton, operator)(*arguments)
