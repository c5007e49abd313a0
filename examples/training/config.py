"""Configuration of a training run: a YAML file, checked against the dataclasses below, and `--set key.sub=value`."""

import argparse
import inspect
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

import dhvt_kernels as dk
from dhvt_kernels.retrofit.choice import ATTENTION

TASKS = ("classification", "segmentation")
FORMATS = {
    "classification": ("folder", "webdataset", "huggingface"),
    "segmentation": ("ade20k", "pairs", "webdataset", "huggingface"),
}


@dataclass
class Model:
    name: str = MISSING  # of timm
    classes: int = MISSING
    image_size: int = 224  # side of what the model trains on, pixels
    pretrained: bool = False  # timm's weights, or those of `weights`
    weights: str | None = None  # a file with them, in timm's key names
    drop_path: float = 0.0
    max_tokens: int | None = None  # None: as many as patches
    attention: str = "auto"
    encoder: str = "lab"  # features of the tokenizer: lab (no weights), or conv (learned)
    encoder_weights: str | None = None  # a file of examples/pretrain_encoder.py
    tokenizer: dict[str, Any] = field(default_factory=dict)  # more for dk.Tokenizer
    options: dict[str, Any] = field(default_factory=dict)  # more for timm.create_model
    head: str = "linear"  # of segmentation: linear, mlp or upernet
    layers: list[int] = field(default_factory=lambda: [-1])  # blocks that the head sees


@dataclass
class Data:
    format: str = MISSING
    train: str = MISSING  # folder, shards (braces and * expand), or name
    val: str = MISSING
    train_split: str = "train"  # of Hugging Face datasets, as the three below
    val_split: str = "validation"
    image_column: str = "image"
    label_column: str = "label"
    reduce_zero_label: bool = False  # label 0 is ignored, label k is class k - 1 (ADE20K)
    ignore_labels: list[int] = field(default_factory=list)  # more labels that are ignored
    workers: int = 8  # of each process


@dataclass
class Augment:
    scale: list[float] = field(
        default_factory=lambda: [0.08, 1.0]
    )  # share of the area; segmentation: of the short side
    flip: float = 0.5
    jitter: float = 0.0  # strength of brightness, contrast and saturation
    randaugment: int = 0  # magnitude; 0: none
    erase: float = 0.0
    mixup: float = 0.0  # alpha; 0: none
    cutmix: float = 0.0
    smoothing: float = 0.0  # of the labels


@dataclass
class Optimizer:
    lr: float = MISSING
    weight_decay: float = 0.05
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])
    layer_decay: float = 1.0  # of the learning rate, from block to block of the backbone
    new_lr_scale: float = 1.0  # learning rate of what the backbone did not have: tokenizer, injection, dense head
    clip: float = 0.0  # largest norm of the gradient; 0: any
    schedule: str = "cosine"  # or poly
    power: float = 1.0  # of poly
    warmup: float = 0.0  # share of the steps
    end: float = 0.0  # share of the learning rate that is left at the end


@dataclass
class Train:
    output: str = MISSING
    epochs: int | None = None
    steps: int | None = None  # one of the two
    batch_size: int = MISSING  # of a step: of all processes and accumulated batches together
    accumulate: int = 1
    precision: str = "no"  # or bf16
    parallel: str = "ddp"  # or fsdp
    grad_checkpointing: bool = False
    ema: float = 0.0  # decay; 0: none
    dice: float = 1.0  # weight of the Dice loss beside cross-entropy (segmentation)
    regularizer: float = 0.0  # weight of the loss on the number of tokens
    target_tokens: float | None = None  # what it pulls to; None: max_tokens
    seed: int = 0
    deterministic: bool = False
    log_every: int = 50  # steps
    save_every: int = 1000
    evaluate_every: int = 5000
    keep: int = 2  # checkpoints


@dataclass
class Config:
    task: str = MISSING
    model: Model = field(default_factory=Model)
    data: Data = field(default_factory=Data)
    augment: Augment = field(default_factory=Augment)
    optimizer: Optimizer = field(default_factory=Optimizer)
    train: Train = field(default_factory=Train)


class ConfigError(ValueError):
    """A key that is not known, or a value that does not fit."""


