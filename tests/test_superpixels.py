"""The quality benchmark: its measures against hand-computed answers and brute force, and its whole chain."""

import importlib.util
import json
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import superpixel_gallery, superpixel_report, superpixels
from benchmarks import superpixel_measures as measures
from benchmarks.superpixel_methods import METHODS, nearest

SEGMENTS = np.array([[0, 0, 1, 1], [0, 0, 1, 1]])
HUMAN = np.array([[5, 5, 5, 9], [5, 5, 5, 9]])


def random_maps(seed: int, height: int = 6, width: int = 7) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    image = generator.integers(0, 256, (height, width, 3), dtype=np.uint8)
    return image, generator.integers(0, 5, (height, width)), generator.integers(2, 6, (height, width))


def test_overlaps_by_hand() -> None:
    table = measures.overlaps(SEGMENTS, HUMAN)
    np.testing.assert_array_equal(table, [[4, 0], [2, 2]])
    assert measures.achievable_accuracy(table) == 6 / 8
    assert measures.undersegmentation(table) == 4 / 8  # the second segment leaks 2 pixels into either region


def test_boundaries_by_hand() -> None:
    np.testing.assert_array_equal(measures.boundary(SEGMENTS), [[0, 1, 0, 0]] * 2)
    np.testing.assert_array_equal(measures.boundary(np.array([[0, 0], [1, 1]])), [[1, 1], [0, 0]])
    point = np.zeros((7, 8), bool)
    point[1, 6] = True
    expected = np.zeros((7, 8), bool)
    expected[:4, 4:] = True
    np.testing.assert_array_equal(measures.dilated(point), expected)


def test_colors_by_hand() -> None:
    image = np.array([[[0, 0, 0], [4, 0, 0], [10, 0, 0], [10, 0, 0]]], np.uint8)
    labels = np.array([[3, 3, 7, 7]])
    np.testing.assert_array_equal(measures.mean_colors(image, labels)[0, :, 0], [2, 2, 10, 10])
    # Squared errors 4 + 4; around the mean of 6: 36 + 4 + 16 + 16.
    assert measures.explained_variation(image, 8) == pytest.approx(1 - 8 / 72)
    assert measures.peak_signal_to_noise(image, 8) == pytest.approx(10 * math.log10(255**2 * 12 / 8))


@pytest.mark.parametrize("seed", range(20))
def test_measures_against_brute_force(seed: int) -> None:
    image, labels, first = random_maps(seed)
    second = random_maps(seed + 100)[2]
    found = measures.Truth(image, np.stack([first, second])).measure(labels)
    pixels = [(y, x) for y in range(6) for x in range(7)]

    def edge(of: np.ndarray, y: int, x: int) -> bool:
        return any(a < 6 and b < 7 and of[a, b] != of[y, x] for a, b in ((y + 1, x), (y, x + 1)))

    def near(of: np.ndarray, y: int, x: int) -> bool:
        return any(edge(of, a, b) for a, b in pixels if abs(a - y) <= 2 and abs(b - x) <= 2)

    totals = dict.fromkeys(("ASA", "UE", "BR", "BP"), 0.0)
    for human in (first, second):
        for s in np.unique(labels):
            shares = [int(((labels == s) & (human == g)).sum()) for g in np.unique(human)]
            totals["ASA"] += max(shares) / 42
            totals["UE"] += sum(min(share, sum(shares) - share) for share in shares) / 42
        for name, of, other in (("BR", human, labels), ("BP", labels, human)):
            edges = [pixel for pixel in pixels if edge(of, *pixel)]
            totals[name] += sum(near(other, *pixel) for pixel in edges) / len(edges)
    means = {s: image[labels == s].astype(float).mean(0) for s in np.unique(labels)}
    error = sum(((image[p].astype(float) - means[labels[p]]) ** 2).sum() for p in pixels)
    spread = sum(((image[p].astype(float) - image.reshape(-1, 3).mean(0)) ** 2).sum() for p in pixels)
    expected = {name: 100 * total / 2 for name, total in totals.items()}
    expected |= {"EV": 100 * (1 - error / spread), "PSNR": 10 * math.log10(255**2 * image.size / error)}
    assert found == pytest.approx(expected)
    assert tuple(found) == measures.MEASURES


def test_perfect_and_plain_maps() -> None:
    image, _, human = random_maps(0)
    found = measures.Truth(image, human[None]).measure(human)
    assert (found["ASA"], found["UE"], found["BR"], found["BP"]) == (100, 0, 100, 100)
    plain = measures.Truth(np.full_like(image, 7), np.zeros((1, *human.shape), int)).measure(np.zeros_like(human))
    assert plain == {"ASA": 100, "UE": 0, "BR": 100, "BP": 100, "EV": 100, "PSNR": math.inf}


def test_count_tells_connected_from_not() -> None:
    assert superpixels.count(SEGMENTS) == {"segments": 2, "pieces": 2}
    assert superpixels.count(np.array([[0, 1], [1, 0]])) == {"segments": 2, "pieces": 4}


@pytest.mark.parametrize("power", [0.7, 1.0, 1.6])
def test_nearest_finds_the_budget(power: float) -> None:
    found = nearest((50, 100, 400), lambda asked: np.arange(1000) % max(1, round(0.7 * asked**power)))
    counts = [len(np.unique(labels)) for labels in found]
    assert counts == pytest.approx([50, 100, 400], rel=0.031)


