"""Timing in alternating rounds, ceilings, and peak memory."""

import ctypes
import gc
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

import dhvt_kernels as dk
from dhvt_kernels import triton
from dhvt_kernels._backends import BACKENDS, _reference, supports
from dhvt_kernels._schema import SCHEMAS, ops

from .cases import BACKWARD, Case, Work
from .costs import Cost
from .scene import scene

#: A timed burst lasts about this long, seconds: shorter calls are repeated.
BURST = 1e-3
#: The most rounds, and the fewest of an implementation whose calls are longer than the time it is given.
MOST_ROUNDS, FEWEST_ROUNDS = 50, 3
#: A call that takes so many seconds is made in one round.
LONG = 5.0
#: Side of the square float32 matrices whose product is the FMA ceiling: 1 MiB each, what one core's L2 cache holds.
MATRIX = {"cpu": 512, "cuda": 4096}
COMPILED = "compiled reference"
#: Below this the copy ceiling would measure the call.
LEAST_COPY = 1 << 16

Call = Callable[[], Any]


@dataclass
class Implementation:
    """Who computes it: ours (a backend), a peer or a ceiling."""

    kind: str
    call: Call
    #: The backend in force during the call; None for others' code.
    backend: str | None = None
    #: Seconds of the first call, if there was one already.
    first: float | None = None
    #: Seconds per call of each round; NaN where it did not take part.
    seconds: list[float] = field(default_factory=list)
    #: Bytes above the inputs at the highest point of one call; None where they cannot be measured.
    memory: int | None = None
    #: The call in another form, for its time.
    timed: Call | None = None

    def run(self) -> Any:
        return self.call()

    def run_timed(self) -> Any:
        return (self.timed or self.call)()


#: Stands for every operator that has all backends.
ANY = "segment_sum"


def backends(device: str) -> list[str]:
    """Ours that can run on a device, the best first: the library, Triton, the reference."""
    missing = missing_backends(device)
    return [name for name in ("native", "triton", "reference") if name not in missing]


def missing_backends(device: str) -> dict[str, str]:
    """The others, with the reason."""
    found = {name: supports(ANY, backend=name, device=torch.device(device).type) for name in BACKENDS[1:]}
    if triton.interpreted:
        found["triton"] = "its interpreter is not to be timed (unset TRITON_INTERPRET)"
    return {name: reason for name, reason in found.items() if reason is not None}


def driver() -> str | None:
    """Version of the GPU's driver."""
    try:
        command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        return None


def implementations(case: Case, device: str, missing: set[str]) -> tuple[dict[str, Implementation], Cost]:
    """Everything that computes a case, made ready, and what it costs; missing peers are added to `missing`."""
    work = case.build(scene(*case.shape, device))
    backward = case.direction == BACKWARD
    cost = work.cost[0] + work.cost[1] if backward else work.cost[0]
    found = {}
    for name in backends(device):
        if name != "reference" or case.reference:
            found[name] = Implementation("ours", _direction(work, work.call, backward), name)
    for name, peer in work.peers.items():
        if not peer.tensors and (backward or device != "cpu"):
            continue
        if name == "PyTorch gathers":
            if not (case.reference and backward):
                continue  # forward it is the reference itself
            found.pop("reference", None)  # backward it is the same, without recomputation
        try:
            call = peer.make()
            one = Implementation("peer", _direction(work, call, backward) if peer.tensors else call)
            with torch.no_grad():
                one.first = seconds(one.run, 1, device)
        except ModuleNotFoundError as error:
            missing.add(str(error))
        except Exception as error:  # a limit of theirs must not cost the case
            missing.add(f"{name}, {case.id}: {' '.join(str(error).split())}")
        else:
            found[name] = one
    if case.compiled:
        try:
            found[COMPILED] = Implementation("peer", compiled_reference(work.call, work.inputs))
        except Exception as error:
            missing.add(f"{COMPILED}, {case.id}: {' '.join(str(error).split())[:200]}")
    found["copy"] = Implementation("ceiling", copy_ceiling(cost, device))
    if cost.flop:
        found["FMA"] = Implementation("ceiling", fma_ceiling(device))
    if torch.device(device).type == "cuda":
        for one in found.values():
            one.timed = captured(one)
    return found, cost


def compiled_reference(call: Callable[..., Any], inputs: tuple[Tensor, ...]) -> Call:
    """The plain PyTorch reference under torch.compile, which sees through our operators to their references."""
    references = {getattr(ops, name).default: _reference(name) for name in SCHEMAS}
    torch._dynamo.reset()
    with torch.no_grad():
        function = torch.compile(make_fx(call, decomposition_table=references)(*inputs))
        function(*inputs)
    return lambda: function(*inputs)


def captured(one: Implementation) -> Call:
    """The call as a CUDA graph, which costs the host nothing; as it is where it waits for the GPU."""
    stream, graph = torch.cuda.current_stream(), torch.cuda.CUDAGraph()
    try:
        side = torch.cuda.Stream()
        side.wait_stream(stream)
        with torch.no_grad(), _in_force(one), torch.cuda.stream(side):
            one.run()
            torch.cuda.set_sync_debug_mode("error")  # a capture that fails leaves traces, so it is not tried
            one.run()
        torch.cuda.set_sync_debug_mode("default")
        stream.wait_stream(side)
        with torch.no_grad(), _in_force(one), torch.cuda.graph(graph):
            one.run()
    except RuntimeError:
        torch.cuda.set_sync_debug_mode("default")
        torch.cuda.set_stream(stream)
        torch.cuda.synchronize()
        return one.call
    return graph.replay


