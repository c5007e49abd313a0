"""`benchmarks.experiments`: every table runs on a miniature set, goes on after a stop, and measures what it says."""

import json
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest
import skimage.data
import torch
import vits
from PIL import Image

from benchmarks.experiments import __main__ as program
from benchmarks.experiments import data, frozen, measures, plans, run

TINY = {"backbone": "vit_mini"}


def tiny(table, small):
    """The plan with two classes or scenes of few pixels, one seed, and a small backbone."""
    plan = plans.plan(table, small)
    size = (32, 48) if table == "table2" else (64, 64)
    entries = []
    for entry in plan.entries[:6]:  # of table1 one budget, and fixed patches at another
        options = dict(entry.options) if entry.system == "segformer" else {**entry.options, **TINY}
        if entry.system.endswith("upernet"):
            options["channels"] = 8
        scaled = size if entry.size == plan.size else (32, 32)
        tokens = None if entry.tokens is None else max(6, entry.tokens // 8)
        entries.append(replace(entry, size=scaled, tokens=tokens, options=options))
    recipe = replace(plan.recipe, epochs=1, batch=2)
    return replace(
        plan,
        entries=tuple(entries),
        recipe=recipe,
        size=size,
        seeds=2,
        classes=2,
        train=2,
        validation=2,
        device_batch=2,
    )


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two classes of four photographs, and four scenes with labels, in the forms of Caltech-101 and CamVid."""
    folder = tmp_path_factory.mktemp("data")
    pictures = [Image.fromarray(image) for image in (skimage.data.astronaut(), skimage.data.coffee())]
    for name, picture in zip(("astronaut", "coffee"), pictures, strict=True):
        (folder / "caltech" / name).mkdir(parents=True)
        for number in range(4):
            picture.crop((20 * number, 0, 300 + 20 * number, 300)).resize((90, 70)).save(
                folder / "caltech" / name / f"image_{number}.jpg"
            )
    for half in ("train", "val"):
        (folder / "camvid" / half).mkdir(parents=True)
        for number, picture in enumerate(pictures):
            picture.resize((96, 64)).save(folder / "camvid" / half / f"{number}.jpg")
            labels = np.full((64, 96), 3, np.uint8)
            labels[:20], labels[60:] = 0, 11
            Image.fromarray(labels).save(folder / "camvid" / half / f"{number}.png")
    return folder


@pytest.mark.parametrize("table", plans.TABLES)
def test_a_table_runs_and_tells_what_it_found(table, folders, tmp_path, monkeypatch):
    vits.library("timm")
    vits.library("transformers")
    monkeypatch.setattr(program, "plan", tiny)
    where = folders / ("camvid" if table == "table2" else "caltech")
    assert program.main([table, "--data", str(where), "--small", "--output", str(tmp_path)]) == 0
    record = json.loads((tmp_path / f"experiments_{table}_small.json").read_text())
    entries = tiny(table, True).entries
    assert record["done"]
    assert list(record["figures"]) == [entry.name for entry in entries]
    text = (tmp_path / f"experiments_{table}_small.md").read_text()
    for entry in entries:
        found = record["figures"][entry.name]
        assert len(found) == 2
        assert all(0 <= figures["miou" if table == "table2" else "top1"] <= 100 for figures in found)
        assert all(figures["tokens"] >= 1 for figures in found)
        assert record["clock"][entry.name]["backbone"] > 0
        assert (record["clock"][entry.name]["tokenizer"] > 0) == entry.system.startswith(("slic", "dhvt"))
        assert f"| {entry.name} |" in text
    if find_spec("matplotlib"):
        assert (tmp_path / f"experiments_{table}_small.png").stat().st_size > 10_000


def test_a_run_that_was_stopped_goes_on(folders, tmp_path):
    vits.library("timm")
    plan = tiny("depth", True)
    table, path, about = (
        run.Table(plan, folders / "caltech", None, torch.device("cpu")),
        tmp_path / "a.json",
        {"commit": "1"},
    )
    told = []

    def stop(line):
        told.append(line)
        if len(told) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run.run(table, path, about, stop)
    assert not json.loads(path.read_text())["done"]
    record = run.run(table, path, about, told.append)
    names = [line.split(":")[0] for line in told]
    assert names[0] == "depth 1"
    assert "depth 1" not in names[2:]
    assert list(record["figures"]) == [entry.name for entry in plan.entries]
    told.clear()
    run.run(table, path, {"commit": "2"}, told.append)  # another commit begins anew
    assert len(told) == 4


def test_seeds_decide_the_figures(folders):
    vits.library("timm")
    plan = tiny("table1", True)
    table = run.Table(plan, folders / "caltech", None, torch.device("cpu"))
    first, second = (
        {name: value for name, value in figures.items() if name != "mb"}
        for figures in (table.run(plan.entries[0])[1], table.run(plan.entries[0])[1])
    )
    assert first == second


def test_a_split_is_disjoint_and_balanced():
    targets = torch.arange(3).repeat_interleave(torch.tensor([10, 12, 20]))
    train, validation = data.split(targets, 4, 5, seed=0)
    assert not set(train.tolist()) & set(validation.tolist())
    assert targets[train].bincount().tolist() == [4, 4, 4]
    assert targets[validation].bincount().tolist() == [5, 5, 5]
    whole = data.split(targets, 0.8, 0.2, seed=1)
    assert sorted(torch.cat(whole).tolist()) == list(range(42))
    assert data.split(targets, 4, 5, seed=0)[0].equal(train)
    assert not data.split(targets, 4, 5, seed=1)[0].equal(train)


def test_void_is_left_out_and_the_sizes_are_as_asked(folders):
    train, _ = data.camvid(folders / "camvid", (32, 48))
    assert train.images.shape == (2, 3, 32, 48)
    assert train.targets.unique().tolist() == [0, 3, data.VOID]
    pictures = data.caltech101(folders / "caltech", 40, classes=2, number=3)
    assert pictures.images.shape == (6, 3, 40, 40)
    assert pictures.targets.tolist() == [0, 0, 0, 1, 1, 1]


def test_mean_iou_is_over_the_whole_set():
    targets = torch.tensor([[[0, 0, 1, 255]], [[1, 1, 1, 0]]])
    found = torch.tensor([[[0, 1, 1, 2]], [[1, 1, 0, 0]]])
    logits = torch.nn.functional.one_hot(found, 3).permute(0, 3, 1, 2).float()
    figures = measures.mean_iou([(logits[:1], targets[:1], [4.0]), (logits[1:], targets[1:], [8.0])])
    assert figures == pytest.approx({"miou": 100 * (2 / 4 + 3 / 5) / 2, "pixels": 500 / 7, "tokens": 6.0})


def test_the_linear_classifier_finds_what_is_separable():
    generator = torch.Generator().manual_seed(0)
    targets = torch.arange(40) % 4
    features = torch.eye(4)[targets] + 0.05 * torch.randn(40, 4, generator=generator)
    seen = [(row,) for row in features[:, None]]
    assert frozen.classify(seen, targets, torch.arange(20), torch.arange(20, 40)) == 100


@pytest.mark.parametrize("table", ["table1", "table2"])
def test_a_folder_without_data_says_how_to_get_it(table, tmp_path, capsys):
    assert program.main([table, "--data", str(tmp_path / "none"), "--small"]) == 2
    assert "It takes Ca" in capsys.readouterr().err


def test_weights_of_another_model_are_refused(folders, tmp_path, capsys, monkeypatch):
    vits.library("timm")
    monkeypatch.setattr(program, "plan", tiny)
    torch.save({"cls_token": torch.zeros(1, 1, 7)}, tmp_path / "w.pth")
    arguments = ["depth", "--data", str(folders / "caltech"), "--weights", str(tmp_path / "w.pth"), "--small"]
    assert program.main(arguments) == 2
    assert "weights: expected those of vit_mini" in capsys.readouterr().err
