"""Parts of the training scripts: bad input, data, checkpoints, schedule."""

import errno
import os
import resource
import signal
import sys
import tarfile
from pathlib import Path

import mini_data  # first: it skips these tests where a library is missing
import numpy as np
import pytest
import torch

EXAMPLES = Path(__file__).parents[1] / "examples"
CONFIGS = EXAMPLES / "configs"
sys.path.insert(0, str(EXAMPLES))

import timm  # noqa: E402
import train_classification  # noqa: E402
import train_segmentation  # noqa: E402
from accelerate import Accelerator  # noqa: E402
from accelerate.state import AcceleratorState  # noqa: E402
from PIL import Image  # noqa: E402
from safetensors.torch import save_file  # noqa: E402
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # noqa: E402
from training import checkpoint  # noqa: E402
from training.augment import LabelError, Transform  # noqa: E402
from training.config import ConfigError, load  # noqa: E402
from training.data import Order, Samples, check_classes, derive, open_source, steps_per_epoch, validation_order  # noqa: E402
from training.evaluation import confusion, hits, mean_iou  # noqa: E402
from training.log import Log  # noqa: E402
from training.loop import train  # noqa: E402
from training.model import TokenModel  # noqa: E402
from training.optimizer import factor, make_optimizer, make_scheduler  # noqa: E402
from training.parallel import distribute  # noqa: E402
from training.run import Run  # noqa: E402
from training.shards import Shards  # noqa: E402

import dhvt_kernels as dk  # noqa: E402

MINI = CONFIGS / "mini_classification.yaml"
DENSE = CONFIGS / "mini_segmentation.yaml"


@pytest.fixture(autouse=True)
def _one_run():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    AcceleratorState._reset_state(True)


def mini(*changes):
    return load(MINI, changes, "classification")


# Configuration


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("model.nam=x", "model.nam: Key 'nam' not in 'Model'"),
        ("optimiser.lr=1", "optimiser: Key 'optimiser' not in 'Config'"),
        ("optimizer.lr=fast", "optimizer.lr: Value 'fast' of type 'str' could not be converted to Float"),
        ("train.batch_size=2.5", "train.batch_size: Value '2.5'"),
        ("model.max_tokens=0", "model.max_tokens: expected at least 1; found 0"),
        ("train.steps=3", "train.epochs, train.steps: expected one of them; found"),
        ("data.format=zip", "data.format: expected folder or webdataset or huggingface; found 'zip'"),
        ("data.format=ade20k", "data.format: expected"),
        ("train.precision=fp8", "train.precision: expected no or bf16; found 'fp8'"),
        ("train.ema=1", "train.ema: expected a decay in"),
        ("data", "--set: expected KEY=VALUE; found 'data'"),
        ("model.options=[", "--set: expected values of YAML; found"),
        ("model.weights=none.pth", "model.weights: expected a file that exists; found 'none.pth'"),
        ("model.attention=foo", "model.attention: expected auto or mask or"),
        ("model.tokenizer.cel=3", "model.tokenizer.cel: expected an argument of dk.Tokenizer (leaves, cell, "),
        ("model.image_size=0", "model.image_size: expected at least 1 pixel; found 0"),
        ("data.workers=-1", "data.workers: expected at least 0; found -1"),
        ("train.seed=-1", "train.seed: expected at least 0; found -1"),
        ("optimizer.lr=-1", "optimizer.lr: expected a number of at least 0; found -1.0"),
        ("optimizer.lr=nan", "optimizer.lr: expected a number of at least 0; found nan"),
        ("augment.scale=[1,0.1]", "augment.scale: expected two numbers above 0, least and most; found [1.0, 0.1]"),
    ],
)
def test_a_bad_key_or_value_is_named(change, said):
    with pytest.raises(ConfigError) as error:
        mini(change)
    assert said in str(error.value)


