"""Draw the pictures of docs/concepts.md with the package, from photographs that scikit-image ships.

    python docs/pictures.py [--output docs/images/concepts]

Needs scikit-image and matplotlib (`pip install 'dhvt_kernels[bench]'`). Every run on one machine writes the same bytes.
"""

import argparse
import io
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from skimage import data
from torch import Tensor

import dhvt_kernels as dk
from dhvt_kernels.imaging import mean_colors, overlay, saliency_picture, segment_colors

DOCS = Path(__file__).resolve().parent
sys.path.insert(0, str(DOCS.parent / "examples"))

from demo import crop, sheet  # noqa: E402

SIDE = 224


def photograph(name: str = "chelsea") -> Tensor:
    """uint8 [3,SIDE,SIDE]."""
    return crop(torch.from_numpy(getattr(data, name)()).permute(2, 0, 1).contiguous(), SIDE)


def row(*panels: tuple[str, Tensor, str]) -> Image.Image:
    """Title, picture and caption of each panel, side by side."""
    titles = [title for title, _, _ in panels]
    return sheet([[(picture, caption) for _, picture, caption in panels]], titles, SIDE)


def enlarge(picture: Tensor, top: int, left: int, side: int) -> Tensor:
    """A square of a picture at SIDE x SIDE, its pixels as squares."""
    return (
        picture[:, top : top + side, left : left + side]
        .repeat_interleave(SIDE // side, 1)
        .repeat_interleave(SIDE // side, 2)
    )


def paint_shares(assignment: Tensor, colors: Tensor, cell: int) -> Tensor:
    """Every pixel in the mean of its nine candidates' colours [L,3], weighted by `assignment` [9,H,W]."""
    _, height, width = assignment.shape
    rows, columns = -(-height // cell), -(-width // cell)
    y, x = (torch.arange(size) // cell for size in (height, width))
    picture = torch.zeros(3, height, width)
    for k in range(9):
        down, right = (y + k // 3 - 1).clamp(0, rows - 1), (x + k % 3 - 1).clamp(0, columns - 1)
        picture += assignment[k] * colors[down[:, None] * columns + right].permute(2, 0, 1)
    return picture.to(torch.uint8)


def leaves() -> Image.Image:
    """Soft superpixels: the shares that pixels have in them, soft and softer, and the leaves made of them."""
    image, cell = photograph(), 8
    features = dk.SmoothedLab()(image[None])
    colors = 40 + 200 * torch.rand((SIDE // cell) ** 2, 3, generator=torch.Generator().manual_seed(1))
    panels = []
    for temperature in (100.0, 4.0):
        options = {"cell": cell, "temperature": temperature}
        clusters = dk.soft_cluster(features, **options)
        shares, labels = dk.soft_assign(features, clusters.centers, clusters.positions, mass=clusters.mass, **options)
        panels.append(("shares", paint_shares(shares[0], colors, cell), f"temperature {temperature:g}"))
    built = dk.Tokenizer().hierarchy(image[None]).leaves
    number = int(built.max()) + 1
    hard = colors[labels.long()].permute(0, 3, 1, 2).contiguous()
    joined = dk.segment_gather(dk.segment_pool(hard, built, num_segments=number), built)[0].to(torch.uint8)
    panels = [("pixels", image, "an eye"), *panels, ("leaves", joined, f"{number} in the image")]
    return row(*((title, enlarge(picture, 60, 48, 56), caption) for title, picture, caption in panels))


def hierarchy() -> Image.Image:
    """The regions after each round of merging, in their mean colours."""
    image = photograph()
    built = dk.Tokenizer().hierarchy(image[None])
    parent, rounds = built.tree.parent[0].tolist(), built.tree.round[0].tolist()
    panels = []
    for last in (0, 1, 2, 3, 4):
        top = list(range(len(parent)))
        for node in reversed(range(len(parent))):  # parents come after their children
            if parent[node] >= 0 and rounds[parent[node]] <= last:
                top[node] = top[parent[node]]
        number, labels = np.unique(np.array(top)[built.leaves[0].numpy()], return_inverse=True)
        labels = torch.from_numpy(labels.reshape(1, SIDE, SIDE).astype(np.int32))
        means = dk.segment_pool(image[None].float(), labels, num_segments=len(number))
        painted = dk.segment_gather(means, labels)[0].round().to(torch.uint8)
        panels.append((f"round {last}" if last else "leaves", painted, f"{len(number)} regions"))
    return row(*panels)


def tree(tokens: int = 12, side: int = 72) -> Image.Image:
    """The top of the tree: segments of a coarse cut, and how they merge up to the root."""
    image = photograph()
    built = dk.Tokenizer().hierarchy(image[None])
    cut = built.cut(max_tokens=tokens, strength=0.0)
    parent, labels, number = built.tree.parent[0].tolist(), cut.labels[0], int(cut.counts[0])
    leaf_of = dict(zip(cut.node[0].tolist(), range(number), strict=False))
    children: dict[int, list[int]] = {}
    for node in leaf_of:
        while node >= 0 and node not in children.get(parent[node], []):
            children.setdefault(parent[node], []).append(node)
            node = parent[node]
    (root,) = children.pop(-1)
    width, top = side + 8, 40
    places: dict[int, tuple[float, int]] = {}
    order: list[int] = []

    def place(node: int) -> tuple[float, int]:
        """Where a node is drawn: the middle of its children, one step above the higher one."""
        if node in leaf_of:
            order.append(node)
            places[node] = ((len(order) - 0.5) * width, 0)
        else:
            below = [place(child) for child in children[node]]
            places[node] = (sum(x for x, _ in below) / len(below), 1 + max(level for _, level in below))
        return places[node]

    levels = place(root)[1]
    page = Image.new("RGB", (number * width, top + levels * 34 + side + 30), "white")
    draw, base = ImageDraw.Draw(page), top + levels * 34
    font = ImageFont.load_default(14)
    for node, below in children.items():
        y = base - 34 * places[node][1]
        for child in below:
            end, level = places[child]
            draw.line([(round(places[node][0]), y), (round(end), y), (round(end), base - 34 * level)], "#3f51b5", 2)
    for position, node in enumerate(order):
        inside = labels == leaf_of[node]
        faded = torch.where(inside, image, (image.float() * 0.15 + 255 * 0.85).to(torch.uint8))
        thumb = Image.fromarray(faded.permute(1, 2, 0).numpy()).resize((side, side), Image.Resampling.LANCZOS)
        page.paste(thumb, (position * width + 4, base))
        draw.text(((position + 0.5) * width, base + side + 12), f"{int(inside.sum())} px", "#555555", font, anchor="mm")
    draw.text((places[root][0], base - 34 * levels - 16), "the image", "black", font, anchor="mm")
    return page


def budgets() -> Image.Image:
    """One tree cut at several budgets: borders, and mean colours."""
    image = photograph("astronaut")
    numbers = [16, 64, 196, 400]
    cuts = dk.Tokenizer().hierarchy(image[None]).cut(max_tokens=numbers, strength=[0.0] * len(numbers))
    rows = [[(draw(image, cut), f"{int(cut.counts[0])} tokens") for cut in cuts] for draw in (overlay, mean_colors)]
    return sheet(rows, [f"at most {number}" for number in numbers], SIDE)


def criterion() -> Image.Image:
    """What BIC weighs: likelihood and penalty of the optimal cuts of a tree, over their number of tokens."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    built = dk.Tokenizer().hierarchy(photograph("astronaut")[None])
    likelihood, penalty = (terms[0].double() for terms in built.terms())
    strengths = np.geomspace(0.05, 60, 160).tolist()
    points = []
    for cut in [*built.cut(strength=strengths), built.cut()]:
        nodes = cut.node[0, : int(cut.counts[0])].long()
        points.append((len(nodes), float(likelihood[nodes].sum()), float(penalty[nodes].sum())))
    *curve, chosen = points
    tokens, fit, price = (np.array(values) for values in zip(*curve, strict=True))
    base = fit.min()
    figure, axes = pyplot.subplots(figsize=(7.2, 3.4), dpi=110, layout="constrained")
    axes.plot(tokens, (fit - base) / 1000, label="likelihood", color="#00897b")
    axes.plot(tokens, price / 1000, label="penalty", color="#f4511e")
    axes.plot(tokens, (fit + price - base) / 1000, label="BIC, the sum", color="#3f51b5", linewidth=2.5)
    axes.plot(chosen[0], (sum(chosen[1:]) - base) / 1000, "o", color="#3f51b5", label=f"the least: {chosen[0]} tokens")
    axes.set(xlabel="tokens", ylabel="thousands above the least likelihood", xscale="log")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    file = io.BytesIO()
    figure.savefig(file)
    pyplot.close(figure)
    return Image.open(file).convert("RGB")


def criteria() -> Image.Image:
    """What each criterion asks for."""
    image = photograph("astronaut")
    built = dk.Tokenizer().hierarchy(image[None])
    cuts = {name: built.cut(criterion=name) for name in ("aic", "hqc", "bic", "mdl")}
    return row(*((name, overlay(image, cut), f"{int(cut.counts[0])} tokens") for name, cut in cuts.items()))


def tokens() -> Image.Image:
    """Segments, the patches of their boxes, and what of each patch is the segment's own."""
    image, side, patch = photograph(), 8, SIDE // 8
    cut = dk.Tokenizer(max_tokens=side * side)(image[None])
    patches, masks = cut.token_patches(image[None].float(), size=patch - 2)
    white = torch.full_like(patches, 255)

    def mosaic(values: Tensor) -> Tensor:
        """[K,3,P,P] as a square of squares."""
        tiles = torch.nn.functional.pad(values, (1, 1, 1, 1), value=255.0)
        page = torch.full((side * side, *tiles.shape[1:]), 255.0)
        page[: len(tiles)] = tiles
        return page.view(side, side, *tiles.shape[1:]).permute(2, 0, 3, 1, 4).reshape(3, SIDE, SIDE).to(torch.uint8)

    number, used = int(cut.counts[0]), slice(0, int(cut.counts[0]))
    colors = segment_colors(image, cut)[used, :, None, None].float().expand(-1, -1, patch - 2, patch - 2)
    return row(
        ("segments", overlay(image, cut), f"{number} of them"),
        ("patches", mosaic(patches[0, used]), "their boxes, resampled"),
        ("with masks", mosaic((masks * patches + (1 - masks) * white)[0, used]), "each segment's own share"),
        ("pooled", mosaic(colors), "mean colours"),
    )


def saliency() -> Image.Image:
    """All cuts in one picture: how strong each boundary is."""
    image = photograph("coffee")
    built = dk.Tokenizer().hierarchy(image[None])
    strong, weak = built.cut(strength=8.0), built.cut()
    return row(
        ("photograph", image, "coffee"),
        ("saliency", saliency_picture(built.saliency()), "darker: merges later"),
        ("strength 1", overlay(image, weak), f"{int(weak.counts[0])} tokens"),
        ("strength 8", overlay(image, strong), f"{int(strong.counts[0])} tokens"),
    )


PICTURES: tuple[Callable[[], Image.Image], ...] = (
    leaves,
    hierarchy,
    tree,
    budgets,
    criterion,
    criteria,
    tokens,
    saliency,
)


def save(page: Image.Image, path: Path) -> None:
    """As a small PNG of 256 colours."""
    path.parent.mkdir(parents=True, exist_ok=True)
    page.quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=DOCS / "images" / "concepts")
    output = parser.parse_args(arguments).output
    for picture in PICTURES:
        save(picture(), output / f"{picture.__name__}.png")


if __name__ == "__main__":
    main()
