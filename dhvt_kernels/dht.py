"""The released tokenizer of Aasan et al. (2025), github.com/dsb-ifi/dHT: its weights in this package's modules."""

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .features import ConvEncoder
from .injection import MeanInjection

# Its images are normalised with the mean and standard deviation of ImageNet, which the weights take over here.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
#: What is added to the product of all 2 pi variances under the logarithm.
IOTA = 5.0
#: Not needed here: gradient histograms, and the score of a region that declines to merge.
UNUSED = ("gradact.lmbda", "gradient.kernel", "varproj.weight", "varproj.bias")

_NORMS = ("conv.ds.1", "conv.cv.1", "conv.cv.4")


def options(channels: int) -> dict[str, Any]:
    """The tokenizer's arguments that come nearest to the released model's, for its number of features."""
    # The variance at which the product reaches IOTA: below, the released likelihood is flat.
    noise = IOTA ** (1 / channels) / (2 * math.pi)
    scale = math.sqrt(noise / 16)  # of the features to CIELAB, whose noise is 16: for soft leaves
    return {
        "leaves": "pixels",
        "distance": "feature",
        "merge_compactness": 0.01,
        "weights": "similarity",
        "criterion": "aicc",
        "noise": noise,
        "pixel_correlation": 1.0,
        "compactness": 5 * scale,
        "temperature": 4 * scale**2,
    }


def load(state_dict: Mapping[str, Tensor] | str | os.PathLike[str]) -> tuple[ConvEncoder, MeanInjection]:
    """Encoder and mean injection, for images in [0, 1], from a state dict or the path of one.

    Raises:
        TypeError: neither a mapping nor a path, or a value that is no tensor.
        ValueError: missing or unexpected keys, or other shapes.
    """
    if isinstance(state_dict, (str, os.PathLike)):
        state_dict = torch.load(state_dict, map_location="cpu", weights_only=True)
    if not isinstance(state_dict, Mapping):
        raise TypeError(
            f"state_dict: expected a mapping of names to tensors, or a path; found {type(state_dict).__name__}"
        )
    channels = _check(state_dict)
    state = {name: value.detach().to("cpu", torch.float64) for name, value in state_dict.items()}
    encoder = ConvEncoder(channels, 4 * channels)
    injection = MeanInjection(channels)
    mean, std = torch.tensor(MEAN, dtype=torch.float64), torch.tensor(STD, dtype=torch.float64)

    def fill(conv: nn.Module, norm: nn.Module, source: str, target: str, *, of_image: bool) -> None:
        weight, shift = state[f"{source}.weight"], state[f"{source}.bias"]
        if of_image:
            weight = weight / std[:, None, None]
            shift = shift - (weight.sum((2, 3)) * mean).sum(1)
        running_mean = state[f"{target}.running_mean"] - shift  # the norm subtracts what the convolution does not add
        conv.load_state_dict({"weight": weight})
        rest = {name: state[f"{target}.{name}"] for name in ("weight", "bias", "running_var", "num_batches_tracked")}
        norm.load_state_dict({"running_mean": running_mean, **rest})

    fill(encoder.color[0], encoder.color[1], "conv.ds.0", "conv.ds.1", of_image=True)
    fill(encoder.context[0], encoder.context[1], "conv.cv.0", "conv.cv.1", of_image=True)
    fill(encoder.context[3], encoder.context[4], "conv.cv.3", "conv.cv.4", of_image=False)
    injection.linear.load_state_dict(
        {"weight": state["linear.weight"] * std[:, None], "bias": state["linear.bias"] * std + mean}
    )
    return encoder, injection


def _shapes(channels: int) -> dict[str, tuple[int, ...]]:
    hidden = 4 * channels
    sizes = dict(zip(_NORMS, (channels, hidden, channels), strict=True))
    parts = ("weight", "bias", "running_mean", "running_var")
    norms = {f"{norm}.{part}": (size,) for norm, size in sizes.items() for part in parts}
    return {
        "linear.weight": (3, channels),
        "linear.bias": (3,),
        "conv.ds.0.weight": (channels, 3, 1, 1),
        "conv.ds.0.bias": (channels,),
        "conv.cv.0.weight": (hidden, 3, 2, 2),
        "conv.cv.0.bias": (hidden,),
        "conv.cv.3.weight": (channels, hidden, 2, 2),
        "conv.cv.3.bias": (channels,),
        **norms,
        **{f"{norm}.num_batches_tracked": () for norm in _NORMS},
    }


def _check(state: Mapping[str, Tensor]) -> int:
    """The number of features."""
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise TypeError(f"state_dict: expected tensors; found {type(value).__name__} at {name!r}")
    required = _shapes(1).keys()
    missing = sorted(required - state.keys())
    unexpected = sorted(map(str, state.keys() - required - set(UNUSED)))
    if missing or unexpected:
        raise ValueError(
            f"state_dict: expected the keys of a released dHT tokenizer; missing: {', '.join(missing) or 'none'}; "
            f"unexpected: {', '.join(unexpected) or 'none'}"
        )
    channels = max([1, *state["linear.weight"].shape[-1:]])
    for name, shape in _shapes(channels).items():
        if tuple(state[name].shape) != shape:
            raise ValueError(f"state_dict: {name}: expected {_show(shape)}; found {_show(state[name].shape)}")
    return channels


def _show(shape: Sequence[int]) -> str:
    return f"[{','.join(map(str, shape))}]"