def test_a_file_that_is_no_configuration(tmp_path):
    bad = tmp_path / "bad.yaml"
    for content, said in (
        (b"a: [", "expected a YAML file in UTF-8; found while parsing"),
        (b"- a\n", "expected keys with values; found a list"),
        ("a: \u00e9".encode("latin-1"), "expected a YAML file in UTF-8; found 'utf-8' codec"),
    ):
        bad.write_bytes(content)
        with pytest.raises(ConfigError) as error:
            load(bad, [], "classification")
        assert said in str(error.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["augment.randaugment=5"], r"augment.randaugment: expected 0 for segmentation; found 5"),
        (["augment.erase=0.5"], r"augment.erase: expected 0 for segmentation"),
        (["model.encoder_weights=none"], r"model.encoder_weights: expected a file that exists; found 'none'"),
        (["model.tokenizer.cell=0"], r"model.tokenizer: cell: "),
        (["model.layers=[0]"], r"model.layers: expected \[-1\] with the head linear"),
        (["model.head=upernet", "model.layers=[0,0,0,0]"], r"model.layers: .*the last one among them; found"),
        (["model.head=upernet", "model.layers=[0,0,1,7]"], r"model.layers: expected for the head upernet four of"),
    ],
)
def test_what_segmentation_cannot_take(changes, said):
    with pytest.raises(ConfigError, match=said):
        TokenModel(load(DENSE, changes, "segmentation"))


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_weights_that_are_damaged_are_named(tmp_path, suffix):
    damaged = tmp_path / f"weights.{suffix}"
    damaged.write_bytes(b"not a state dict")
    with pytest.raises(ConfigError, match=r"model\.weights: "):
        TokenModel(load(MINI, [f"model.weights={damaged}"], "classification"))
    changes = ["model.encoder=conv", f"model.encoder_weights={damaged}"]
    with pytest.raises(ConfigError, match=r"model\.encoder_weights: expected those of pretrain_encoder\.py"):
        TokenModel(load(MINI, changes, "classification"))


def test_a_bad_file_ends_the_script_with_its_error(tmp_path, capsys):
    bad = tmp_path / "bad.yaml"
    bad.write_text(MINI.read_text() + "colour: red\n")
    for path, said in ((bad, "colour: Key 'colour' not in 'Config'"), (tmp_path / "none.yaml", "none.yaml")):
        with pytest.raises(SystemExit, match="2"):
            train_classification.main([str(path)])
        assert said in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        train_segmentation.main([str(MINI)])
    assert "expected segmentation, which this script trains; found 'classification'" in capsys.readouterr().err
    bad.write_text(MINI.read_text().replace("  classes: 2\n", ""))
    with pytest.raises(SystemExit, match="2"):
        train_classification.main([str(bad)])
    assert "model.classes" in capsys.readouterr().err


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_published_tables(path):
    config = load(path, [], "segmentation" if "ade20k" in path.stem or "seg" in path.stem else "classification")
    name, _, weights = config.model.name.partition(".")
    assert timm.is_model(name)
    assert config.model.pretrained == (not path.stem.startswith("mini"))
    if config.model.pretrained:
        assert timm.get_pretrained_cfg(config.model.name) is not None, weights
        assert "VisionTransformer" in type(timm.create_model(name, depth=1, embed_dim=64, num_heads=2)).__name__


# Data


def samples(config, root, training=True):
    source = open_source(config, training)
    return Samples(source, Transform(config, training, (0.5,) * 3, (0.5,) * 3), 0, replace=training)


def test_a_corrupt_image_is_replaced_by_the_next_good_one(tmp_path):
    root = mini_data.class_folders(tmp_path / "train", 5)
    names = mini_data.corrupt(root)
    config = mini(f"data.train={root}", f"data.val={root}")
    found = samples(config, root)
    for index in range(10):
        sample = found[0, index]
        corrupt = found.source.name(index) in names
        assert [name.split(": ")[0] for name in sample.skipped] == [found.source.name(index)] * corrupt
        assert sample.valid
        assert sample.image.shape == (3, 32, 32)
    bad = [found.source.name(index) for index in range(10)].index(names[0])
    torch.testing.assert_close(found[3, bad].image, found[3, bad].image, rtol=0, atol=0)
    assert not torch.equal(found[3, bad].image, found[4, bad].image), "another crop in another epoch"
    evaluation = samples(config, root, training=False)
    assert not evaluation[0, bad].valid
    assert evaluation[0, bad].skipped


