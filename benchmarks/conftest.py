"""One pytest-benchmark entry for each implementation of a case; what was measured is kept when a run is interrupted."""

import contextlib
import copy
import importlib.metadata
import os
import signal

import pytest
import torch

import dhvt_kernels as dk
from dhvt_kernels import info

from . import measure
from .cases import Case
from .costs import Cost
from .measure import Implementation

#: Distributions whose versions a result names.
VERSIONS = (
    "torch",
    "triton",
    "numpy",
    "connected-components-3d",
    "fast-slic",
    "higra",
    "opencv-contrib-python-headless",
    "scikit-image",
    "scipy",
    "torchvision",
)
#: What pytest-benchmark's own comparison reads; the raw data would make the files large.
KEPT = ("min", "max", "mean", "stddev", "median", "iqr", "outliers", "ops", "rounds", "iterations")


def pytest_addoption(parser):
    parser.addoption("--device", default="cpu", help="where the benchmarks run: cpu (default) or cuda")


def pytest_configure(config):
    config.missing_peers = set()
    if config.getoption("--device").startswith("cuda") and not torch.cuda.is_available():
        raise pytest.UsageError("--device cuda: torch finds no GPU")
    # Stopped from outside is like Ctrl-C: pytest-benchmark writes its file with the cases that are complete.
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def pytest_collection_modifyitems(config, items):
    """Keep the cases of the device; on a GPU, threads make no difference."""
    device = torch.device(config.getoption("--device")).type

    def wanted(item):
        parameters = item.callspec.params
        return parameters["case"].device == device and (
            device == "cpu" or parameters["threads"] == torch.get_num_threads()
        )

    mine = [item for item in items if hasattr(item, "callspec") and "case" in item.callspec.params]
    others = [item for item in mine if not wanted(item)]
    config.hook.pytest_deselected(items=others)
    items[:] = [item for item in items if item not in others]
    if device != "cpu":  # the run may be stopped: the tokenizer comes first, what torch.compile takes long for last
        items.sort(key=lambda item: item in mine and item.callspec.params["case"].rank)


@pytest.fixture
def device(request):
    return request.config.getoption("--device")


@pytest.fixture
def missing_peers(request):
    return request.config.missing_peers


@pytest.fixture
def record(benchmark):
    """pytest-benchmark times one callable per test; this adds an entry for each of several, timed by `measure`."""

    def add(case: Case, threads: int, device: str, found: dict[str, Implementation], cost: Cost) -> None:
        base = next(iter(found.values()))
        for name, one in found.items():
            entry = copy.copy(benchmark)
            entry.name, entry.param, entry.params = name, name, None
            entry.group = f"{case.id}-{threads}"
            entry.fullname = f"{entry.group}::{name}"
            ratios = measure.ratios(one, base)
            entry.extra_info = {
                "case": case.id,
                "operator": case.operator,
                "direction": case.direction,
                "shape": list(case.shape),
                "device": device,
                "threads": threads,
                "implementation": name,
                "kind": one.kind,
                "seconds": measure.summary(one.seconds),
                "ratio": measure.summary(ratios),
                "memory": one.memory,
                "bytes": cost.bytes if one.kind != "ceiling" else measure.copied_bytes(cost),
                "flop": measure.fma_flop(device) if name == "FMA" else cost.flop,
            }
            stats = entry._make_stats(iterations=1)
            for value in one.seconds:
                if value == value:  # took part in this round
                    stats.update(value)
        benchmark._mode = "record"

    return add


def pytest_benchmark_update_machine_info(config, machine_info):
    cpu = info.collect()["cpu"]
    machine_info["cpu"] = {"brand_raw": cpu["name"]}
    machine_info |= {"cores": cpu["cores"], "level": cpu["level"]}
    machine_info["gpu"] = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    machine_info["driver"] = measure.driver()
    versions = {"dhvt_kernels": dk.__version__, "CUDA": torch.version.cuda}
    for name in VERSIONS:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    machine_info["versions"] = versions


def pytest_benchmark_update_commit_info(config, commit_info):
    if "DHVT_COMMIT" in os.environ:
        commit_info |= {"id": os.environ["DHVT_COMMIT"], "dirty": False}


def pytest_benchmark_update_json(config, benchmarks, output_json):
    for entry in output_json["benchmarks"]:
        entry["stats"] = {name: entry["stats"][name] for name in KEPT}
        entry["options"] = {}
    output_json["missing"] = sorted(config.missing_peers)


def pytest_terminal_summary(terminalreporter, config):
    missing = measure.missing_backends(config.getoption("--device"))
    for line in (*map(": ".join, missing.items()), *sorted(config.missing_peers)):
        terminalreporter.write_line(f"not measured: {line}")
