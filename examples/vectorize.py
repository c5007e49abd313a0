"""A photograph of scikit-image as SVG at three sizes, side by side with the original.

    python examples/vectorize.py --output demo/vectorize

Writes coffee_<bytes>.svg and sheet.png. Needs scikit-image and resvg-py (`pip install 'dhvt_kernels[demo,svg]'`).
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from skimage import data

import dhvt_kernels as dk
from dhvt_kernels.imaging import save_image

SIZES = (10_000, 40_000, 160_000)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("demo/vectorize"))
    output = parser.parse_args(arguments).output
    output.mkdir(parents=True, exist_ok=True)

    image = torch.from_numpy(np.array(data.coffee())).permute(2, 0, 1).contiguous()
    hierarchy = dk.vector_hierarchy(image)
    panels = [image]
    for size in SIZES:
        svg, partition = dk.search_svg(image, hierarchy, size=size, tolerance=1.5)
        (output / f"coffee_{size}.svg").write_text(svg)
        panels.append(dk.render_svg(svg))
        print(f"{len(svg):>7,} bytes: {int(partition.counts[0]):>5,} segments, {dk.svg_psnr(svg, image):.2f} dB")
    save_image(torch.cat([torch.cat(panels[:2], 2), torch.cat(panels[2:], 2)], 1), output / "sheet.png")


if __name__ == "__main__":
    main()
