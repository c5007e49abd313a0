"""Times of `benchmarks.vectorize`: everything in one process, in alternating rounds, the best of each."""

import gc
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

import dhvt_kernels as dk

from .superpixel_methods import tensor
from .vectorize_methods import OURS, Method, Pixels, cut, hierarchy

ROUNDS = 3
#: Segments at which our stages are timed one by one.
SEGMENTS = 1024

#: Milliseconds of every stage of ours, and of every run of each method by its label.
Times = dict[str, dict[str, float]]


def stages(image: Pixels) -> dict[str, Callable[[], Any]]:
    """Ours, step by step."""
    pixels, tree = tensor(image)[0], hierarchy(image)
    partition = cut(tree, SEGMENTS)
    labels = partition.labels[0]
    _, options = next(iter(OURS.values()))
    return {
        "hierarchy": partial(hierarchy, image),
        "cut": lambda: cut(tree, SEGMENTS).labels,  # written when they are asked for
        "svg": lambda: dk.to_svg(pixels, partition, **options),
        "trace": lambda: dk.trace(labels),
    }


def measure(image: Pixels, methods: Sequence[Method], threads: int, rounds: int = ROUNDS) -> Times:
    """The best of all rounds, on so many threads."""
    calls: dict[tuple[str, str], Callable[[], Any]] = {("stages", name): call for name, call in stages(image).items()}
    for method in methods:
        draw = method.prepare(image)
        calls |= {(method.name, label): partial(draw, setting) for label, setting in method.settings.items()}
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    gc.disable()
    try:
        found = [{key: _milliseconds(call) for key, call in calls.items()} for _ in range(rounds)]
    finally:
        gc.enable()
        torch.set_num_threads(before)
    times: Times = {}
    for name, label in calls:
        times.setdefault(name, {})[label] = min(of[name, label] for of in found)
    return times


def _milliseconds(call: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    call()
    return 1e3 * (time.perf_counter() - begin)
