"""What mkdocs does beyond its configuration: pages whose files are not in docs/."""

from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

#: Where they are, from the root of the project; on the site they are at the same place.
OUTSIDE = ("CHANGELOG.md", "CONTRIBUTING.md", "benchmarks/results/*.md", "benchmarks/results/*.png")


def on_files(files: Files, config: Any) -> Files:
    root = Path(config.config_file_path).parent
    for pattern in OUTSIDE:
        for path in sorted(root.glob(pattern)):
            files.append(File.generated(config, path.relative_to(root).as_posix(), abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """In the project `docs/x.md` links to `../CONTRIBUTING.md`; on the site both are in one folder."""
    if page.parent is None:  # alone behind its tab: there is nothing to list beside it
        page.meta["hide"] = ["navigation"]
    return markdown if "/" in page.file.src_uri else markdown.replace("](../", "](")
