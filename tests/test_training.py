"""The training scripts, on miniature sets in the real folder formats."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import mini_data  # first: it skips these tests where a library is missing
import pytest
import torch

TESTS = Path(__file__).parent
EXAMPLES = TESTS.parent / "examples"
CONFIGS = EXAMPLES / "configs"
sys.path.insert(0, str(EXAMPLES))

import train_classification  # noqa: E402
import train_segmentation  # noqa: E402
from accelerate.state import AcceleratorState  # noqa: E402
from safetensors.torch import load_file  # noqa: E402
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # noqa: E402
from torch.distributed.run import main as torchrun  # noqa: E402
from training import checkpoint  # noqa: E402

SMALL = [str(CONFIGS / "mini_classification.yaml"), "--set"]
DENSE = [str(CONFIGS / "mini_segmentation.yaml"), "--set"]


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    AcceleratorState._reset_state(True)
    torch.set_num_threads(threads)


def places(root):
    return [f"data.train={root}/train", f"data.val={root}/val"]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Class folders with two corrupt images in training, one in validation."""
    root = tmp_path_factory.mktemp("photos")
    mini_data.corrupt(mini_data.class_folders(root / "train", 6))
    mini_data.class_folders(root / "val", 3, first=6)
    (root / "val" / "coffee" / "broken.jpg").write_text("no image")
    return root


#: 15 steps of 4 images, 3 epochs: everything random is on, and a checkpoint at every second step.
LONG = ["train.epochs=5", "train.batch_size=4"]


@pytest.fixture(scope="module")
def uninterrupted(photos, tmp_path_factory):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    output = tmp_path_factory.mktemp("uninterrupted")
    figures = train_classification.main([*SMALL, *places(photos), *LONG, f"train.output={output}"])
    torch.set_num_threads(threads)
    return output, figures


