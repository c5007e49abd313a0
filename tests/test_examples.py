"""Every example runs."""

import importlib.util
from pathlib import Path

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
