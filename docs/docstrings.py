"""How mkdocstrings reads our docstrings: the section `Example:` holds doctests, which it expects below `Examples:`."""

import re
from typing import Any

import griffe


class DoctestSections(griffe.Extension):
    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring:
            obj.docstring.value = re.sub(r"^Example:$", "Examples:", obj.docstring.value, flags=re.MULTILINE)
