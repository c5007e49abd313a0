"""The vector benchmark: its measures against hand-computed answers and scikit-image, and its whole chain."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("skimage")
pytest.importorskip("resvg_py")
from PIL import Image

from benchmarks import vectorize, vectorize_report, vectorize_times
from benchmarks import vectorize_measures as measures
from benchmarks.vectorize_methods import METHODS, Method

NAMESPACE = 'xmlns="http://www.w3.org/2000/svg"'


@pytest.fixture
def picture() -> np.ndarray:
    """A disc and a bar before a ramp, with a little noise, uint8 [48,64,3]."""
    y, x = np.mgrid[:48, :64]
    image = np.stack([2 * x, 3 * y, 100 + 0 * x], axis=-1)
    image[np.hypot(y - 20, x - 24) < 12] = (220, 40, 30)
    image[38:44, 8:56] = (250, 250, 240)
    noise = np.random.default_rng(0).integers(-2, 3, image.shape)
    return (image + noise).clip(0, 255).astype(np.uint8)


def runnable(method: Method) -> Method:
    if method.missing():
        pytest.skip(f"{method.package} is missing")
    return method


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("", 0),
        ("M0 0h4v4h-4z", 4),
        ("M0 0 4 0 4 4z", 3),  # lines after the first point
        ("m1.5.5-2-3 1e-1.5z", 3),  # numbers without separators
        ("M0,0C1,1 2,2 3,3 4 4 5 5 6 6S1 2 3 4Q1 2 3 4T5 6Z", 6),
        ("M0 0h1 2 3V5M1 1l2 2", 7),
    ],
)
def test_vertices(path: str, expected: int) -> None:
    assert measures.vertices(path) == expected


def test_unknown_commands_are_not_miscounted() -> None:
    with pytest.raises(KeyError):
        measures.vertices("M0 0a1 1 0 0 1 2 2")


def test_shapes() -> None:
    svg = f'<svg {NAMESPACE}><path d="M0 0h1v1z"/><g><path fill="red" d="M0 0L1 1"/></g><path/></svg>'
    assert measures.shapes(svg) == (3, 5)


def test_render_is_exact_and_over_white() -> None:
    svg = f'<svg {NAMESPACE} viewBox="0 0 4 2"><path fill="#123456" d="M0 0h2v2h-2z"/></svg>'
    expected = np.full((2, 4, 3), 255)
    expected[:, :2] = 0x12, 0x34, 0x56
    np.testing.assert_array_equal(measures.render(svg, 4, 2), expected)
    assert measures.render(svg, 8, 4).shape == (4, 8, 3)


def test_psnr_and_ssim_against_scikit_image(picture: np.ndarray) -> None:
    from skimage import metrics

    seen = (picture.astype(int) + np.random.default_rng(1).integers(-30, 31, picture.shape)).clip(0, 255)
    seen = seen.astype(np.uint8)
    assert measures.psnr(seen, picture) == pytest.approx(metrics.peak_signal_noise_ratio(picture, seen))
    grey = [np.asarray(Image.fromarray(image).convert("L"), float) for image in (picture, seen)]
    window = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    expected = metrics.structural_similarity(*grey, data_range=255, **window)
    assert 0.2 < expected < 0.95
    assert measures.ssim(seen, picture) == pytest.approx(expected)


def test_equal_pictures(picture: np.ndarray) -> None:
    assert measures.psnr(picture, picture) == pytest.approx(10 * math.log10(255**2 * 12))
    assert measures.ssim(picture, picture) == pytest.approx(1)


def test_interpolation() -> None:
    sizes, qualities = (100, 10, 1000), (20.0, 10.0, 40.0)
    assert measures.quality_at(100, sizes, qualities) == pytest.approx(20)
    assert measures.quality_at(10 * math.sqrt(10), sizes, qualities) == pytest.approx(15)
    assert measures.quality_at(10**2.25, sizes, qualities) == pytest.approx(25)
    assert measures.quality_at(10, sizes, qualities) == pytest.approx(10)
    assert measures.quality_at(9, sizes, qualities) is None
    assert measures.quality_at(1001, sizes, qualities) is None


def test_comparison_counts_what_lies_outside() -> None:
    def run(size: int, quality: float) -> measures.Run:
        return measures.Run(size, 1, 4, quality, 0.5)

    curve = [run(10, 10), run(1000, 40)]
    # Lost by 1 dB, won by 5; too small; larger than ours and worse; larger and better.
    peers = [run(100, 26), run(10, 5), run(9, 1), run(2000, 40), run(2000, 41)]
    found = vectorize_report.compare((curve, peer) for peer in peers)
    assert found.gains == pytest.approx([-1, 5])
    assert (found.outside, found.smaller) == (3, 1)
    assert str(found) == "1/2, +2.00 (-1.00); 3 outside, 1 better"


@pytest.mark.parametrize("least", [1, 2, 37, 100])
def test_least_bytes(least: int) -> None:
    asked = []

    def quality(budget: int) -> tuple[int, float]:
        asked.append(budget)
        return 10 * budget, 45.0 if budget >= least else 35.0

    assert vectorize.least_bytes(quality, 100) == 10 * least
    assert len(asked) <= 9
    assert vectorize.least_bytes(lambda budget: (budget, 39.9), 100) is None


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_methods_draw_the_picture(method: Method, picture: np.ndarray) -> None:
    runs = [measures.measure(svg, picture) for svg in map(runnable(method).prepare(picture), method.settings.values())]
    assert all(run.paths >= 1 and run.vertices >= 3 for run in runs)
    # More than the best single colour: it is the picture, the right way up and in the right place.
    flat = measures.psnr(np.broadcast_to(picture.mean((0, 1)).astype(np.uint8), picture.shape), picture)
    assert max(run.psnr for run in runs) > flat + 4


def test_finer_settings_are_better(picture: np.ndarray) -> None:
    for method in METHODS:
        if method.ours:
            runs = [measures.measure(svg, picture) for svg in map(method.prepare(picture), method.settings.values())]
            assert runs[-1].psnr > runs[0].psnr + 3
            assert runs[-1].bytes > runs[0].bytes


def test_potrace_by_package_is_as_by_command(picture: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("potrace")
    if shutil.which("potrace") is None:
        pytest.skip("no program potrace")
    for name in ("potrace", "potrace_polygon"):
        draw = next(method for method in METHODS if method.name == name).prepare(picture)
        seen = [measures.render(draw({"colors": 4}), 64, 48)]
        with monkeypatch.context() as patch:
            patch.setattr(shutil, "which", lambda name: None)
            seen.append(measures.render(draw({"colors": 4}), 64, 48))
        assert measures.psnr(*seen) > 40


def test_times(picture: np.ndarray) -> None:
    mine = METHODS[0]._replace(settings={"n = 8": {"max_tokens": 8}})
    found = vectorize_times.measure(picture, [mine], threads=1, rounds=1)
    assert set(found) == {"stages", mine.name}
    assert set(found["stages"]) == {"hierarchy", "cut", "svg", "trace"}
    assert all(value > 0 for of in found.values() for value in of.values())


@pytest.fixture
def emoji(tmp_path: Path) -> Path:
    folder = tmp_path / "emoji"
    folder.mkdir()
    for name, color in (("a", "red"), ("b", "blue"), ("c", "green"), ("d", "#ffcc4d")):
        body = f'<circle fill="{color}" cx="18" cy="18" r="12"/><path d="M12 20h12v4h-12z"/>'
        (folder / f"{name}.svg").write_text(f'<svg {NAMESPACE} viewBox="0 0 36 36">{body}</svg>')
    return folder


def test_pictures(emoji: Path) -> None:
    assert [path.stem for path in vectorize.find_emoji(emoji, 2)] == ["a", "c"]
    pictures = vectorize.find_pictures(None, emoji, None)
    assert [(picture.set, picture.name) for picture in pictures[3:6]] == [
        ("scikit-image", "rocket"),
        ("Twemoji", "a"),
        ("Twemoji", "b"),
    ]
    assert vectorize.load(pictures[0]).shape == (512, 512, 3)
    assert max(vectorize.load(pictures[3]).shape) == 512
    image = vectorize.load(pictures[4])
    assert image.shape == (512, 512, 3)
    assert image[0, 0].tolist() == [255, 255, 255]
    assert image[160, 256].tolist() == [255, 0, 0]


def test_whole_chain(emoji: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    quick = [METHODS[0]._replace(settings={f"n = {n}": {"max_tokens": n} for n in (4, 64)})]
    quick += [
        method._replace(settings=dict(list(method.settings.items())[:1]))
        for method in METHODS
        if method.name in ("stacked_polygon", "potrace_polygon") and not method.missing()
    ]
    monkeypatch.setattr(vectorize, "METHODS", quick)
    monkeypatch.setattr(vectorize, "SCIKIT_IMAGE", ())
    monkeypatch.setattr(vectorize, "SIDE", 64)
    monkeypatch.setattr(vectorize, "in_workers", map)
    output, plot = tmp_path / "results", tmp_path / "images" / "plot.png"
    arguments = ["--twemoji", str(emoji), "--images", "2", "--output", str(output), "--plot", str(plot)]
    assert vectorize.main(arguments) == 0
    record = json.loads((output / "vectorize.json").read_text())
    assert [picture["name"] for picture in record["pictures"]] == ["a", "c"]
    assert record["pictures"][0]["original"] == (emoji / "a.svg").stat().st_size
    assert set(record["times"]["1"]) == {"a", "c"}
    page = (output / "vectorize.md").read_text()
    for title in ("At equal bytes", "Emoji at 40 dB", "Times on 1 thread", "Twemoji"):
        assert f"## {title}" in page
    assert Image.open(plot).width > 400


@pytest.mark.parametrize("option", ["--bsds", "--twemoji"])
def test_bad_folders(option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder, what in ((tmp_path, "in this folder"), (tmp_path / "none", "no such folder")):
        assert vectorize.main([option, str(folder)]) == 2
        said = capsys.readouterr().err
        assert what in said
        assert len(said.splitlines()) == 1
    with pytest.raises(SystemExit):
        vectorize.main(["--images", "0"])