def test_other_classes_in_validation_are_an_error(tmp_path):
    root = mini_data.class_folders(tmp_path / "train", 2)
    mini_data.class_folders(tmp_path / "val", 2).joinpath("coffee").rename(tmp_path / "val" / "tea")
    config = mini(f"data.train={root}", f"data.val={tmp_path}/val")
    with pytest.raises(ConfigError, match=r"data.val: .* found them without coffee, and with tea besides"):
        train(config)
    place = mini_data.hugging_face(tmp_path / "data", 1)
    config = mini("data.format=huggingface", f"data.train={place}", f"data.val={place}")
    source, held_out = open_source(config, True), open_source(config, False)
    check_classes(source, held_out)
    held_out.classes = held_out.classes[::-1]
    with pytest.raises(ConfigError, match="in another order"):
        check_classes(source, held_out)


def test_validation_that_cannot_be_read_is_an_error(tmp_path, capsys):
    root = mini_data.class_folders(tmp_path / "train", 2)
    for path in mini_data.class_folders(tmp_path / "val", 1).rglob("*.jpg"):
        path.write_text("no image")
    run = [f"data.train={root}", f"data.val={tmp_path}/val", f"train.output={tmp_path}/run", "train.epochs=1"]
    with pytest.raises(ConfigError, match=r"data.val: expected images; none can be read, 2 are corrupt"):
        train(mini(*run))
    assert "coffee_0.jpg: cannot identify" in capsys.readouterr().out


def test_only_corrupt_images_are_an_error(tmp_path):
    root = mini_data.class_folders(tmp_path / "train", 2)
    for path in root.rglob("*.jpg"):
        path.write_text("no image")
    with pytest.raises(RuntimeError, match=r"4 in a row are corrupt, the last: .*cannot identify image file"):
        samples(mini(f"data.train={root}"), root)[0, 0]


def test_bad_folders(tmp_path):
    root = mini_data.class_folders(tmp_path / "train", 1)
    for changes, said in (
        ([f"data.train={tmp_path}/none"], "expected a folder with one folder per class; found none at"),
        ([f"data.train={root}", "model.classes=3"], r"expected as many as the folders in .*, 2; found 3"),
        (["data.format=webdataset", f"data.train={tmp_path}/a.tar"], "shards on a local disk; found no file"),
        (
            ["data.format=huggingface", f"data.train={tmp_path}/none"],
            "expected a Hugging Face data set at .*; found none",
        ),
    ):
        with pytest.raises(ConfigError, match=said):
            open_source(mini(*changes), True)
    with pytest.raises(ConfigError, match=r"expected at most the 2 training images; found 4"):
        steps_per_epoch(open_source(mini(f"data.train={root}"), True), mini())
    (root / "coffee" / "coffee_0.jpg").unlink()
    (root / "astronaut" / "astronaut_0.jpg").unlink()
    with pytest.raises(ConfigError, match="expected images; found none at"):
        open_source(mini(f"data.train={root}"), True)
    place = mini_data.ade20k(tmp_path / "ade", 1)
    (place / "annotations" / "training" / "coffee_0.png").unlink()
    with pytest.raises(ConfigError, match=r"1 are missing, such as .*coffee_0\.png"):
        open_source(load(DENSE, [f"data.train={place}"], "segmentation"), True)


def test_labels_of_ade20k(tmp_path):
    place = mini_data.ade20k(tmp_path, 1)
    config = load(DENSE, [f"data.train={place}", f"data.val={place}"], "segmentation")
    label = samples(config, place, training=False)[0, 0].label
    stored = np.array(Image.open(place / "annotations" / "validation" / "astronaut_1.png")).astype(int)
    assert (label.numpy() == np.where(stored == 0, 255, stored - 1)).all()
    assert (label[:5] == 255).all()
    cropped = samples(config, place)[0, 0]
    assert cropped.image.shape == (3, 48, 48)
    assert cropped.label.shape == (48, 48)
    too_few = load(DENSE, [f"data.train={place}", "model.classes=2"], "segmentation")
    with pytest.raises(LabelError, match=r"expected labels below model.classes = 2, or ignored ones; found 2"):
        samples(too_few, place)[0, 0]
    Image.new("L", (10, 10)).save(place / "annotations" / "training" / "astronaut_0.png")
    assert "expected labels of the image's size" in samples(config, place)[0, 0].skipped[0]


