"""Tables for the screen and for Markdown, and how figures are written in them."""

from typing import NamedTuple

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .results_file import Row

#: A measurement whose 80th percentile lies this much (of the median) above its 20th is marked.
LARGE_SPREAD = 0.25


class Sheet(NamedTuple):
    """A table."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]


def milliseconds(row: Row) -> str:
    mark = " !" if row.spread > LARGE_SPREAD else ""
    return f"{1e3 * row.median:.3g} ({1e3 * row.p20:.3g}-{1e3 * row.p80:.3g}){mark}"


def percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.0f} %"


def markdown_table(sheet: Sheet) -> str:
    lines = (sheet.columns, ("---",) * len(sheet.columns), *sheet.rows)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def show(console: Console, sheet: Sheet) -> None:
    table = Table(title=sheet.title, title_justify="left")
    for number, column in enumerate(sheet.columns):
        table.add_column(column, justify="right" if 0 < number < len(sheet.columns) - 1 else "left", overflow="fold")
    for row in sheet.rows:
        table.add_row(*(escape(cell).replace("; ", "\n") for cell in row))
    console.print(table)