def parse(arguments: Sequence[str] | None, task: str, description: str) -> Config:
    """The configuration that the command line asks for; one that does not fit ends the script with its error."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("config", type=Path, help="YAML file, such as one of examples/configs")
    parser.add_argument("--set", metavar="KEY=VALUE", nargs="+", action="extend", default=[], help="data.train=/photos")
    options = parser.parse_args(arguments)
    try:
        return load(options.config, options.set, task)
    except (ConfigError, OSError) as error:
        parser.error(str(error))


def load(path: Path, changes: Sequence[str], task: str) -> Config:
    """The configuration of a file, with changes `key.sub=value`."""
    merged = OmegaConf.structured(Config)
    for change in changes:
        if "=" not in change:
            raise ConfigError(f"--set: expected KEY=VALUE; found {change!r}")
    try:
        file = OmegaConf.load(path)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: expected a YAML file in UTF-8; found {' '.join(str(error).split())}") from None
    if not isinstance(file, DictConfig):
        raise ConfigError(f"{path}: expected keys with values; found a list")
    try:
        merged = OmegaConf.merge(merged, file, OmegaConf.from_dotlist(list(changes)))
        config = OmegaConf.to_object(merged)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set: expected values of YAML; found {' '.join(str(error).split())}") from None
    except OmegaConfBaseException as error:
        key = error.full_key or "the file"
        raise ConfigError(f"{path}: {key}: {str(error).splitlines()[0]}") from None
    _check(config, task, path)
    return config


def to_dict(config: Config) -> dict[str, Any]:
    """For a checkpoint."""
    return OmegaConf.to_container(OmegaConf.structured(config))


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """`key.sub: old -> new` of two results of `to_dict`."""
    pairs = (
        (f"{part}.{key}", before[part].get(key), value)
        for part in now
        if part != "task"
        for key, value in now[part].items()
    )
    return [f"{key}: {old!r} -> {new!r}" for key, old, new in pairs if old != new]


def _check(config: Config, task: str, path: Path) -> None:
    def expect(key: str, found: Any, right: bool, expected: str) -> None:
        if not right:
            raise ConfigError(f"{path}: {key}: expected {expected}; found {found!r}")

    def choice(key: str, found: str, allowed: Sequence[str]) -> None:
        expect(key, found, found in allowed, " or ".join(allowed))

    model, data, augment = config.model, config.data, config.augment
    optimizer, train = config.optimizer, config.train
    expect("task", config.task, config.task == task, f"{task}, which this script trains")
    choice("data.format", config.data.format, FORMATS[task])
    choice("model.encoder", model.encoder, ("lab", "conv"))
    choice("model.head", model.head, ("linear", "mlp", "upernet"))
    choice("optimizer.schedule", optimizer.schedule, ("cosine", "poly"))
    choice("train.precision", train.precision, ("no", "bf16"))
    choice("train.parallel", train.parallel, ("ddp", "fsdp"))
    betas, scale = optimizer.betas, augment.scale
    expect("optimizer.betas", betas, len(betas) == 2 and all(0 <= beta < 1 for beta in betas), "two numbers in [0, 1)")
    ordered = len(scale) == 2 and 0 < scale[0] <= scale[1]
    expect("augment.scale", scale, ordered, "two numbers above 0, least and most")
    choice("model.attention", model.attention, ATTENTION)
    expect("model.classes", model.classes, model.classes >= 1, "at least 1")
    expect("model.image_size", model.image_size, model.image_size >= 1, "at least 1 pixel")
    expect("data.workers", data.workers, data.workers >= 0, "at least 0")
    expect("train.seed", train.seed, train.seed >= 0, "at least 0")
    for name in ("lr", "weight_decay", "clip"):
        value = getattr(optimizer, name)
        expect(f"optimizer.{name}", value, 0 <= value < math.inf, "a number of at least 0")
    for key, file in (("model.weights", model.weights), ("model.encoder_weights", model.encoder_weights)):
        expect(key, file, file is None or Path(file).is_file(), "a file that exists")
    known = [name for name in inspect.signature(dk.Tokenizer).parameters if name != "features"]
    for key in model.tokenizer:
        expect(f"model.tokenizer.{key}", key, key in known, f"an argument of dk.Tokenizer ({', '.join(known)})")
    expect(
        "model.encoder_weights",
        model.encoder_weights,
        model.encoder_weights is None or model.encoder == "conv",
        "none with encoder lab",
    )
    one = (train.epochs is None) != (train.steps is None)
    expect("train.epochs, train.steps", (train.epochs, train.steps), one, "one of them")
    for name in ("batch_size", "accumulate", "log_every", "save_every", "evaluate_every", "keep"):
        expect(f"train.{name}", getattr(train, name), getattr(train, name) >= 1, "at least 1")
    for name in ("epochs", "steps"):
        value = getattr(train, name)
        expect(f"train.{name}", value, value is None or value >= 1, "at least 1")
    expect("train.ema", train.ema, 0 <= train.ema < 1, "a decay in [0, 1)")
    expect("optimizer.warmup", optimizer.warmup, 0 <= optimizer.warmup < 1, "a share in [0, 1)")
    expect("model.max_tokens", model.max_tokens, model.max_tokens is None or model.max_tokens >= 1, "at least 1")
    if task == "segmentation":
        for name in ("mixup", "cutmix", "smoothing", "randaugment", "erase"):
            value = getattr(augment, name)
            expect(f"augment.{name}", value, not value, "0 for segmentation")
