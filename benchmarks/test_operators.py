"""Every case of the registry that is one of the device, on a CPU with one thread and with all.

pytest benchmarks --benchmark-only [--device cuda]
"""

import pytest
import torch

from .cases import CASES
from .measure import implementations, measure, measure_memory
from .peers import set_threads

ALL_THREADS = torch.get_num_threads()


@pytest.fixture(params=sorted({1, ALL_THREADS}), ids=lambda threads: f"{threads}t")
def threads(request):
    set_threads(request.param)
    yield request.param
    set_threads(ALL_THREADS)


@pytest.mark.parametrize(
    "case", [pytest.param(case, id=case.id, marks=[pytest.mark.quick] if case.quick else []) for case in CASES]
)
def test_operator(case, threads, device, missing_peers, record, request):
    """`pytest_collection_modifyitems` keeps the cases of the device."""
    found, cost = implementations(case, device, missing_peers)
    option = request.config.getoption
    measure(found, device, float(option("benchmark_max_time")), option("benchmark_min_rounds"))
    measure_memory(found, device)
    record(case, threads, device, found, cost)