def series(output, name):
    """Values by step, from TensorBoard's files."""
    events = EventAccumulator(str(output / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    return {event.step: event.value for event in events.Scalars(name)}


def same_weights(one, other, **tolerance):
    first, second = load_file(one / "model.safetensors"), load_file(other / "model.safetensors")
    assert first.keys() == second.keys()
    for key in first:
        torch.testing.assert_close(first[key], second[key], **(tolerance or {"rtol": 0, "atol": 0}))


def step_of(output):
    """Of the last checkpoint."""
    found = checkpoint.found(output / "checkpoints")
    return int(found[-1].name.removeprefix("step_")) if found else None


def environment():
    site = os.pathsep.join([str(TESTS / "site"), str(TESTS.parent), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": site, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def test_a_run_learns_and_counts(uninterrupted):
    output, figures = uninterrupted
    loss = series(output, "train/loss")
    assert list(loss) == list(range(1, 16))
    assert figures["images"] == 6
    assert figures["skipped"] == 1
    assert 1 <= figures["tokens"] <= 9
    assert figures["tokenizer_ms"] > 0
    assert figures["backbone_ms"] > 0
    skipped = list(series(output, "train/skipped").values())
    assert skipped == sorted(skipped)
    assert skipped[-1] == 2 * 5, "each corrupt image once per epoch"
    assert series(output, "evaluation/top1")[15] == pytest.approx(figures["top1"])


def test_a_killed_run_goes_on_to_the_same_bits(photos, uninterrupted, tmp_path):
    command = [sys.executable, str(EXAMPLES / "train_classification.py"), *SMALL, *places(photos), *LONG]
    with open(tmp_path / "log", "w") as log:
        process = subprocess.Popen(
            [*command, f"train.output={tmp_path}"], env=environment(), cwd=tmp_path, stdout=log, stderr=log
        )
        deadline = time.monotonic() + 60
        least = random.choice([2, 4, 6, 8])
        while (step_of(tmp_path) or 0) < least and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(random.uniform(0, 0.05))
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, (tmp_path / "log").read_text()
    assert step_of(tmp_path) >= least
    assert not (tmp_path / "results.json").exists(), "killed too late"
    figures = train_classification.main([*SMALL, *places(photos), *LONG, f"train.output={tmp_path}"])
    output, expected = uninterrupted
    for name in ("train/loss", "train/lr", "train/skipped"):
        assert series(tmp_path, name) == series(output, name)
    same_weights(tmp_path, output)
    assert {key: value for key, value in figures.items() if "ms" not in key} == {
        key: value for key, value in expected.items() if "ms" not in key
    }


#: Without what depends on the rows of a process: mixing, and dropped paths.
PLAIN = ["augment.mixup=0", "augment.cutmix=0", "model.drop_path=0", "train.steps=4", "train.epochs=null"]


def test_two_processes_equal_one(photos, tmp_path, monkeypatch):
    """By DDP, by FSDP, and by FSDP from one process's second step on."""
    one, *others = (tmp_path / name for name in ("one", "ddp", "fsdp", "fsdp-resumed"))
    run = [*SMALL, *places(photos), *PLAIN]
    figures = train_classification.main([*run, f"train.output={one}"])
    half = "checkpoints/step_00000002"
    shutil.copytree(one / half, others[2] / half)
    arguments = []
    for output in others:
        kind = output.name.split("-")[0]
        arguments += [*run, f"train.output={output}", f"train.parallel={kind}", "train.accumulate=2", "--then"]
    for name, value in environment().items():
        monkeypatch.setenv(name, value)
    torchrun(["--standalone", "--nproc_per_node", "2", str(TESTS / "several_runs.py"), *arguments])
    for output in others:
        first = 3 if output.name == "fsdp-resumed" else 1
        assert list(series(output, "train/loss")) == list(range(first, 5))
        for name in ("train/loss", "train/skipped", "evaluation/top1", "evaluation/tokens", "evaluation/skipped"):
            expected = {step: value for step, value in series(one, name).items() if step >= first}
            assert series(output, name) == pytest.approx(expected, rel=1e-5), (output.name, name)
        same_weights(output, one, rtol=0, atol=1e-5)
    # A checkpoint of two processes goes on in one.
    AcceleratorState._reset_state(True)
    more = train_classification.main([*run, f"train.output={others[1]}", "train.steps=5", "train.accumulate=1"])
    assert more["images"] == figures["images"]
    assert list(series(others[1], "train/loss")) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("format", ["webdataset", "huggingface"])
def test_classification_formats(tmp_path, format):
    place = (mini_data.shards if format == "webdataset" else mini_data.hugging_face)(tmp_path / "data", 3)
    figures = train_classification.main(
        [*SMALL, f"data.format={format}", f"data.train={place}", f"data.val={place}", f"train.output={tmp_path}/run"]
    )
    assert figures["images"] == 6
    assert figures["skipped"] == 0


def test_segmentation_of_ade20k_folders(tmp_path):
    """The encoder learns, too; a process that loads the data changes nothing."""
    place = mini_data.ade20k(tmp_path / "data", 3)
    (place / "images" / "training" / "astronaut_1.jpg").write_text("no image")
    (place / "annotations" / "training" / "coffee_1.png").write_text("no labels")
    losses = []
    for workers in (0, 1):
        output = tmp_path / f"run{workers}"
        changes = [f"data.train={place}", f"data.val={place}", f"train.output={output}", f"data.workers={workers}"]
        figures = train_segmentation.main([*DENSE, *changes])
        assert figures["images"] == 6
        assert 0 < figures["mIoU"] <= 100
        assert series(output, "train/skipped")[3] == 2
        losses.append(series(output, "train/loss"))
    assert losses[0] == losses[1]
    first = train_segmentation.main([*DENSE, *changes, f"train.output={tmp_path}/start", "optimizer.lr=0"])
    assert first["images"] == 6
    start, end = (load_file(tmp_path / name / "model.safetensors") for name in ("start", "run1"))
    moved = {key for key in start if start[key].is_floating_point() and not torch.equal(start[key], end[key])}
    for part in ("vit.tokenizer.features.color.0.weight", "vit.injection.weight", "vit.model.cls_token", "vit.filler"):
        assert part in moved
    assert any(key.startswith("head.") for key in moved)


PAIRS = ["data.format=pairs", "data.reduce_zero_label=false", "data.ignore_labels=[2]", "model.classes=2"]


@pytest.mark.parametrize(
    "head",
    [["model.head=mlp"], pytest.param(["model.head=upernet", "model.layers=[0,0,1,1]"], marks=pytest.mark.slow)],
    ids=["mlp", "upernet"],
)
def test_segmentation_of_pairs(tmp_path, head):
    place = mini_data.pairs(tmp_path / "data", 2)
    changes = [f"data.train={place}", f"data.val={place}", f"train.output={tmp_path}/run", "train.steps=1"]
    figures = train_segmentation.main([*DENSE, *changes, *PAIRS, *head])
    assert figures["images"] == 4
    assert figures["mIoU"] > 0
