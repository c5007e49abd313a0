"""Every example in a public docstring runs; the pages are in `test_pages.py`."""

import doctest
import importlib
import pkgutil
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


def test_readme_names_every_operator():
    text = (ROOT / "README.md").read_text()
    operators = [name for name in dhvt_kernels.ops.__all__ if name.islower()]
    assert operators
    for name in operators:
        assert f"`{name}`" in text, name