def _direction(work: Work, call: Callable[..., Any], backward: bool) -> Call:
    if not backward:
        return lambda: call(*work.inputs)
    leaves = [tensor.detach().requires_grad_() for tensor in work.inputs]
    gradients: list[Tensor] = []

    def run() -> tuple[Tensor, ...]:
        with torch.enable_grad():
            outputs = [output for output in _flat(call(*leaves)) if output.requires_grad]
        if not gradients:  # made once, in the call that warms up
            generator = torch.Generator().manual_seed(0)
            gradients.extend(torch.randn(o.shape, generator=generator).to(o) for o in outputs)
        return torch.autograd.grad(outputs, leaves, gradients, allow_unused=True)

    return run


def _flat(outputs: Any) -> Iterator[Tensor]:
    if isinstance(outputs, Tensor):
        yield outputs
    elif isinstance(outputs, tuple | list):
        for output in outputs:
            yield from _flat(output)


def copy_ceiling(cost: Cost, device: str) -> Call:
    """A copy that reads and writes as many bytes as the operator must (on CUDA within the device)."""
    source = torch.ones(max(int(cost.bytes), LEAST_COPY) // 8, device=device)
    target = torch.empty_like(source)
    return lambda: target.copy_(source)


def copied_bytes(cost: Cost) -> int:
    return max(int(cost.bytes), LEAST_COPY) // 8 * 8


def fma_ceiling(device: str) -> Call:
    """A product of float32 matrices that stay in cache, by the best library there is: torch.mm, without TF32."""
    side = MATRIX[torch.device(device).type]
    a, out = torch.ones(2, side, side, device=device)
    return lambda: torch.mm(a, a, out=out)


def fma_flop(device: str) -> float:
    return 2.0 * MATRIX[torch.device(device).type] ** 3


# --- time -------------------------------------------------------------------------------------------------------------


def seconds(call: Call, repeats: int, device: str) -> float:
    """Time of one call, of `repeats` in a row: on the wall, or between two events of the device."""
    if torch.device(device).type == "cuda":
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        start.record()
        for _ in range(repeats):
            call()
        end.record()
        end.synchronize()
        return 1e-3 * start.elapsed_time(end) / repeats
    begin = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - begin) / repeats


@torch.no_grad()
def measure(found: dict[str, Implementation], device: str, max_time: float, min_rounds: int) -> None:
    """Time all implementations in turn, round by round, each for about `max_time` seconds in all.

    Whatever slows the machine down slows the neighbours in a round alike. The order turns round every other round. The
    first implementation takes part in every round, slow ones in rounds evenly spread.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        plan = {}
        for name, one in found.items():
            with _in_force(one):
                once = seconds(one.run_timed, 1, device) if one.first is None else one.first
                if once < max_time:  # the first call may have paid for more
                    once = seconds(one.run_timed, 1, device)
            repeats = max(1, min(round(BURST / max(once, 1e-9)), 1000))
            fewest = 1 if once > LONG else FEWEST_ROUNDS if once > max_time else max(min_rounds, FEWEST_ROUNDS)
            rounds = max(fewest, min(round(max_time / (repeats * once)), MOST_ROUNDS))
            plan[name] = (repeats, rounds)
        total = next(iter(plan.values()))[1]
        for number in range(total):
            order = list(found.items())[:: 1 if number % 2 else -1]
            for name, one in order:
                repeats, rounds = plan[name]
                rounds = min(rounds, total)
                if (number + 1) * rounds // total == number * rounds // total:
                    one.seconds.append(float("nan"))
                    continue
                with _in_force(one):
                    if repeats > 1:
                        one.run_timed()  # its code and data are back in cache
                    one.seconds.append(seconds(one.run_timed, repeats, device))
    finally:
        if collecting:
            gc.enable()


def _in_force(one: Implementation) -> Any:
    return dk.backend(one.backend or "auto")


def ratios(one: Implementation, base: Implementation) -> list[float]:
    """One's time over the base's, round by round; over its median where one took part in a single round.

    A call of many seconds disturbs its neighbours in the round, and there is no other round to show it.
    """
    if np.isfinite(one.seconds).sum() == 1:
        return [seconds / float(np.nanmedian(base.seconds)) for seconds in one.seconds]
    return [a / b for a, b in zip(one.seconds, base.seconds, strict=True)]


def summary(values: list[float]) -> dict[str, float]:
    """Median, and 20th and 80th percentile, of what is there."""
    low, median, high = np.nanpercentile(values, (20, 50, 80))
    return {"p20": float(low), "median": float(median), "p80": float(high)}


# --- memory -----------------------------------------------------------------------------------------------------------


@torch.no_grad()
def measure_memory(found: dict[str, Implementation], device: str) -> None:
    for one in found.values():
        if one.kind != "ceiling":
            with _in_force(one):
                one.memory = peak_memory(one.run, device)


def peak_memory(call: Call, device: str) -> int | None:
    """The highest point during a call, bytes above what was in use before; None where the system does not tell.

    On the CPU it is the resident memory, which sees every allocator: what is free goes back to the system first
    (`malloc_trim`), then the kernel forgets its high-water mark (writing 5 to `clear_refs`, proc(5)).
    """
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
        before = _status("VmRSS")
    except (AttributeError, OSError):  # not Linux with glibc, or not allowed
        before = None
    call()
    return None if before is None else max(_status("VmHWM") - before, 0)


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))