def test_image_and_labels_are_cropped_together(tmp_path):
    """The label of a pixel tells its brightness: the crop of the one is that of the other."""
    place = mini_data.pairs(tmp_path / "pairs", 2)
    changes = [f"data.train={place}", "data.format=pairs", "data.reduce_zero_label=false", "augment.jitter=0"]
    found = samples(load(DENSE, changes, "segmentation"), place)
    for epoch in range(5):
        sample = found[epoch, 0]
        bright = (sample.image.mean(0) + 1) / 2 * 255
        inside = sample.label != 255
        assert bright[inside & (sample.label == 2)].mean() > 150
        assert bright[inside & (sample.label == 0)].mean() < 90


def test_processes_share_the_order(tmp_path):
    source = open_source(mini(f"data.train={mini_data.class_folders(tmp_path / 'train', 6)}"), True)
    config = mini()  # 4 a step, accumulated twice: 3 steps an epoch

    def keys(start, process, processes):
        return list(Order(source, config, start, 9, process, processes))

    whole = keys(0, 0, 1)
    assert len(whole) == 2 * 9
    for epoch in range(3):
        rows = [key for batch in whole[6 * epoch : 6 * epoch + 6] for key in batch]
        assert sorted(rows) == [(epoch, index) for index in range(12)]
    assert whole[:6] != [[(0, index) for _, index in batch] for batch in whole[6:12]], "another order in each epoch"
    assert keys(4, 0, 1) == whole[8:], "resumed"
    halves = [keys(0, process, 2) for process in (0, 1)]
    assert [first + second for first, second in zip(*halves, strict=True)] == whole
    with pytest.raises(ConfigError, match=r"expected a multiple of processes x train.accumulate = 6; found 4"):
        keys(0, 0, 3)


def test_seeds_differ():
    numbers = [(purpose, *rest) for purpose in (1, 2) for rest in ((), (0,), (3,), (3, 0), (3, 0, 0), (0, 3))]
    assert len({derive(*each) for each in numbers}) == len(numbers)


def test_evaluation_sees_every_sample_once():
    parts = [validation_order(7, 2, process, 3) for process in range(3)]
    assert {len(part) for part in parts} == {2}
    indices = [index for part in parts for batch in part for _, index in batch]
    assert sorted(index for index in indices if index >= 0) == list(range(7))


def test_shards(tmp_path):
    pattern = mini_data.shards(tmp_path / "shards", 3)
    source = Shards(pattern, segmentation=False)
    for index, (label, name, image) in enumerate(mini_data.crops(3)):
        found, found_label = source.read(index)
        assert found_label == label
        assert found.size == image.size
        assert source.name(index).endswith(name)
    assert sorted(source.order(np.random.default_rng(0))) == list(range(6))
    cut = tmp_path / "shards" / "shard-001.tar"
    cut.write_bytes(cut.read_bytes()[:5000])
    with pytest.warns(UserWarning, match="ends in the middle of a sample, after 1"):
        rest = Shards(pattern, segmentation=False)
    assert len(rest) == 4
    with tarfile.open(tmp_path / "odd.tar", "w") as archive:
        archive.add(MINI, "a.jpg")
    with pytest.raises(ConfigError, match=r"expected an image and one of cls; .* has of a only jpg"):
        Shards(str(tmp_path / "odd.tar"), segmentation=False)
    cut.write_text("no tar")
    with pytest.raises(ConfigError, match="expected a tar file, not compressed"):
        Shards(pattern, segmentation=False)


