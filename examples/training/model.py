"""The model of a configuration: a timm Vision Transformer on adaptive tokens, with its loss."""

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pickle import UnpicklingError
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

import dhvt_kernels as dk

from .config import Config, ConfigError, Model

#: Width of the hidden layer of the head `mlp`.
HIDDEN = 512


class TokenModel(nn.Module):
    """Images and labels to logits, loss and numbers of tokens, in one call: what data parallelism wraps."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        vit, self.dense = _retrofit(config), config.task == "segmentation"
        #: The retrofitted model, or the segmenter that holds it.
        self.network: Any = _segmenter(vit, config) if self.dense else vit
        self.smoothing, self.dice = config.augment.smoothing, config.train.dice
        self.regularizer = config.train.regularizer
        patches = (config.model.image_size // vit.adapter.patch_size) ** 2
        self.target_tokens = config.train.target_tokens or config.model.max_tokens or patches
        self.timer: Timer | None = None

    @property
    def vit(self) -> Any:
        return self.network.vit if self.dense else self.network

    def forward(self, images: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        with timed(self.timer, "tokenizer"), torch.autocast(images.device.type, enabled=False):
            partition = self.vit.tokenize(images)
        with timed(self.timer, "backbone"):
            logits = self.network(images, partition)
        output = {"logits": logits, "tokens": partition.counts}
        if labels is not None:
            with torch.autocast(images.device.type, enabled=False):
                output["loss"] = self._loss(logits.float(), labels, images, partition)
        return output

    def _loss(self, logits: Tensor, labels: Tensor, images: Tensor, partition: dk.Partition) -> Tensor:
        if not self.dense:
            loss = F.cross_entropy(logits, labels, label_smoothing=self.smoothing)
            boundaries = {"images": images * self.vit.std + self.vit.mean}
        else:
            loss = dk.losses.dice_cross_entropy(logits, labels, dice_weight=self.dice)
            boundaries = {"labels": labels}
        if self.regularizer:
            loss = loss + self.regularizer * dk.losses.token_regularizer(partition, self.target_tokens, **boundaries)
        return loss


def architecture(config: Config) -> str:
    """What two models must have in common to load each other's weights."""
    model = config.model
    parts = [model.name, f"{model.classes} classes", f"{model.image_size} px", f"encoder {model.encoder}"]
    if config.task == "segmentation":
        parts.append(f"head {model.head}")
    return ", ".join(parts + [f"{key}={value}" for key, value in sorted(model.options.items())])


def _retrofit(config: Config) -> dk.Retrofit:
    model = config.model
    options: dict[str, Any] = {"num_classes": model.classes, "img_size": model.image_size, **model.options}
    if config.task == "segmentation":  # images of any size, and no head
        options.update(num_classes=0, dynamic_img_size=True)
    if model.weights is not None:
        options["pretrained_cfg_overlay"] = {"file": model.weights}
    try:
        vit = timm.create_model(
            model.name,
            pretrained=model.pretrained or model.weights is not None,
            drop_path_rate=model.drop_path,
            **options,
        )
    except (RuntimeError, TypeError, SafetensorError, UnpicklingError) as error:
        raise ConfigError(f"model.name, model.options, model.weights: {error}") from error
    vit.set_grad_checkpointing(config.train.grad_checkpointing)
    if config.train.regularizer and model.encoder == "lab":
        raise ConfigError(
            "train.regularizer: expected 0 with model.encoder=lab, which learns nothing; "
            f"found {config.train.regularizer}"
        )
    try:
        tokenizer = dk.Tokenizer(_encoder(model) if model.encoder == "conv" else None, **model.tokenizer)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"model.tokenizer: {error}") from error
    return dk.retrofit(vit, tokenizer, max_tokens=model.max_tokens, attention=model.attention)


def _encoder(model: Model) -> dk.ConvEncoder:
    encoder = dk.ConvEncoder()
    if model.encoder_weights is not None:
        try:
            weights = load_file(model.encoder_weights)
            own = {key.removeprefix("features."): weights[key] for key in weights if key.startswith("features.")}
            encoder.load_state_dict(own)
        except (RuntimeError, SafetensorError) as error:
            raise ConfigError(f"model.encoder_weights: expected those of pretrain_encoder.py; found {error}") from error
    return encoder


def _segmenter(vit: Any, config: Config) -> nn.Module:
    model, width, depth = config.model, vit.adapter.width, len(vit.model.blocks)
    head: nn.Module
    if model.head == "upernet":
        blocks = [layer % depth for layer in model.layers if -depth <= layer < depth]
        if len(model.layers) != 4 or len(blocks) != 4 or depth - 1 not in blocks:
            # Without the last block some weights have no gradient, which DDP refuses.
            raise ConfigError(
                f"model.layers: expected for the head upernet four of the {depth} blocks (0 to {depth - 1}, or from "
                f"the last with -1), the last one among them; found {model.layers}"
            )
        head = dk.heads.UperNetHead(width, model.classes, layers=model.layers)
    else:
        if model.layers != [-1]:
            raise ConfigError(
                f"model.layers: expected [-1] with the head {model.head}, of the last block; found {model.layers}"
            )
        head = dk.heads.DenseHead(width, model.classes, hidden=HIDDEN if model.head == "mlp" else None)
    return dk.heads.Segmenter(vit, head)


class Timer:
    """Seconds per section, with the device's work done."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.seconds = device, defaultdict[str, float](float)

    def wait(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


@contextmanager
def timed(timer: Timer | None, section: str) -> Iterator[None]:
    if timer is None:
        yield
        return
    start = timer.wait()
    yield
    timer.seconds[section] += timer.wait() - start
