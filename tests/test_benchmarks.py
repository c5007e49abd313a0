"""The benchmark suite: a few tiny cases from the run to the report, and the parts that could mislead."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from typer.testing import CliRunner

from benchmarks import measure, overview, peers, targets
from benchmarks.cases import BACKWARD, CASES
from benchmarks.measure import Implementation
from benchmarks.report import app
from benchmarks.results_file import load
from benchmarks.scene import Scene
from dhvt_kernels._schema import NAMESPACE, SCHEMAS

ROOT = Path(__file__).parent.parent
RUN = ["benchmarks", "--benchmark-only", "--benchmark-quiet", "--benchmark-max-time=0.001", "--benchmark-min-rounds=3"]
BUILDS = {case.operator: case.build for case in CASES}


def tiny(operator):
    channels = {"pack": 16, "unpack": 16, "pad": 16}.get(operator, 3)
    shape = (1, 16, 1, 300) if operator == "ragged_pool" else (2, channels, 40, 48)
    return Scene(*shape, "cpu")


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    """The file of a run of `pad`, interrupted before its last case."""
    file = tmp_path_factory.mktemp("bench") / "new.json"
    stop = (
        "import pytest, sys\n"
        "class Stop:\n"
        "    def pytest_runtest_setup(self, item):\n"
        "        if item is item.session.items[-1]: raise KeyboardInterrupt\n"
        "sys.exit(pytest.main(sys.argv[1:], plugins=[Stop()]))"
    )
    command = [sys.executable, "-c", stop, *RUN, "-k", "pad-", f"--benchmark-json={file}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert "KeyboardInterrupt" in done.stdout, done.stdout + done.stderr
    return file


def test_an_interrupted_run_keeps_what_was_measured_and_holds_no_raw_data(result):
    entries = json.loads(result.read_text())["benchmarks"]
    assert entries
    assert {e["extra_info"]["implementation"] for e in entries} == {"native", "reference", "pad and multiply", "copy"}
    assert all("data" not in entry["stats"] for entry in entries)
    groups = load(result).groups.values()
    assert all(group.ours.name == "native" and group.ours.ratio == (1, 1, 1) for group in groups)
    assert all(0 < row.p20 <= row.median <= row.p80 for group in groups for row in group.rows.values())


def test_report_and_comparison(result, tmp_path):
    """Old figures twice as slow: a speed-up of 2 of ours, none of the ceiling."""
    document = json.loads(result.read_text())
    for entry in document["benchmarks"]:
        if entry["extra_info"]["implementation"] == "native":
            entry["extra_info"]["seconds"] = {k: 2 * v for k, v in entry["extra_info"]["seconds"].items()}
    old = tmp_path / "old.json"
    old.write_text(json.dumps(document))
    done = CliRunner().invoke(app, [str(result), "--compare", str(old), "--output", str(tmp_path)])
    assert done.exit_code == 0, done.output
    text = (tmp_path / "new.md").read_text()
    assert "| 2.00x | 1.00x |" in text
    assert "pad and multiply" in text
    assert "not measured" in text


@pytest.fixture
def devices(result, tmp_path):
    """The results of a CPU, and made-up ones of a GPU, on which Triton takes twice as long as CUDA."""
    document = json.loads(result.read_text())
    (tmp_path / "cpu.json").write_text(json.dumps(document))
    (tmp_path / "other.json").write_text("{}")
    triton = [e for e in document["benchmarks"] if e["extra_info"]["implementation"] == "native"]
    document["benchmarks"] += (triton := json.loads(json.dumps(triton)))
    for entry in triton:
        times = {k: 2 * v for k, v in entry["extra_info"]["seconds"].items()}
        entry["extra_info"] |= {"implementation": "triton", "seconds": times}
    for entry in document["benchmarks"]:
        entry["extra_info"]["device"] = "cuda"
    (tmp_path / "h200.json").write_text(json.dumps(document))
    return overview.found(tmp_path)


def test_backends_side_by_side(devices, tmp_path):
    assert [results.device for results in devices] == ["cpu", "cuda"]
    sheet = overview.sheet(devices)
    assert sheet.columns == ("operator", "shape", "device", "file", *overview.COLUMNS)
    filled = {row[2]: [column for column, cell in zip(sheet.columns, row, strict=True) if cell] for row in sheet.rows}
    assert filled["cpu"][4:] == ["reference", "CPU"]
    assert filled["cuda"][4:] == ["reference", "Triton", "CUDA"]
    assert {row[2:4] for row in sheet.rows} == {("cpu", "cpu"), ("cuda", "h200")}
    assert overview.slower(devices)
    assert all(ratio == pytest.approx(2) for _, ratio in overview.slower(devices))
    overview.draw(devices, tmp_path / "backends.png")
    assert (tmp_path / "backends.png").stat().st_size > 10_000


def test_the_page_keeps_its_text_and_replaces_its_table(devices):
    text = f"before\n{overview.MARKS}\nold\n{overview.MARKS}\nafter\n"
    once = overview.page(devices, text)
    assert once.startswith("before\n")
    assert once.endswith("after\n")
    assert "old" not in once
    assert "| pad forward |" in once
    assert overview.page(devices, once) == once
    assert "No result of a GPU" not in once
    assert "No result of a GPU" in overview.page(devices[:1], text)


def test_all_backends_of_a_folder_and_without_matplotlib(devices, tmp_path, monkeypatch):
    folder, page = tmp_path, tmp_path / "page.md"
    page.write_text(f"{overview.MARKS}{overview.MARKS}")
    monkeypatch.setattr(overview, "RESULTS", tmp_path / "none")
    monkeypatch.setattr(overview, "PAGE", page)
    monkeypatch.setattr(overview, "PICTURE", tmp_path / "page.png")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    done = CliRunner().invoke(app, [str(folder)])
    assert done.exit_code == 0, done.output
    assert "no picture: " in done.output
    assert "| cuda | h200 |" in page.read_text()
    assert not (tmp_path / "page.png").exists()


@pytest.mark.parametrize("content", [None, "{}", "nonsense"])
def test_report_of_no_result_is_one_line(tmp_path, content):
    file = tmp_path / "bad.json"
    if content is not None:
        file.write_text(content)
    done = CliRunner().invoke(app, [str(file)])
    assert done.exit_code == 1
    assert done.stderr.startswith("report: ")
    assert done.stderr.count("\n") == 1


class Called(TorchDispatchMode):
    """The package's operators that are called."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.namespace == NAMESPACE:
            self.names.add(function._opname)
        return function(*args, **(kwargs or {}))


