"""A table's figures as Markdown and as a plot."""

from pathlib import Path
from typing import Any

import numpy as np

from .plans import Entry, Plan

COLORS = {
    "fixed patches": "#666666",
    "ToMe": "#e08a3c",
    "DynamicViT": "#4c9f70",
    "SLIC": "#8c9aa8",
    "DHVT": "#c2272d",
}
NAMES = {"top1": "top-1, %", "miou": "mIoU, %"}


def mean(record: dict[str, Any], entry: Entry, key: str) -> tuple[float, float]:
    """Mean and standard deviation over the seeds."""
    values = np.array([figures[key] for figures in record["figures"][entry.name]])
    return float(values.mean()), float(values.std(ddof=1)) if len(values) > 1 else 0.0


def markdown(record: dict[str, Any], plan: Plan) -> str:
    """A line per entry: the measure, tokens, ms per image, and peak memory."""
    lines = [
        f"| method | {NAMES[plan.measure]} | tokens | tokenizer, ms | backbone and head, ms | memory, MB |",
        "|---|---|---|---|---|---|",
    ]
    for entry in plan.entries:
        if entry.name not in record["figures"]:
            continue
        value, spread = mean(record, entry, plan.measure)
        spent = record.get("clock", {}).get(entry.name, {"tokenizer": np.nan, "backbone": np.nan})
        lines.append(
            f"| {entry.name} | {value:.1f} ± {spread:.1f} | {mean(record, entry, 'tokens')[0]:.1f} "
            f"| {spent['tokenizer']:.1f} | {spent['backbone']:.1f} | {mean(record, entry, 'mb')[0]:.0f} |"
        )
    machine, versions = record["machine"], record["versions"]
    where = record.get("gpu") or f"{machine['cpu']}, {machine['cores']} cores"
    notes = [
        f"Commit {record['commit']}; {where}; " + ", ".join(f"{name} {text}" for name, text in versions.items()) + ".",
        f"Mean and standard deviation over {plan.seeds} seeds. {_how(plan)}"
        + (" The backbone is random: no weights were given." if record.get("weights") == "random" else ""),
        f"ms per image{'' if record.get('gpu') else ' (processor time of one thread)'}: the least of alternating "
        "rounds, the tokenizer apart from the rest. Memory: the highest point "
        f"of {_what_takes_memory(plan)} above what was in use before.",
    ]
    return "\n".join([f"# {plan.table}{', small' if plan.small else ''}", "", *lines, "", *notes]) + "\n"


def _what_takes_memory(plan: Plan) -> str:
    if not plan.frozen:
        return "training"
    return "training the head" if plan.table == "table2" else "a forward of one photograph"


def _how(plan: Plan) -> str:
    height, width = plan.size
    size = f"{width} x {height} px"
    if plan.frozen:
        head = f"heads of {plan.recipe.epochs} epochs" if plan.table == "table2" else "a linear classifier"
        return f"{size}; the backbone is frozen, and nothing but {head} is trained."
    return f"{size}; all is trained for {plan.recipe.epochs} epochs."


def plot(record: dict[str, Any], plan: Plan, path: Path) -> None:
    """The measure against the tokens, and against the time of an image."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(10, 4), sharey=True, layout="constrained")
    curves: dict[str, list[Entry]] = {}
    for entry in plan.entries:
        curves.setdefault(entry.method, []).append(entry)
    for number, (method, entries) in enumerate(curves.items()):
        values, spreads = zip(*(mean(record, entry, plan.measure) for entry in entries), strict=True)
        times = [sum(record["clock"][entry.name].values()) for entry in entries]
        tokens = [mean(record, entry, "tokens")[0] for entry in entries]
        color = COLORS.get(method, f"C{number}")
        for axis, x in zip(axes, (tokens, times), strict=True):
            axis.errorbar(x, values, spreads, color=color, marker="o", capsize=3, label=method)
    axes[0].set(xlabel="tokens, mean over blocks and images", ylabel=NAMES[plan.measure])
    axes[1].set(xlabel="ms per image, tokenizer included")
    axes[1].legend(frameon=False, fontsize="small")
    for axis in axes:
        axis.grid(alpha=0.3)
    figure.savefig(path, dpi=110)
    plt.close(figure)
