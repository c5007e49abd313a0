"""The shape of the project: what imports what."""

import ast
import graphlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def modules(package):
    """Path by dotted name."""
    paths = [path.relative_to(ROOT) for path in (ROOT / package).rglob("*.py")]
    return {".".join(path.with_suffix("").parts).removesuffix(".__init__"): ROOT / path for path in paths}


def imports(name, path, known):
    """The modules of the same package that a module imports, anywhere in it."""
    package = name.split(".") if path.stem == "__init__" else name.split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *filter(None, [node.module])])
            for alias in node.names:
                found = f"{base}.{alias.name}" if f"{base}.{alias.name}" in known else base
                if found in known:
                    yield found


@pytest.mark.parametrize("package", ["dhvt_kernels", "benchmarks"])
def test_imports_have_no_circles(package):
    known = modules(package)
    assert len(known) > 10
    graph = {name: set(imports(name, path, known)) - {name} for name, path in known.items()}
    graphlib.TopologicalSorter(graph).prepare()  # raises, and names the circle
