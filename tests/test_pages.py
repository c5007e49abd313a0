"""Every code block of the pages runs, in a folder with the pictures that the pages name; what does not, says why."""

import os
import re
import shlex
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import pytest
import skimage.data
import test_dht
import torch
import vits
from PIL import Image

from dhvt_kernels import cli

ROOT = Path(__file__).parents[1]
PAGES = ["README.md", "CONTRIBUTING.md", *(str(path.relative_to(ROOT)) for path in sorted(ROOT.glob("docs/**/*.md")))]
#: The examples as the gallery says: each below a minute, together about one.
SLOW = ["docs/examples.md"]
#: Why commands do not run here. Python always does.
REASONS = {"installs", "minutes", "needs data", "needs a GPU"}

BLOCK = re.compile(r"(?:^<!-- (not run|needs): (.+?) -->\n)?^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PROGRAMS = "make|pip|python|dhvt|cmake|torchrun|ncu|git|import|from|for|with"
COMMAND = re.compile(rf"    (?:\$ |>>> )?(?:{PROGRAMS}|[A-Z_]+=\S+) \S")


class Block(NamedTuple):
    mark: str
    reason: str
    language: str
    code: str


def blocks(page):
    return [Block(*(group or "" for group in match.groups())) for match in BLOCK.finditer((ROOT / page).read_text())]


def commands(code):
    """The lines of a shell block, continued ones joined, without comments."""
    lines = code.replace("\\\n", " ").splitlines()
    return [line for line in lines if shlex.split(line, comments=True)]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """What the pages' paths stand for."""
    (tmp_path / "holiday").mkdir()
    photograph = Image.fromarray(skimage.data.chelsea()).resize((150, 100))
    for name in ("photo.jpg", "holiday/first.jpg", "holiday/second.jpg"):
        photograph.save(tmp_path / name)
    torch.save(test_dht.synthetic(), tmp_path / "r2v.pth")
    for name in ("benchmarks", "dhvt_kernels", "docs", "examples", "tests"):
        (tmp_path / name).symlink_to(ROOT / name)
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, call in (("python", ""), ("dhvt", "-m dhvt_kernels.cli")):
        (programs / name).write_text(f'#!/bin/sh\nexec {sys.executable} {call} "$@"\n')
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(programs), prepend=os.pathsep)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(ROOT / "tests" / "site")]))
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)  # conftest.py sets it; the pages say where they want it
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run_page(page):
    """Python blocks of a page share their names; what it needs and is not installed skips the rest of it."""
    names = {"__name__": "page"}
    for block in blocks(page):
        if block.mark == "needs":
            vits.library(block.reason) if block.reason == "timm" else pytest.importorskip(block.reason)
        if block.language == "python":
            exec(compile(block.code, page, "exec"), names)
        elif block.language == "sh" and block.mark != "not run":
            run_commands(block.code)


def run_commands(code):
    for command in commands(code):
        if command.startswith("dhvt "):  # in this process, which has imported everything
            with pytest.raises(SystemExit) as ended:
                cli.main(shlex.split(command, comments=True)[1:])
            assert ended.value.code in (None, 0), command
        else:
            subprocess.run(["bash", "-euc", command], check=True)


@pytest.mark.parametrize(
    "page", [pytest.param(page, marks=[pytest.mark.slow] * (page in SLOW)) for page in PAGES if blocks(page)]
)
def test_page_runs(page, folder):
    run_page(page)
    if page == "README.md":
        assert (folder / "photo.svg").read_text().startswith("<")


@pytest.mark.parametrize("page", PAGES)
def test_what_does_not_run_says_why(page):
    for block in blocks(page):
        assert block.language in ("python", "sh"), f"{page}: a block in {block.language!r}"
        assert not (block.language == "python" and block.mark == "not run"), page
        if block.mark == "not run":
            assert block.reason in REASONS, page
            for command in commands(block.code):
                check_command(command)
    outside = BLOCK.sub("", (ROOT / page).read_text())
    assert "```" not in outside, f"{page}: a block that is not understood"
    hidden = [line for line in outside.splitlines() if COMMAND.match(line)]
    assert not hidden, f"{page}: code belongs between fences"


def check_command(command):
    """What can be said of a command without running it: targets, modules, files and extras that it names exist."""
    words = shlex.split(command, comments=True)
    if "make" in words:
        target = words[words.index("make") + 1]
        assert re.search(rf"^{re.escape(target)}\b.*:", (ROOT / "Makefile").read_text(), re.MULTILINE), command
    if "-m" in words:
        assert find_spec(words[words.index("-m") + 1]), command
    for word in words:
        if re.fullmatch(r"(?:examples|tests|benchmarks|csrc|docs)/[\w./-]+", word):
            assert (ROOT / word).exists(), command
        for extra in re.findall(r"\[([\w,]+)\]$", word):
            for name in extra.split(","):
                assert re.search(rf"^{name} = \[", (ROOT / "pyproject.toml").read_text(), re.MULTILINE), command


def test_most_blocks_run():
    every = [block for page in PAGES for block in blocks(page)]
    assert sum(block.mark == "not run" for block in every) < len(every) / 3


def test_gallery_shows_every_example():
    text = (ROOT / "docs/examples.md").read_text()
    for path in ROOT.glob("examples/*.py"):
        (section,) = (part for part in text.split("\n## ")[1:] if f"`{path.relative_to(ROOT)}`" in part)
        assert f"python {path.relative_to(ROOT)} " in section, path.name
        assert re.search(r"!\[.+\]\(images/.+\.png\)", section), f"{path.name}: a picture"


@pytest.mark.parametrize("page", PAGES)
def test_pictures_are_there_and_small(page):
    for name in re.findall(r"!\[[^\]]+\]\(([^)]+)\)", (ROOT / page).read_text()):
        picture = (ROOT / page).parent / name
        assert picture.stat().st_size < 400_000, name


def test_pictures_of_concepts(tmp_path):
    """The script draws what the page shows."""
    pytest.importorskip("matplotlib")
    subprocess.run([sys.executable, ROOT / "docs/pictures.py", "--output", tmp_path], check=True, cwd=ROOT)
    drawn = {path.name for path in tmp_path.iterdir()}
    shown = set(re.findall(r"\(images/concepts/([^)]+)\)", (ROOT / "docs/concepts.md").read_text()))
    assert drawn == shown == {path.name for path in (ROOT / "docs/images/concepts").iterdir()}
    for name in drawn:
        assert Image.open(tmp_path / name).size == Image.open(ROOT / "docs/images/concepts" / name).size


@pytest.mark.slow
def test_pictures_of_gallery(folder):
    """The script runs the training examples as the page says, and draws what the page shows."""
    subprocess.run([sys.executable, ROOT / "docs/gallery.py", "--output", folder / "pictures"], check=True)
    drawn = {path.name for path in (folder / "pictures").iterdir()}
    shown = set(re.findall(r"\(images/gallery/([^)]+)\)", (ROOT / "docs/examples.md").read_text()))
    assert drawn == shown == {path.name for path in (ROOT / "docs/images/gallery").iterdir()}


def test_reference_has_every_public_name():
    import dhvt_kernels as dk

    text = "".join(path.read_text() for path in (ROOT / "docs/reference").glob("*.md"))
    named = re.findall(r"^::: ([\w.]+)$", text, re.MULTILINE)
    assert len(named) == len(set(named))
    public = {*dk.__all__, *dk.losses.__all__, "Segmenter", "DenseHead", "UperNetHead"}
    public -= {"heads", "losses", "CRITERIA", "DISTANCES", "SELECTIONS"}
    assert public <= {name.rpartition(".")[2] for name in named}
