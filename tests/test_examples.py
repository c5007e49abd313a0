"""Every example runs."""

import importlib.util
import re
from pathlib import Path

import pytest
import skimage.data
import torch
import vits
from PIL import Image
from safetensors.torch import load_file

import dhvt_kernels as dk
from dhvt_kernels.imaging import load_image

EXAMPLES = Path(__file__).parents[1] / "examples"


def load(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_demo(tmp_path, monkeypatch, capsys):
    demo = load("demo")
    monkeypatch.setattr(demo, "PHOTOGRAPHS", {"cat": demo.PHOTOGRAPHS["cat"]})
    monkeypatch.setattr(demo, "SIDE", 48)
    demo.main(["--output", str(tmp_path), "--repeats", "2"])
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"cat.svg", "cat_overlay.png", "cat_mean.png", "contact_sheet.png"}
    assert load_image(tmp_path / "cat_mean.png").shape == (3, 300, 451)
    assert "cat" in capsys.readouterr().out


def test_vectorize(tmp_path, monkeypatch, capsys):
    pytest.importorskip("resvg_py")
    vectorize = load("vectorize")
    monkeypatch.setattr(vectorize, "SIZES", (4000, 8000, 16000))
    vectorize.main(["--output", str(tmp_path)])
    assert load_image(tmp_path / "sheet.png").shape == (3, 800, 1200)
    for size in vectorize.SIZES:
        assert 0.8 * size < (tmp_path / f"coffee_{size}.svg").stat().st_size <= size
    assert len(re.findall("dB", capsys.readouterr().out)) == 3


def test_pretrain_encoder(tmp_path, capsys):
    """It learns, and its weights load into tokenizers and into retrofitted models."""
    pytest.importorskip("accelerate")
    example = load("pretrain_encoder")
    file = tmp_path / "out" / "encoder.safetensors"
    example.main(["--output", str(file), "--steps", "40", "--batch", "2", "--size", "32", "--tokens", "16"])
    text = capsys.readouterr().out
    before, after = (float(re.search(rf"{name}: (\S+)", text)[1]) for name in ("before", "after"))
    assert after < 0.5 * before
    assert "it gives the same tokens" in text
    assert load_image(file.with_suffix(".png")).shape == (3, 3 * 32, 5 * 32)

    tokenizer = example.make_tokenizer()
    fresh = tokenizer.features.color[0].weight.clone()
    tokenizer.load_state_dict(load_file(file))
    assert not torch.equal(tokenizer.features.color[0].weight, fresh)
    vit = dk.retrofit(vits.make("timm"), tokenizer, max_tokens=9)
    assert vit(torch.randn(1, 3, 32, 32)).isfinite().all()


def test_pretrain_encoder_leaves_out_what_is_no_picture(tmp_path, capsys):
    pytest.importorskip("accelerate")
    folder = tmp_path / "photographs"
    folder.mkdir()
    Image.fromarray(skimage.data.chelsea()).save(folder / "cat.jpg")
    (folder / "broken.jpg").write_bytes(b"no picture")
    options = ["--data", str(folder), "--output", str(tmp_path / "encoder.safetensors"), "--steps", "2", "--batch", "2"]
    load("pretrain_encoder").main([*options, "--size", "24"])
    assert "2 photographs, 1 of them skipped" in capsys.readouterr().out
    (folder / "cat.jpg").unlink()
    with pytest.raises(ValueError, match="data: expected photographs; found none that can be read"):
        load("pretrain_encoder").main(options)
