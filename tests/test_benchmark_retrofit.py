"""`python -m benchmarks.retrofit`: a small model from the photographs to the report."""

import json

import pytest
import torch
import vits

from benchmarks import retrofit


@pytest.fixture
def record(tmp_path, monkeypatch):
    vits.library("timm")
    threads = torch.get_num_threads()
    monkeypatch.setattr(retrofit, "CHOICES", ("mask", "varlen", "magic"))
    options = ["--batch", "2", "--rounds", "1", "--model", "vit_tiny_patch16_224", "--output", str(tmp_path)]
    assert retrofit.main(options) == 0
    torch.set_num_threads(threads)
    assert "| given segments, `attention=varlen` |" in (tmp_path / "retrofit.md").read_text()
    return json.loads((tmp_path / "retrofit.json").read_text())


def test_a_run_from_end_to_end(record, capsys):
    assert set(record["seconds"]) == {*retrofit.TITLES, "attention=mask", "attention=varlen"}
    assert all(taken > 0 for taken in record["seconds"].values())
    assert record["clock"] == "processor time"
    assert "expected one of auto" in record["missing"]["magic"], "a choice that cannot run is left out, with the reason"
    assert max(record["tokens"]["half"]) <= 98 < max(record["tokens"]["ragged"]) <= 196
    assert record["targets"]["speed-up with 98 tokens"]["measured"] == pytest.approx(
        record["seconds"]["plain"] / record["seconds"]["half"], rel=0.05
    )


def test_photographs_are_all_different():
    images = retrofit.photographs(80)
    assert images.shape == (80, 3, 224, 224)
    assert len({image.sum().item() for image in images[:40]}) == 40
    assert (images >= 0).all()
    assert (images <= 1).all()


@pytest.mark.parametrize("option", [["--batch", "81"], ["--rounds", "0"], ["--threads", "0"]])
def test_bad_options(option, capsys):
    with pytest.raises(SystemExit):
        retrofit.main(option)
    assert f"{option[0]}: expected" in capsys.readouterr().err
