"""Every example in a public docstring, and the README's Python, runs."""

import doctest
import importlib
import pkgutil
import re
from pathlib import Path

import pytest

import dhvt_kernels

ROOT = Path(__file__).parents[1]
# _C is no Python module: torch loads it.
MODULES = [m.name for m in pkgutil.walk_packages(dhvt_kernels.__path__, "dhvt_kernels.") if not m.name.endswith("_C")]


@pytest.mark.parametrize("name", MODULES)
def test_doctests(name):
    result = doctest.testmod(importlib.import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.failed == 0


def test_every_public_function_has_an_example():
    for name in dhvt_kernels.ops.__all__:
        item = getattr(dhvt_kernels, name)
        if callable(item) and not isinstance(item, type):
            assert ">>>" in item.__doc__, name
            for section in ("Args:", "Returns:", "Raises:", "Note:"):
                assert section in item.__doc__, f"{name}: {section}"


def test_readme(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert blocks
    for block in blocks:
        exec(compile(block, "README.md", "exec"), {})
    assert (tmp_path / "photo.svg").read_text().startswith("<")


def test_readme_names_every_operator():
    text = (ROOT / "README.md").read_text()
    operators = [name for name in dhvt_kernels.ops.__all__ if name.islower()]
    assert operators
    for name in operators:
        assert f"`{name}`" in text, name