def test_a_shard_whose_first_sample_has_more_files(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name in ("a.jpg", "a.cls", "a.json", "b.jpg", "b.cls"):
            archive.add(MINI, name)
    assert len(Shards(str(tmp_path / "a.tar"), segmentation=False)) == 2


def test_shards_of_labels(tmp_path):
    source = Shards(mini_data.shards(tmp_path / "shards", 1, segmentation=True), segmentation=True)
    for index, (_, _, image) in enumerate(mini_data.crops(1)):
        assert (np.array(source.read(index)[1]) == np.array(mini_data.labels_of(image))).all()


# Checkpoints


def state(value=1.0):
    return {"architecture": "A", "weights": torch.full((10_000,), value)}


def load_value(folder):
    return float(checkpoint.load_last(folder, "A")["weights"][0])


def test_checkpoints_are_kept_and_found(tmp_path):
    assert checkpoint.load_last(tmp_path / "none", "A") is None
    for step in (9, 10, 100):
        checkpoint.save(tmp_path, step, state(step), keep=2)
    assert [path.name for path in checkpoint.found(tmp_path)] == ["step_00000010", "step_00000100"]
    assert load_value(tmp_path) == 100
    damaged = tmp_path / "step_00000100" / checkpoint.STATE
    damaged.write_bytes(damaged.read_bytes()[:1000])
    with pytest.warns(UserWarning, match="cannot be read, trying the one before"):
        assert load_value(tmp_path) == 10
    checkpoint.save(tmp_path, 20, state(20), keep=2, loaded=10)
    assert [path.name for path in checkpoint.found(tmp_path)] == [f"step_{step:08d}" for step in (10, 20, 100)]
    checkpoint.save(tmp_path, 20, state(21), keep=2, loaded=20)
    checkpoint.save(tmp_path, 100, state(101), keep=2, loaded=10)
    assert load_value(tmp_path) == 101
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["step_00000020", "step_00000100"]
    assert float(torch.load(tmp_path / "step_00000020" / checkpoint.STATE)["weights"][0]) == 20, (
        "the one that was loaded"
    )


def test_a_checkpoint_of_another_model_names_both(tmp_path, capsys):
    root = mini_data.class_folders(tmp_path / "photos", 2)
    run = [str(MINI), "--set", f"data.train={root}", f"data.val={root}", f"train.output={tmp_path}/run"]
    train_classification.main([*run, "train.epochs=1"])
    AcceleratorState._reset_state(True)
    train_classification.main([*run, "train.epochs=2", "optimizer.clip=2.0"])
    assert "goes on after step 1; optimizer.clip: 1.0 -> 2.0; train.epochs: 1 -> 2" in capsys.readouterr().out
    AcceleratorState._reset_state(True)
    with pytest.raises(SystemExit) as error:
        train_classification.main([*run, "model.options.embed_dim=48"])
    assert "expected a checkpoint of vit_tiny_patch16_224, 2 classes" in str(error.value)
    assert "embed_dim=48" in str(error.value)
    assert "embed_dim=32" in str(error.value)


def run_of(*changes, steps=0):
    """After so many steps with gradients of 1."""
    config, accelerator = mini(*changes), Accelerator(cpu=True)
    model, ema = distribute(accelerator, TokenModel(config), config.train)
    optimizer = make_optimizer(model, config)
    run = Run(config, accelerator, model, ema, optimizer, make_scheduler(optimizer, config.optimizer, 10))
    for _ in range(steps):
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        run.scheduler.step()
        run.step += 1
    return run


def test_a_resumed_run_takes_the_optimizer_of_its_configuration():
    state = run_of(steps=3).state()
    new = ["optimizer.lr=2e-5", "optimizer.weight_decay=0.2", "optimizer.betas=[0.8,0.9]", "optimizer.layer_decay=0.5"]
    run, fresh = run_of(*new), run_of(*new, steps=3)
    run.restore(state)
    for _ in range(2):
        for group, expected in zip(run.optimizer.param_groups, fresh.optimizer.param_groups, strict=True):
            for key in ("lr", "weight_decay", "betas", "initial_lr", "lr_scale"):
                assert group[key] == expected[key]
        run.scheduler.step()
        fresh.scheduler.step()
    assert {float(value["step"]) for value in run.optimizer.state.values()} == {3}, "the moments of the checkpoint"


def test_an_average_that_is_turned_on_starts_from_the_restored_weights():
    trained, run = run_of("train.ema=0", steps=1), run_of("train.ema=0.9")
    run.restore(trained.state())
    torch.testing.assert_close(run.weights(), trained.weights(), rtol=0, atol=0)


class _Killer:
    """Ends the process while it is written."""

    def __reduce__(self):
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_kill_while_saving_leaves_the_last_good_one(tmp_path):
    checkpoint.save(tmp_path, 1, state(1), keep=1)
    child = os.fork()
    if child == 0:
        checkpoint.save(tmp_path, 2, {**state(2), "more": _Killer()}, keep=1)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    assert list(tmp_path.glob(".saving_*")), "killed in the middle"
    assert load_value(tmp_path) == 1
    checkpoint.save(tmp_path, 2, state(2), keep=1)
    assert [path.name for path in tmp_path.iterdir()] == ["step_00000002"]


def test_a_full_disk_leaves_the_last_good_one(tmp_path):
    checkpoint.save(tmp_path, 1, state(1), keep=1)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))  # a file that cannot grow
    try:
        with pytest.raises(checkpoint.CheckpointError, match=r"step 2 .*; the last good one is .*step_00000001"):
            checkpoint.save(tmp_path, 2, state(2), keep=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.name for path in tmp_path.iterdir()] == ["step_00000001"]
    assert load_value(tmp_path) == 1


