"""Pretrain a tokenizer's encoder: the features of a segment learn to tell its colour.

    python examples/pretrain_encoder.py [--data FOLDER] [--output encoder.safetensors]
    accelerate launch examples/pretrain_encoder.py --data FOLDER    # several GPUs

A `ConvEncoder`, a `Tokenizer` on it and a `MeanInjection` learn to paint images with one linear map of their segments'
features (`dk.losses.reconstruction_loss`), on the photographs that scikit-image ships or on those of a folder. The
weights that are written load into any tokenizer made by `make_tokenizer`, and so into `dk.retrofit`. Beside them a
picture: photographs, and their segments in mean colours, before the training and after it.
"""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from safetensors.torch import load_file, save_file
from skimage import data
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

import dhvt_kernels as dk
from dhvt_kernels.imaging import find_images, load_image, save_image

CHANNELS = 8
# All of these are inside the scikit-image wheel: nothing is downloaded.
PHOTOGRAPHS = (data.astronaut, data.chelsea, data.coffee, data.rocket, lambda: data.stereo_motorcycle()[0])


def make_tokenizer(max_tokens: int | None = None) -> dk.Tokenizer:
    """Scales for features of about unit size; the injection is part of the state dict."""
    tokenizer = dk.Tokenizer(
        dk.ConvEncoder(CHANNELS), noise=0.1, compactness=0.5, temperature=0.05, max_tokens=max_tokens
    )
    tokenizer.mean_inject = dk.MeanInjection(CHANNELS)
    return tokenizer


class Crops(Dataset):
    """Crops of photographs, float `[3,size,size]` in [0, 1]: random ones for training, else those of the middle.

    A file that is no picture is left out: the next one takes its place.
    """

    def __init__(self, photographs: list[Callable[[], Tensor]], size: int, number: int, seed: int | None) -> None:
        self.photographs, self.size, self.number, self.seed = photographs, size, number, seed
        self.skipped: set[int] = set()

    def __len__(self) -> int:
        return self.number

    def _load(self, index: int) -> Tensor:
        for step in range(len(self.photographs)):
            place = (index + step) % len(self.photographs)
            try:
                return self.photographs[place]().float()[None] / 255
            except (OSError, ValueError):
                self.skipped.add(place)
        raise ValueError("data: expected photographs; found none that can be read")

    def __getitem__(self, index: int) -> Tensor:
        image = self._load(index)
        scale = 1.5 * self.size / min(image.shape[2:])
        height, width = (max(self.size, round(length * scale)) for length in image.shape[2:])
        image = F.interpolate(image, (height, width), mode="bilinear", antialias=True)[0].clamp(0, 1)
        top, left = (height - self.size) // 2, (width - self.size) // 2
        if self.seed is not None:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + index)
            top = int(torch.randint(height - self.size + 1, (), generator=generator))
            left = int(torch.randint(width - self.size + 1, (), generator=generator))
            image = image.flip(2) if torch.rand((), generator=generator) < 0.5 else image
        return image[:, top : top + self.size, left : left + self.size]


class Painter(nn.Module):
    """Images to the reconstruction loss."""

    def __init__(self, tokenizer: dk.Tokenizer) -> None:
        super().__init__()
        self.tokenizer = tokenizer

    def forward(self, images: Tensor) -> Tensor:
        return dk.losses.reconstruction_loss(images, self.tokenizer(images), self.tokenizer.mean_inject)


@torch.no_grad()
def evaluate(tokenizer: dk.Tokenizer, images: Tensor) -> tuple[float, float, Tensor]:
    """The loss, and its least for these segments: with the mean colour of each; the images in these colours."""
    tokenizer.eval()
    partition = tokenizer(images)
    loss = dk.losses.reconstruction_loss(images, partition, tokenizer.mean_inject)
    means = dk.segment_gather(partition.pool(images), partition.labels)
    tokenizer.train()
    return loss.item(), (images - means).square().sum(1).mean().item(), means


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder of photographs (default: those of scikit-image)")
    parser.add_argument("--output", type=Path, default=Path("encoder.safetensors"), help="file for the weights")
    parser.add_argument("--steps", type=int, default=100, help="of the optimizer (default: 100)")
    parser.add_argument("--batch", type=int, default=8, help="images of a step and process (default: 8)")
    parser.add_argument("--size", type=int, default=96, help="side of a crop, pixels (default: 96)")
    parser.add_argument("--tokens", type=int, default=64, help="most tokens of a crop (default: 64)")
    parser.add_argument("--rate", type=float, default=1e-2, help="learning rate of AdamW (default: 0.01)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)

    set_seed(options.seed)
    accelerator = Accelerator(cpu=not torch.accelerator.is_available())
    if options.data is None:
        pictures = [torch.from_numpy(photograph()).permute(2, 0, 1) for photograph in PHOTOGRAPHS]
        photographs: list[Callable[[], Tensor]] = [partial(torch.clone, picture) for picture in pictures]
    else:
        photographs = [partial(load_image, path) for path in find_images(options.data)]
    number = options.steps * options.batch * accelerator.num_processes
    crops = Crops(photographs, options.size, number, options.seed)
    middles = Crops(photographs, options.size, min(16, len(photographs)), None)
    check = torch.stack([middles[index] for index in range(len(middles))]).to(accelerator.device)

    tokenizer = make_tokenizer(options.tokens)
    painter = Painter(tokenizer)
    optimizer = torch.optim.AdamW(painter.parameters(), options.rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, options.rate, total_steps=options.steps)
    painter, optimizer, loader = accelerator.prepare(painter, optimizer, DataLoader(crops, options.batch))
    before = evaluate(tokenizer, check)
    bar = tqdm(loader, "pretraining", disable=not accelerator.is_main_process)
    for images in bar:
        loss = painter(images)
        accelerator.backward(loss)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        bar.set_postfix(loss=f"{loss.item():.4f}")
    after = evaluate(tokenizer, check)

    if accelerator.is_main_process:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        save_file({name: value.contiguous() for name, value in tokenizer.state_dict().items()}, options.output)
        loaded = make_tokenizer(options.tokens).to(accelerator.device)
        loaded.load_state_dict(load_file(options.output, device=str(accelerator.device)))
        same = torch.equal(loaded.eval()(check).labels, tokenizer.eval()(check).labels)
        skipped = crops.skipped | middles.skipped
        print(f"{len(photographs)} photographs, {len(skipped)} of them skipped")
        print("middle crops: loss; loss with the mean colours of the segments, their least")
        for name, (loss, least, _) in (("before", before), ("after", after)):
            print(f"{name:>6}: {loss:.4f} {least:.4f}")
        rows = torch.cat([torch.cat(images.unbind(), 2) for images in (check, before[2], after[2])], 1)
        save_image((255 * rows).round().to("cpu", torch.uint8), options.output.with_suffix(".png"))
        print(f"{options.output}: read back, it gives {'the same' if same else 'OTHER'} tokens")


if __name__ == "__main__":
    main()
