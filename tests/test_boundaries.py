"""The boundary benchmark: matching and F-measure against hand-computed answers and another solver, and its chain."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import boundaries
from benchmarks import boundary_measures as measures

pytest.importorskip("skimage")
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching

SHAPE = (120, 160)  # a diagonal of 200: pixels match up to 1.5


def human(column: int = 80) -> np.ndarray:
    """Two regions side by side."""
    return np.broadcast_to(np.arange(SHAPE[1]) > column, SHAPE).astype(int)


def strength(column: int = 80, value: float = 5) -> np.ndarray:
    return np.where(np.arange(SHAPE[1]) == column, value, 0.0) * np.ones(SHAPE)


@pytest.mark.parametrize(("column", "expected"), [(80, 1), (81, 1), (79, 1), (82, 0)])
def test_a_line_matches_up_to_the_distance(column: int, expected: int) -> None:
    counts = measures.compare(strength(column), human()[None], np.array([1.0, 5.0]))
    height = SHAPE[0]
    assert counts.tolist() == [[expected * height, height, expected * height, height], [0, height, 0, 0]]
    assert measures.f_measure(counts).tolist() == [expected, 0]


def test_nothing_is_not_a_number() -> None:
    counts = measures.compare(np.zeros(SHAPE), np.zeros((1, *SHAPE), int), np.array([1.0]))
    assert counts.tolist() == [[0, 0, 0, 0]]
    assert measures.summary(counts[None]) == dict.fromkeys(("ODS", "OIS", "AP", "recall", "precision"), 0.0)


def test_several_annotators() -> None:
    # One drew the line of the map, one another, one nothing.
    humans = np.stack([human(80), human(40), np.zeros(SHAPE, int)])
    (counts,) = measures.compare(strength(), humans, np.array([1.0]))
    assert counts.tolist() == [120, 240, 120, 120]
    # Two drew it: every pixel of the map counts once.
    (counts,) = measures.compare(strength(), np.stack([human(80), human(81)]), np.array([1.0]))
    assert counts.tolist() == [240, 240, 120, 120]


def test_one_to_one() -> None:
    found, drawn = np.zeros((2, *SHAPE), bool)
    drawn[50, 60] = True
    found[49:52, 59:62] = True  # all within reach of the one pixel
    assert measures.Lines(drawn).matched(found).sum() == 1
    assert measures.Lines(found).matched(drawn).sum() == 1
    # The middle one could take either; as many pairs as possible means that it leaves the left one to its only partner.
    found, drawn = np.zeros((2, *SHAPE), bool)
    found[50, [60, 61]] = drawn[50, [61, 62]] = True
    assert measures.Lines(drawn).matched(found).sum() == 2


@pytest.mark.parametrize("seed", range(10))
def test_matching_against_another_solver(seed: int) -> None:
    generator = np.random.default_rng(seed)
    shape = [(60, 80), (12, 270), (7, 400)][seed % 3]  # reaches 0, 2 and 3
    found, drawn = generator.random((2, *shape)) < 0.02 * (1 + seed)
    reach = 0.0075 * np.hypot(*shape)
    left, right = np.argwhere(found), np.argwhere(drawn)
    near = ((left[:, None] - right) ** 2).sum(-1) <= reach**2
    expected = maximum_bipartite_matching(csr_array(near), perm_type="column") >= 0
    matched = measures.Lines(drawn).matched(found)
    assert matched.sum() == expected.sum()
    assert not (matched & ~found).any()
    assert near[matched[found]].any(1).all()


def test_summary_by_hand() -> None:
    # Two images whose best levels differ; columns: human pixels with a partner, all, map pixels with a partner, all.
    counts = np.array([[[10, 10, 10, 10], [5, 10, 5, 5]], [[10, 10, 10, 30], [8, 10, 8, 10]]])
    found = measures.summary(counts)
    # First level: recall 1, precision 1/2. Second: 13/20 and 13/15.
    assert found["ODS"] == pytest.approx(26 / 35)
    assert (found["recall"], found["precision"]) == pytest.approx((13 / 20, 13 / 15))
    assert found["OIS"] == pytest.approx(2 * 18 / 40)  # the first level of one, the second of the other
    recalls = np.arange(65, 101) / 100
    expected = (13 / 15 + (1 / 2 - 13 / 15) * (recalls - 0.65) / 0.35).sum() / 101
    assert found["AP"] == pytest.approx(expected)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Three small pictures of an object, as BSDS500 is stored here."""
    folder = tmp_path / "data"
    folder.mkdir()
    for number in range(3):
        drawn = np.zeros(SHAPE, np.uint16)
        drawn[30:90, 40 + 10 * number : 120] = 1
        picture = Image.fromarray(np.array([[60, 120, 60], [220, 180, 40]], np.uint8)[drawn])
        picture.save(folder / f"{number}.jpg", quality=95, subsampling=0)
        np.savez(folder / f"{number}.npz", segmentation=np.stack([drawn, drawn]))
    return folder


def test_the_whole_chain(data: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(boundaries, "LEVELS", np.array([1.0, 8.0]))
    monkeypatch.setattr(boundaries, "in_workers", map)  # each worker imports torch
    output = tmp_path / "results"
    assert boundaries.main(["--data", str(data), "--output", str(output)]) == 0
    record = json.loads((output / "boundaries.json").read_text())
    assert record["photographs"] == 3
    assert {part: list(of) for part, of in record["figures"].items()} == {
        part: [recipe.name for recipe in boundaries.RECIPES] for part in ("all", "first", "second")
    }
    assert record["figures"]["all"]["default"]["ODS"] > 0.9
    page = (output / "boundaries.md").read_text()
    assert "Second half, to confirm" in page
    assert "| gPb-owt-ucm (published, TEST split) | 0.726 | 0.760 |" in page
    assert "Best ODS on the first half" in page
    assert "second half" in capsys.readouterr().out
    assert boundaries.main(["--data", str(data), "--output", str(output), "--images", "1"]) == 0
    assert "Second half" not in (output / "boundaries.md").read_text()


def test_confirmed_is_at_the_level_of_the_first_half(monkeypatch) -> None:
    monkeypatch.setattr(boundaries, "LEVELS", np.array([1.0, 2.0]))
    first, second = np.array([[10, 10, 10, 10], [1, 10, 1, 1]]), np.array([[5, 10, 5, 10], [10, 10, 10, 10]])
    of = boundaries.halves([{"a": first}, {"a": second}])["second"]["a"]
    assert (of["ODS"], of["strength"], of["confirmed"]) == (1, 2, 0.5)


@pytest.mark.parametrize("folder", ["", "nowhere"])
def test_without_data(tmp_path: Path, capsys: pytest.CaptureFixture[str], folder: str) -> None:
    assert boundaries.main(["--data", str(tmp_path / folder)]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert "BSDS500" in message