def test_training_goes_on_without_a_checkpoint(tmp_path, monkeypatch, capsys):
    """The disk is full at the first save; at the last one it would be an error."""
    root = mini_data.class_folders(tmp_path / "photos", 4)
    run = [str(MINI), "--set", f"data.train={root}", f"data.val={root}", f"train.output={tmp_path}/run"]
    write, full = torch.save, [True, False]

    def save(*arguments):
        if full.pop(0):
            raise OSError(errno.ENOSPC, "No space left on device")
        write(*arguments)

    monkeypatch.setattr(torch, "save", save)
    train_classification.main(run)
    assert "training goes on without this checkpoint" in capsys.readouterr().out
    assert [path.name for path in checkpoint.found(tmp_path / "run" / "checkpoints")] == ["step_00000004"]
    AcceleratorState._reset_state(True)
    full[:] = [True]
    with pytest.raises(SystemExit, match=r"cannot save the checkpoint of step 6 .* No space left on device"):
        train_classification.main([*run, "train.epochs=3"])


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # of TensorBoard's own thread
def test_a_full_disk_costs_figures_not_the_run(tmp_path, capsys):
    log, limits = Log(tmp_path, 0), resource.getrlimit(resource.RLIMIT_FSIZE)
    log.write("train", {"loss": 1.0}, 1)
    log.flush()
    resource.setrlimit(resource.RLIMIT_FSIZE, (60, limits[1]))  # a file that cannot grow
    try:
        for step in (2, 3):
            log.write("train", {"loss": 2.0}, step)
            log.flush()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    log.write("train", {"loss": 4.0}, 4)
    log.close()
    assert capsys.readouterr().out.count("figures cannot be logged in") == 1
    events = EventAccumulator(str(tmp_path)).Reload()
    assert {1, 4} <= {event.step for event in events.Scalars("train/loss")}


def test_results_that_cannot_be_written(tmp_path):
    root = mini_data.class_folders(tmp_path / "photos", 2)
    (tmp_path / "run" / "model.safetensors").mkdir(parents=True)
    run = [str(MINI), "--set", f"data.train={root}", f"data.val={root}", f"train.output={tmp_path}/run"]
    with pytest.raises(SystemExit, match=r"cannot write the results in .*: .*the checkpoint of step 1 is whole"):
        train_classification.main([*run, "train.epochs=1"])


def test_no_checkpoint_of_weights_that_are_not_finite(tmp_path):
    root = mini_data.class_folders(tmp_path / "photos", 4)
    run = [str(MINI), "--set", f"data.train={root}", f"data.val={root}", f"train.output={tmp_path}/run"]
    with pytest.raises(SystemExit, match=r"the (loss is nan|weights are not finite) at step \d"):
        train_classification.main([*run, "optimizer.lr=1e30", "optimizer.clip=0", "train.epochs=4"])
    for path in checkpoint.found(tmp_path / "run" / "checkpoints"):
        weights = torch.load(path / checkpoint.STATE, weights_only=True)["model"]
        assert all(value.isfinite().all() for value in weights.values())


# Model, optimizer, figures