def test_nearest_takes_the_best_of_what_there_is() -> None:
    (labels,) = nearest((100,), lambda asked: np.arange(1000) % (60 if asked < 130 else 130))
    assert len(np.unique(labels)) == 130


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_methods_divide_every_pixel(method) -> None:
    if method.missing():
        pytest.skip(f"{method.package} is not installed")
    image = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    image[10:40, 20:60] = (200, 30, 30)
    maps = method.divide(image, (8, 24))
    assert [labels.shape for labels in maps] == [(60, 90)] * 2
    assert all(labels.min() >= 0 for labels in maps)
    assert len(np.unique(maps[1])) >= len(np.unique(maps[0])) > 1
    if method.name in ("default", "pixels", "published"):
        assert len(np.unique(maps[0])) <= 8


def test_verdicts_are_computed() -> None:
    figures = {"pixels": {"ASA": [90.5, 93.29, 99.0, 96.2], "PSNR": [21.3, 22.35, 23.35, 24.35]}}
    found = list(superpixel_report.verdicts(figures, [50, 100, 200, 400]))
    assert [one.budget for one in found if not one.reached] == [100]
    default = {name: [0.0] * 4 for name in superpixel_report.TARGETS["default"]}
    reached = {one.measure for one in superpixel_report.verdicts({"default": default}, [1, 2, 3, 4]) if one.reached}
    assert reached == {"UE"}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two small pictures of known objects, as BSDS500 is stored here."""
    generator = np.random.default_rng(1)
    folder = tmp_path / "data"
    folder.mkdir()
    for number in range(2):
        human = np.zeros((80, 120), np.uint16)
        human[20:60, 30 + 20 * number : 90] = 1
        colors = np.array([[60, 120, 60], [220, 180, 40]])[human]
        picture = (colors + generator.normal(0, 8, colors.shape)).clip(0, 255).astype(np.uint8)
        Image.fromarray(picture).save(folder / f"{number}.jpg", quality=95)
        np.savez(folder / f"{number}.npz", segmentation=np.stack([human, human // 2]))
    return folder


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the only methods that are run."""
    methods = [method for method in METHODS if method.name in ("grid", "default")]
    monkeypatch.setattr(superpixels, "METHODS", methods)
    return [method.name for method in methods]


def test_the_whole_chain(data: Path, few: list[str], tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(superpixels.os, "cpu_count", lambda: 1)  # each worker imports torch
    output = tmp_path / "results"
    assert superpixels.main(["--data", str(data), "--output", str(output), "--images", "2"]) == 0
    record = json.loads((output / "superpixels.json").read_text())
    assert record["photographs"] == 2
    assert list(record["figures"]) == few
    of = record["figures"]["default"]
    assert of["segments"] == of["pieces"]
    assert of["segments"][0] <= 50
    assert of["ASA"][0] > 99
    assert record["figures"]["grid"]["ASA"][0] < of["ASA"][0]
    page = (output / "superpixels.md").read_text()
    assert "## 400 segments" in page
    assert "/ 90.5 reached" in page
    assert (output / "superpixels_curves.png").exists() == bool(importlib.util.find_spec("matplotlib"))
    assert "figures reached" in capsys.readouterr().out


def test_interrupted_keeps_what_was_measured(data: Path, few: list[str], tmp_path: Path, monkeypatch, capsys) -> None:
    def one_then_stop(paths, methods):
        yield superpixels.measure(paths[0], methods)
        raise KeyboardInterrupt

    monkeypatch.setattr(superpixels, "measure_all", one_then_stop)
    assert superpixels.main(["--data", str(data), "--output", str(tmp_path)]) == 1
    said = capsys.readouterr().err.splitlines()  # then perhaps that matplotlib is missing
    assert said[0] == "interrupted; the figures of the first 1 of 2 photographs are kept."
    assert json.loads((tmp_path / "superpixels.json").read_text())["photographs"] == 1


@pytest.mark.parametrize("folder", ["", "nowhere"])
def test_without_data(tmp_path: Path, capsys: pytest.CaptureFixture[str], folder: str) -> None:
    assert superpixels.main(["--data", str(tmp_path / folder)]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert "BSDS500" in message


def test_a_missing_peer_is_named(capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    absent = METHODS[2]._replace(module="no_such_module.at_all")
    monkeypatch.setattr(superpixels, "METHODS", (METHODS[0], absent))
    assert superpixels.available(superpixels.Console(stderr=True, soft_wrap=True)) == [METHODS[0]]
    assert "pip install opencv-contrib-python-headless" in capsys.readouterr().err


def test_humans_of_another_size_are_refused(data: Path) -> None:
    np.savez(data / "0.npz", segmentation=np.zeros((2, 8, 8), np.uint16))
    with pytest.raises(ValueError, match=r"0\.npz: expected `segmentation`"):
        superpixels.load_truth(data / "0.jpg")


def test_gallery(tmp_path: Path) -> None:
    methods = [method for method in METHODS if method.name in ("grid", "default")]
    image = superpixel_gallery.fitted(np.random.default_rng(0).integers(0, 256, (150, 260, 3), dtype=np.uint8))
    assert image.shape == (200, 300, 3)
    outlined, painted = superpixel_gallery.sheets(methods, [image])
    assert len(outlined[0]) == len(painted[0]) == 3
    page = superpixel_gallery.sheet(outlined, ["a", "b", "c"])
    np.testing.assert_array_equal(np.array(page)[27:227, 6:306], image)