def test_every_operator_of_the_schema_is_measured():
    called = set()
    for operator, build in BUILDS.items():
        backward = any(case.operator == operator and case.direction == BACKWARD for case in CASES)
        work = build(tiny(operator))
        with torch.no_grad(), Called() as mode:
            measure._direction(work, work.call, backward)()
        assert mode.names, operator
        assert all(cost.bytes >= 0 for cost in work.cost)
        called |= mode.names
    assert called == set(SCHEMAS)


def first(outputs):
    return outputs if isinstance(outputs, torch.Tensor) else outputs[0]


@pytest.mark.parametrize(
    ("operator", "peer"),
    [
        ("segment_gather", "indexing"),
        ("mean_inject", "scatter_reduce, indexing"),
        ("token_patches", "grid_sample"),
        ("ragged_pool", "embedding_bag"),
        ("ragged_pool", "segment_reduce"),
        ("pack", "mask indexing"),
        ("unpack", "pad_sequence"),
        ("pad", "pad and multiply"),
        ("soft_cluster", "PyTorch gathers"),
        ("segment_moments", "scatter_reduce x2"),
        ("segment_pool_mean", "scatter_reduce"),
        ("segment_pool_max", "scatter_reduce"),
    ],
)
def test_peers_compute_the_same(operator, peer):
    work = BUILDS[operator](tiny(operator))
    try:
        call = work.peers[peer].make()
    except ModuleNotFoundError as error:
        pytest.skip(str(error))
    ours, theirs = work.call(*work.inputs), call(*work.inputs)
    if operator == "soft_cluster":
        ours, theirs = ours.centers, theirs[0][-1]
    elif operator == "segment_moments":
        used = ours.count > 0
        table = [t[..., :-1].transpose(1, 2)[used] for t in theirs]
        torch.testing.assert_close((ours.m2 / ours.count[..., None])[used], table[1], rtol=1e-2, atol=1e-2)
        ours, theirs = ours.mean[used], table[0]
    elif operator.startswith("segment_pool"):
        theirs = theirs[..., :-1].transpose(1, 2)
    elif operator == "token_patches":
        theirs = theirs.unflatten(2, (-1, 16)).transpose(1, 2)
        boxes = tiny(operator).boxes
        used = (boxes[..., 2:] >= boxes[..., :2]).all(-1)
        ours, theirs = ours[used], theirs[used]
    elif operator == "ragged_pool":
        ours = ours[0]
    torch.testing.assert_close(first(ours), first(theirs), rtol=1e-4, atol=1e-4)


def test_a_missing_peer_is_named_and_the_rest_goes_on(monkeypatch):
    def without(name):
        raise ModuleNotFoundError(f"{name} is missing (pip install ...)", name=name)

    monkeypatch.setattr(peers, "package", without)
    monkeypatch.setattr(measure, "scene", lambda *shape: tiny("region_graph"))
    missing = set()
    case = next(case for case in CASES if case.operator == "region_graph")
    found, _ = measure.implementations(case, "cpu", missing)
    assert missing == {"cc3d is missing (pip install ...)"}
    assert list(found) == ["native", "reference", "copy"]


