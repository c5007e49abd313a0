"""The documentation site, opened as files in headless Chromium, without a network."""

import os
import re
import shlex
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from browser import WINDOWS, browser

__all__ = ["browser"]

ROOT = Path(__file__).parents[1]
#: Pictures that did not load, and what sticks out of the page; wide tables and code scroll by themselves.
TROUBLES = """
() => {
  const wide = (element) =>
    element.getBoundingClientRect().right > innerWidth + 1 && !element.closest("pre, .md-typeset__scrollwrap");
  return [
    ...[...document.images].filter((image) => !image.complete || !image.naturalWidth).map((image) => image.src),
    ...[...document.querySelectorAll("article *")].filter(wide).map((element) => element.outerHTML.slice(0, 100)),
    ...(document.documentElement.scrollWidth > innerWidth ? ["the page scrolls sideways"] : []),
  ];
}
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    if find_spec("mkdocs") is None:
        pytest.skip("needs mkdocs")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder]
    subprocess.run(command, check=True, cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"})
    return folder


def test_a_warning_is_an_error(tmp_path):
    """Such as a link to nowhere; `mkdocs --quiet` would pass over it."""
    if find_spec("mkdocs") is None:
        pytest.skip("needs mkdocs")
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text("[x](nowhere.md)")
    (tmp_path / "mkdocs.yml").write_text("site_name: x")
    (recipe,) = re.findall(r"^docs:.*\n\t(.*)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    command = [sys.executable, "-m", *shlex.split(recipe.replace("$(BIN)/", ""))[1:]]
    assert subprocess.run(command, cwd=tmp_path, capture_output=True).returncode == 1
    (tmp_path / "docs" / "index.md").write_text("nothing wrong")
    assert subprocess.run(command, cwd=tmp_path, capture_output=True).returncode == 0


@pytest.mark.parametrize("window", WINDOWS)
def test_every_page(site, browser, window):
    context = browser.new_context(offline=True, **WINDOWS[window])
    requests, troubles = [], []
    context.on("request", lambda request: requests.append(request.url))
    page = context.new_page()
    page.on("console", lambda message: troubles.append(message.text))
    page.on("pageerror", lambda error: troubles.append(str(error)))
    paths = [path for path in sorted(site.rglob("*.html")) if path.name != "404.html"]
    assert len(paths) > 30
    for path in paths:
        page.goto(path.as_uri())
        assert page.evaluate(TROUBLES) == [], path.name
        assert page.locator("h1").count() == 1, path.name
    context.close()
    assert troubles == []
    assert [url for url in requests if not url.startswith(("file:", "data:", "blob:"))] == []


def test_search(site, browser):
    context = browser.new_context(offline=True, **WINDOWS["desktop"])
    page = context.new_page()
    page.goto((site / "index.html").as_uri())
    page.wait_for_selector("iframe", state="attached")  # the search has started
    page.locator("input.md-search__input").press_sequentially("saliency")
    page.locator(".md-search-result__link").first.wait_for()
    assert page.locator(".md-search-result__link").count() > 3
    context.close()


def test_reference_renders_every_section(site):
    """Arguments, results, errors and examples of a docstring each have their heading; names are links."""
    text = (site / "reference" / "trees.html").read_text()
    for heading in ("Parameters:", "Returns:", "Raises:", "Examples:"):
        assert text.count(f">{heading}</span>") >= 8, heading
    assert 'class="autorefs autorefs-internal"' in text
    assert "::</p>" not in text
