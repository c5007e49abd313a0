"""How mkdocstrings reads our docstrings, which are written for `help()`."""

import re
from pathlib import Path
from typing import Any

import griffe

#: What the pages of the reference show: name -> where it is.
PLACES = {
    place.rpartition(".")[2]: place
    for page in sorted(Path(__file__).parent.glob("reference/*.md"))
    for place in re.findall(r"^::: ([\w.]+)$", page.read_text(), re.MULTILINE)
}


def to_markdown(text: str, own: str = "") -> str:
    """Names of other functions become links; doctests and blocks of formulas stay as they are."""
    text = re.sub(r"^Example:$", "Examples:", text, flags=re.MULTILINE)  # where doctests are expected
    text = re.sub(r"::$", ":", text, flags=re.MULTILINE)  # before a block of formulas

    def link(match: re.Match[str]) -> str:
        place = PLACES.get(match[1], own)
        return match[0] if place == own else f"[{match[0]}][{place}]"

    return re.sub(r"(?<!`)`(\w+)`(?!`)", link, text)


class Docstrings(griffe.Extension):
    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring:
            obj.docstring.value = to_markdown(obj.docstring.value, obj.path)
