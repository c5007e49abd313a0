"""Run the examples that train, and draw the pictures of docs/examples.md from what they write.

    python docs/gallery.py [--output docs/images/gallery]

The commands are those of that page: less than a minute each on a CPU. Needs `pip install 'dhvt_kernels[demo,train]'`,
timm and torchvision. The other pictures of the page are made by the examples themselves.
"""

import argparse
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from dhvt_kernels.imaging import overlay

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
sys.path[:0] = [str(DOCS), str(ROOT / "examples")]

from demo import sheet  # noqa: E402
from miniatures import CLASSES  # noqa: E402
from pictures import save  # noqa: E402
from training.augment import IGNORE, Transform  # noqa: E402
from training.config import load  # noqa: E402
from training.data import open_source  # noqa: E402
from training.model import TokenModel  # noqa: E402

#: Of the label maps in the picture: not labelled, dark, middle, bright.
PALETTE = torch.tensor([[255, 255, 255], [63, 81, 181], [255, 160, 0], [139, 195, 74]], dtype=torch.uint8)
SIDE = 144


def commands() -> list[list[str]]:
    """The commands of the page that run one of the examples, in their order."""
    text = (DOCS / "examples.md").read_text()
    lines = [line for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL) for line in block.splitlines()]
    return [shlex.split(line, comments=True) for line in lines if line.startswith("python examples/")]


def run(example: str, folder: Path) -> list[str]:
    """Run an example as the page says, in a folder; its arguments."""
    (arguments,) = (words[2:] for words in commands() if words[1] == f"examples/{example}.py")
    arguments = [str(ROOT / word) if word.startswith("examples/") else word for word in arguments]
    subprocess.run([sys.executable, ROOT / "examples" / f"{example}.py", *arguments], cwd=folder, check=True)
    return arguments


def panel(picture: Tensor | Image.Image) -> Tensor:
    """uint8 [3,SIDE,SIDE]: a picture as large as fits, its pixels as squares, on white."""
    if isinstance(picture, Tensor):
        picture = Image.fromarray(picture.permute(1, 2, 0).contiguous().numpy())
    scale = SIDE / max(picture.size)
    width, height = (round(scale * length) for length in picture.size)
    page = Image.new("RGB", (SIDE, SIDE), "white")
    page.paste(picture.resize((width, height), Image.Resampling.NEAREST), ((SIDE - width) // 2, (SIDE - height) // 2))
    return torch.from_numpy(np.array(page)).permute(2, 0, 1)


def miniatures(folder: Path) -> Image.Image:
    """A few crops of each class."""
    run("miniatures", folder)
    rows = [
        [(panel(Image.open(path)), path.name) for path in sorted(place.iterdir())[:5]]
        for place in sorted((folder / "mini" / "train").iterdir())
    ]
    return sheet(rows, [""] * 5, SIDE, text=13)


def predictions(task: str, folder: Path, number: int = 5) -> Image.Image:
    """What a trained model says of photographs that it has not seen, a column for each."""
    file, _, *changes = run(f"train_{task}", folder)
    places = [f"data.{name}={folder}/mini" + f"/{name}" * (task == "classification") for name in ("train", "val")]
    config = load(Path(file), [*changes, *places], task)
    model = TokenModel(config).eval()
    model.network.load_state_dict(load_file(folder / config.train.output / "model.safetensors"))
    mean, std = (values.view(3, 1, 1) for values in (model.vit.mean, model.vit.std))
    transform = Transform(config, False, mean.flatten().tolist(), std.flatten().tolist())
    source = open_source(config, False)
    columns = []
    for index in torch.linspace(0, len(source) - 1, number).round().int().tolist():
        image, label = transform(*source.read(index), source.name(index))
        picture = (255 * (image * std + mean).clamp(0, 1)).round().to(torch.uint8)
        with torch.no_grad():
            partition = model.vit.tokenize(image[None])
            best = model(image[None])["logits"][0].argmax(0)
        column = [(picture, ""), (overlay(picture, partition), f"{int(partition.counts[0])} tokens")]
        if task == "segmentation":
            for values, name in ((torch.where(label == IGNORE, -1, label), "labels"), (best, "prediction")):
                column.append((PALETTE[values.long() + 1].permute(2, 0, 1), name))
        else:
            column[0] = (picture, f"prediction: {sorted(CLASSES)[int(best)]}")
        columns.append([(panel(values), caption) for values, caption in column])
    return sheet([list(row) for row in zip(*columns, strict=True)], [""] * number, SIDE, text=13)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=DOCS / "images" / "gallery")
    output = parser.parse_args(arguments).output
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run("pretrain_encoder", folder)
        save(Image.open(folder / "encoder.png"), output / "pretrain_encoder.png")
        save(miniatures(folder), output / "miniatures.png")
        for task in ("classification", "segmentation"):
            save(predictions(task, folder), output / f"train_{task}.png")


if __name__ == "__main__":
    main()
