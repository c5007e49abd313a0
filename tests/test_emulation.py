"""That the stand-in for a GPU computes what a GPU does, and notices what it should (docs/emulation.md)."""

import shutil
import subprocess
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent / "emulation" / "faults.cpp"
# One worker compiles the program for all.
pytestmark = [
    pytest.mark.xdist_group("emulation"),
    pytest.mark.skipif(not shutil.which("g++"), reason="needs g++"),
]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Runs one of the kernels; the finished process."""
    program = tmp_path_factory.mktemp("emulation") / "faults"
    flags = ["-std=c++20", "-O1", "-g1", "-Wall", "-Wextra", "-Werror", "-fsanitize=address"]
    subprocess.run(["g++", *flags, SOURCE, "-o", program], check=True)
    return lambda name: subprocess.run([program, name], capture_output=True, text=True)


def results(process):
    """The numbers of the three launches."""
    assert process.returncode == 0, process.stderr
    return [[float(number) for number in line.split()] for line in process.stdout.splitlines()]


def test_barriers(run):
    assert results(run("mirror")) == 3 * [[63.0 - i for i in range(64)]]


def test_shuffles_votes_and_matches(run):
    # Sums of 0..31 and 32..63; 16 odd lanes, 8 with the same number, 10 threads of the block below 10.
    assert results(run("sums")) == 3 * [32 * [496.0 + 34] + 32 * [1520.0 + 34]]


def test_atomics(run):
    assert results(run("atomics")) == 3 * [4 * [16.0] + 60 * [0.0]]


def test_a_missing_barrier_gives_another_result_in_another_order(run):
    lines = results(run("no_barrier"))
    first, second, third = ([number if number == number else -1 for number in line] for line in lines)
    assert first != second or second != third


def test_shared_memory_that_was_never_written_is_nan(run):
    assert all(number != number for line in results(run("never_written")) for number in line)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("left_alone", "threads wait for others that never come"),
        ("outside_the_mask", "a shuffle reads a lane outside its mask"),
        ("past_the_end", "heap-buffer-overflow"),
    ],
)
def test_faults_are_reported(run, name, message):
    process = run(name)
    assert process.returncode != 0
    assert message in process.stderr
