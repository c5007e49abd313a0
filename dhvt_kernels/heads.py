"""Dense prediction with tokens: each token is written back to its pixels through the labels (docs/heads.md)."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ._checks import FLOATING, LABELS, check_int, check_tensors
from .ops import position_histogram, segment_gather, segment_pool
from .partition import Partition

__all__ = ["DenseHead", "Segmenter", "UperNetHead"]

#: Pixels per side of a cell of the four maps of UperNet.
STRIDES = (4, 8, 16, 32)


class DenseHead(nn.Module):
    """A linear layer or an MLP on each token; a pixel has the logits of its token.

        out_i = W_2 gelu(W_1 t_k + b_1) + b_2   for a pixel i of segment k; 0 for a pixel without a segment

    Without `hidden` it is `W t_k + b`. Its cost is that of the tokens, not of the pixels, and the borders of what it
    predicts are those of the tokens.

    Args:
        width: of a token, D.
        classes: number of classes.
        hidden: width of the MLP's hidden layer; None for a linear layer.

    Raises:
        TypeError: not integers.
        ValueError: a number below 1.

    Note:
        A pixel without a segment, label -1, has logits of 0: it belongs to no image (padding), or its token was dropped
        (`align="truncate"` of `retrofit`). Gradients reach the tokens. Deterministic.

    Example:
        >>> import torch, dhvt_kernels as dk
        >>> partition = dk.Tokenizer()(torch.rand(2, 3, 32, 32))
        >>> head = dk.heads.DenseHead(partition.features.shape[-1], 5)
        >>> head(partition.features, partition.labels).shape
        torch.Size([2, 5, 32, 32])
    """

    #: Of the last block of a model (see `Retrofit.features`).
    layers = None

    def __init__(self, width: int, classes: int, hidden: int | None = None) -> None:
        super().__init__()
        check_int("width", width, 1)
        check_int("classes", classes, 1)
        self.classifier: nn.Module
        if hidden is None:
            self.classifier = nn.Linear(width, classes)
        else:
            check_int("hidden", hidden, 1)
            self.classifier = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, classes))
        self.width = width

    def forward(self, tokens: Tensor, labels: Tensor) -> Tensor:
        """Logits `[B,classes,H,W]` of tokens `[B,N,D]`, floating, and the token of each pixel, int32 `[B,H,W]`."""
        _check(tokens, labels, self.width)
        return segment_gather(self.classifier(tokens), labels)


class UperNetHead(nn.Module):
    """UperNet of transformers, on tokens of four blocks of a model.

    Block `layers[l]` becomes a map of stride `s = 4, 8, 16, 32`: a cell is the mean of its pixels, each with the value
    of its token::

        map_g = sum over k of share_gk t_k,    share_gk = |pixels of token k in cell g| / |pixels of all tokens in g|

    Where s does not divide H or W, there are `ceil(H / s)` cells of almost one size. The logits, of stride 4, are
    interpolated to the pixels; a pixel without a segment has logits of 0.

    Args:
        width: of a token, D.
        classes: number of classes.
        layers: the blocks, four indices from 0, or from the last with -1; as they come for a model of twelve.
        channels: of UperNet's own maps.
        pool_scales: sides of the grids of its pyramid pooling.

    Raises:
        ImportError: transformers cannot be imported.
        TypeError: not integers.
        ValueError: not four layers, or a number below 1.

    Note:
        In training mode batch normalisation needs two images or more, and an image depends on its batch. Padding is 0
        in the maps, and UperNet looks across the borders of an image. Gradients reach the tokens. `share` is exact up
        to one rounding; it takes `4 N / s^2` bytes per pixel in float32. On a GPU the backward of the pyramid pooling
        is not deterministic.

    Source:
        Xiao et al., Unified Perceptual Parsing for Scene Understanding, 2018; the layers are those of transformers.

    Example:
        >>> import torch, dhvt_kernels as dk
        >>> partition = dk.GridTokenizer(16)(torch.rand(1, 3, 64, 64))
        >>> tokens = [torch.rand(1, 16, 24) for _ in range(4)]
        >>> head = dk.heads.UperNetHead(24, 5, channels=8).eval()  # doctest: +SKIP
        >>> head(tokens, partition.labels).shape  # doctest: +SKIP
        torch.Size([1, 5, 64, 64])
    """

    def __init__(
        self,
        width: int,
        classes: int,
        *,
        layers: Sequence[int] = (2, 5, 8, 11),
        channels: int = 512,
        pool_scales: Sequence[int] = (1, 2, 3, 6),
    ) -> None:
        super().__init__()
        check_int("width", width, 1)
        check_int("classes", classes, 1)
        check_int("channels", channels, 1)
        for scale in pool_scales:
            check_int("pool_scales", scale, 1)
        if len(layers) != len(STRIDES) or not all(type(layer) is int for layer in layers):
            raise ValueError(f"layers: expected {len(STRIDES)} indices of blocks; found {layers!r}")
        self.width, self.layers = width, tuple(layers)
        self.decoder = _upernet(width, classes, channels, tuple(pool_scales))

    def forward(self, tokens: Sequence[Tensor], labels: Tensor) -> Tensor:
        """Logits `[B,classes,H,W]` of four times tokens `[B,N,D]`, and the token of each pixel, int32 `[B,H,W]`."""
        if isinstance(tokens, Tensor) or len(tokens) != len(STRIDES):
            found = "a tensor" if isinstance(tokens, Tensor) else len(tokens)
            raise ValueError(f"tokens: expected {len(STRIDES)} tensors [B,N,{self.width}]; found {found}")
        for layer in tokens:
            _check(layer, labels, self.width)
        maps = [token_map(layer, labels, stride) for layer, stride in zip(tokens, STRIDES, strict=True)]
        logits = F.interpolate(self.decoder(maps), size=labels.shape[1:], mode="bilinear", align_corners=False)
        return logits.masked_fill((labels < 0).unsqueeze(1), 0)


class Segmenter(nn.Module):
    """Images to logits of each pixel: a retrofitted model, and a head on its tokens.

    Args:
        vit: what `retrofit` returned.
        head: `DenseHead`, `UperNetHead`, or a module of the same form: `forward(tokens, labels)`, and `layers`, None
            for tokens `[B,N,D]` of the last block, or indices of blocks for as many of them in a tuple.

    Raises:
        TypeError: a module without `features` or `layers`.

    Example:
        >>> import timm, torch, dhvt_kernels as dk  # doctest: +SKIP
        >>> model = timm.create_model("vit_tiny_patch16_224")  # doctest: +SKIP
        >>> vit = dk.retrofit(model, dk.Tokenizer(), max_tokens=98)  # doctest: +SKIP
        >>> segmenter = dk.heads.Segmenter(vit, dk.heads.DenseHead(192, classes=21))  # doctest: +SKIP
        >>> segmenter(torch.rand(2, 3, 224, 224)).shape  # doctest: +SKIP
        torch.Size([2, 21, 224, 224])
    """

    def __init__(self, vit: nn.Module, head: nn.Module) -> None:
        super().__init__()
        for name, module, needed in (("vit", vit, "features"), ("head", head, "layers")):
            if not isinstance(module, nn.Module) or not hasattr(module, needed):
                raise TypeError(f"{name}: expected a module with {needed}; found {type(module).__name__}")
        self.vit: Any = vit
        self.head: Any = head

    def forward(self, images: Tensor, partition: Partition | None = None, *, mask: Tensor | None = None) -> Tensor:
        """Logits of every pixel.

        Args:
            images: `[B,C,H,W]`, floating, normalised as for the model.
            partition: the tokens; None: the tokenizer's (see `Retrofit.forward`).
            mask: bool `[B,H,W]`, False for pixels that belong to no image: the padding of images of different size.

        Returns:
            `[B,classes,H,W]`; 0 for pixels without a token, which are those outside the mask, and those of dropped
            tokens.

        Raises:
            TypeError, ValueError: as `Retrofit.forward`.
        """
        features = self.vit.features(images, partition, mask=mask, layers=self.head.layers)
        tokens = features.tokens
        if features.mask is not None:
            tokens = tuple(layer.masked_fill(~features.mask.unsqueeze(-1), 0) for layer in tokens)
        return self.head(tokens[0] if self.head.layers is None else tokens, features.partition.labels)


def token_map(tokens: Tensor, labels: Tensor, stride: int) -> Tensor:
    """Tokens `[B,N,D]` as a map `[B,D,ceil(H/s),ceil(W/s)]`: the mean over the pixels of each cell; 0 without any."""
    batch, height, width = labels.shape
    grid = (-(-height // stride), -(-width // stride))
    number = tokens.shape[1]
    histogram = position_histogram(labels, num_segments=number, grid=grid).flatten(2)
    ones = torch.ones(batch, 1, height, width, device=labels.device)
    pixels = (histogram * segment_pool(ones, labels, num_segments=number, reduce="sum")).round()  # [B,N,cells]
    share = pixels / pixels.sum(1, keepdim=True).clamp(min=1)
    return (tokens.transpose(1, 2) @ share.to(tokens.dtype)).unflatten(2, grid)


def _check(tokens: Tensor, labels: Tensor, width: int) -> None:
    check_tensors(tokens=(tokens, f"B N {width}", FLOATING), labels=(labels, "B H W", LABELS))


def _upernet(width: int, classes: int, channels: int, pool_scales: tuple[int, ...]) -> nn.Module:
    try:
        from transformers import UperNetConfig
        from transformers.models.upernet.modeling_upernet import UperNetHead as Decoder
    except (ImportError, RuntimeError) as error:  # a torchvision of another torch raises the latter
        raise ImportError(f"UperNetHead: expected transformers, pip install 'dhvt_kernels[models]'; {error}") from error
    config = UperNetConfig(num_labels=classes, hidden_size=channels, pool_scales=pool_scales)
    return Decoder(config, [width] * len(STRIDES))