def test_groups_of_the_optimizer():
    config = mini(
        "model.encoder=conv", "model.tokenizer.noise=0.1", "optimizer.new_lr_scale=2", "model.options.depth=3"
    )
    model = TokenModel(config)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    rates, decays = {}, {}
    for group in make_optimizer(model, config).param_groups:
        for parameter in group["params"]:
            assert id(parameter) not in rates
            name = names[id(parameter)]
            rates[name], decays[name] = group["lr"] / config.optimizer.lr, group["weight_decay"]
    assert rates.keys() == set(names.values())
    assert rates["network.model.head.weight"] == 1
    for block in range(3):
        assert rates[f"network.model.blocks.{block}.mlp.fc1.weight"] == pytest.approx(0.75 ** (3 - block))
    assert rates["network.model.patch_embed.proj.weight"] == pytest.approx(0.75**4)
    assert {rates[name] for name in ("network.mix", "network.filler", "network.injection.weight")} == {2}
    assert {rates[name] for name in rates if "tokenizer" in name} == {2}
    assert {decays[name] for name in ("network.mix", "network.filler", "network.model.pos_embed")} == {0}
    assert decays["network.injection.weight"] == decays["network.model.head.weight"] == 0.05


def test_schedules():
    settings = mini("optimizer.warmup=0.1", "optimizer.end=0.1").optimizer
    values = [factor(settings, step, 100) for step in range(101)]
    assert values[:10] == pytest.approx([(step + 1) / 11 for step in range(10)])
    assert values[10] == 1
    assert values[55] == pytest.approx(0.55)
    assert values[100] == pytest.approx(0.1)
    assert values[10:] == sorted(values[10:], reverse=True)
    poly = mini("optimizer.schedule=poly", "optimizer.warmup=0", "optimizer.power=2").optimizer
    assert factor(poly, 50, 100) == pytest.approx(0.25)


def test_weights_of_a_file(tmp_path):
    """Those of another image size and head fit: positions are interpolated, the head is new."""
    small = timm.create_model(
        "vit_tiny_patch16_224", img_size=48, num_classes=7, patch_size=8, embed_dim=32, depth=2, num_heads=2
    )
    torch.save(small.state_dict(), tmp_path / "vit.pth")
    vit = TokenModel(mini(f"model.weights={tmp_path}/vit.pth")).vit.model
    torch.testing.assert_close(vit.blocks[1].mlp.fc1.weight, small.blocks[1].mlp.fc1.weight)
    assert vit.head.weight.shape == (2, 32)
    assert vit.pos_embed.shape == (1, 17, 32)


def test_weights_of_a_pretrained_encoder(tmp_path):
    encoder = dk.ConvEncoder()
    save_file({f"features.{key}": value for key, value in encoder.state_dict().items()}, tmp_path / "encoder")
    changes = ["model.encoder=conv", "model.tokenizer.noise=0.1", f"model.encoder_weights={tmp_path}/encoder"]
    loaded = TokenModel(mini(*changes)).vit.tokenizer.features
    torch.testing.assert_close(loaded.state_dict(), encoder.state_dict(), rtol=0, atol=0)
    with pytest.raises(ConfigError, match=r"model.encoder_weights: expected none with encoder lab"):
        mini(f"model.encoder_weights={tmp_path}/encoder")


def test_regularizer_needs_something_to_learn():
    with pytest.raises(ConfigError, match=r"train.regularizer: expected 0 with model.encoder=lab"):
        TokenModel(mini("train.regularizer=0.1"))


def test_bfloat16(tmp_path):
    root = mini_data.class_folders(tmp_path / "photos", 2)
    run = [str(MINI), "--set", f"data.train={root}", f"data.val={root}", f"train.output={tmp_path}/run"]
    assert train_classification.main([*run, "train.precision=bf16", "train.epochs=1"])["images"] == 4


def test_figures():
    logits = torch.eye(7)[[3, 0, 5]] + torch.arange(7) / 10
    assert hits(logits, torch.tensor([3, 1, 4])).tolist() == [[1, 1], [0, 0], [0, 1]]
    labels = torch.tensor([[[0, 0, 1, 255]]])
    predicted = torch.nn.functional.one_hot(torch.tensor([[[0, 1, 1, 0]]]), 3).permute(0, 3, 1, 2).float()
    matrix = confusion(predicted, labels)[0].reshape(3, 3)
    assert matrix.tolist() == [[1, 1, 0], [0, 1, 0], [0, 0, 0]]
    assert mean_iou(matrix) == pytest.approx(50), "two classes of 1/2; the third occurs nowhere"