def test_a_peer_that_fails_costs_itself_alone(monkeypatch):
    def too_small(labels):
        raise ValueError("too\nmany labels")

    monkeypatch.setattr(peers, "cc3d_contacts", too_small)
    monkeypatch.setattr(measure, "scene", lambda *shape: tiny("region_graph"))
    missing = set()
    case = next(case for case in CASES if case.operator == "region_graph")
    found, _ = measure.implementations(case, "cpu", missing)
    assert missing == {f"cc3d contacts, {case.id}: too many labels"}
    assert list(found) == ["native", "reference", "copy"]


def test_implementations_take_turns_and_slow_ones_sit_out(monkeypatch):
    clock, calls = [0.0], []
    monkeypatch.setattr(measure.time, "perf_counter", lambda: clock[0])

    def costs(name, seconds):
        def call():
            clock[0] += seconds
            calls.append(name)

        return Implementation("ours", call)

    found = {"quick": costs("quick", 0.01), "peer": costs("peer", 0.01), "slow": costs("slow", 2.0)}
    found["long"] = costs("long", 10.0)
    measure.measure(found, "cpu", max_time=0.1, min_rounds=5)
    assert len(found["quick"].seconds) == len(found["slow"].seconds) == 10
    assert found["quick"].seconds == pytest.approx([0.01] * 10)
    for name, rounds in (("slow", [3, 6, 9]), ("long", [9])):
        assert [number for number, value in enumerate(found[name].seconds) if value == value] == rounds
    found["quick"].seconds[9] = 5.0  # disturbed by the long call
    assert measure.ratios(found["long"], found["quick"])[9] == pytest.approx(1000)
    assert measure.ratios(found["slow"], found["quick"])[9] == pytest.approx(0.4)
    timed = [name for name in calls[6:] if name not in ("slow", "long")]
    assert all({*timed[i : i + 2]} == {"quick", "peer"} for i in range(0, len(timed), 2))


def test_what_is_measured_runs_where_memory_cannot_be_seen(monkeypatch):
    def refuse(*_):
        raise PermissionError

    monkeypatch.setattr(measure.Path, "write_text", refuse)
    calls = []
    assert measure.peak_memory(lambda: calls.append(1), "cpu") is None
    assert calls == [1]
    with pytest.raises(OSError, match="of the call"):
        measure.peak_memory(lambda: (_ for _ in ()).throw(OSError("of the call")), "cpu")


def test_peak_memory_sees_what_is_freed_again():
    if measure.peak_memory(lambda: None, "cpu") is None:
        pytest.skip("the system does not tell")
    size = 64 << 20
    for _ in range(2):  # the second time the allocator might have kept the first block
        found = measure.peak_memory(lambda: torch.ones(size // 4).sum(), "cpu")
        assert 0.9 * size < found < 1.2 * size
    kept = torch.ones(size // 4)
    assert measure.peak_memory(lambda: kept.sum(), "cpu") < 0.2 * size


def entry(case, name, seconds, *, ratio=1.0, memory=0, flop=0.0, moved=1e6):
    summary = {"p20": seconds, "median": seconds, "p80": seconds}
    kind = {"native": "ours", "copy": "ceiling", "FMA": "ceiling"}.get(name, "peer")
    shape = [int(n) for n in case.rsplit("-", 1)[1].split("x")]
    extra = {"case": case, "operator": case.split("-")[0], "direction": case.split("-")[1], "shape": shape}
    extra |= {"device": "cpu", "threads": 2, "implementation": name, "kind": kind, "seconds": summary}
    extra |= {"ratio": dict.fromkeys(summary, ratio), "memory": memory, "bytes": moved, "flop": flop}
    return {"extra_info": extra}


def test_targets_are_computed_from_the_file(tmp_path):
    soft = "soft_cluster_10-forward+backward-1x5x480x640"
    patches, tokens = "token_patches-forward-8x3x224x224", "tokenizer-forward-1x3x224x224"
    entries = [
        entry(soft, "native", 0.02, memory=12 << 20, flop=1e9),
        entry(soft, "PyTorch gathers", 2.0, ratio=100.0),
        entry(soft, "FMA", 0.01, flop=1e9),
        entry(patches, "native", 0.01),
        entry(patches, "torchvision roi_align", 0.05, ratio=5.0),
        entry(tokens, "native", 0.0045),
    ]
    file = tmp_path / "some.json"
    file.write_text(json.dumps({"benchmarks": entries}))
    rows = {text: (measured, verdict) for text, _, measured, verdict in targets.rows(load(file))}

    def row(*words):
        return next(value for text, value in rows.items() if all(word in text for word in words))

    assert row("PyTorch gathers") == ("100 x", "reached")
    assert row("above the input") == ("12 MiB", "reached")
    assert row("forward + backward", "FMA") == ("50 %", "NOT REACHED")
    assert row("roi_align") == ("5 x", "NOT REACHED")
    assert row("sRGB") == ("4.5 ms", "NOT REACHED")
    assert row("embedding_bag") == ("not measured", "")
