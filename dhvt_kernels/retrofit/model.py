"""A pretrained Vision Transformer that takes adaptive tokens in place of its fixed patches."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .._checks import FLOATING, check_choice, check_int, check_tensors
from ..ops import segment_gather, token_patches
from ..partition import Partition
from .adapter import Adapter, find_adapter
from .choice import ATTENTION, attend
from .images import image_ends, image_sizes, mean_position, normalisation
from .tokens import compact, truncate, windows

ALIGN = ("budget", "truncate", "pad")
TOKENS = ("windows", "boxes", "features")


def retrofit(
    model: nn.Module,
    tokenizer: nn.Module,
    *,
    tokens: str = "windows",
    align: str = "budget",
    max_tokens: int | None = None,
    attention: str = "auto",
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    adapter: Callable[[nn.Module], Adapter] | None = None,
) -> "Retrofit":
    """Give a pretrained Vision Transformer adaptive tokens in place of its fixed patches.

    A token is a segment of the tokenizer's partition: a square window around its centroid, resampled to the size of a
    patch, goes through the model's own patch embedding, and its position is the mean of the model's own position table
    over the segment::

        token_k = embed(share_k patch_k + (1 - share_k) filler) + sum_g histogram_k,g table_g
        share_k = mask_k + mix (1 - mask_k)

    The patches are those of the image with `W f_k + b` added to each segment's mean, where `f_k` are the segment's
    features. New and learned are `W`, `b` (0 at first: the image as it is), `filler` (0 at first) and the share `mix`
    of the background that stays (0.95 at first; the parameter is its logit). On the regular grid of patches
    (`GridTokenizer`) the result is what the model itself computes.

    Args:
        model: a `VisionTransformer` of timm or torchvision, a ViT, DINOv2, CLIP or SigLIP of transformers
            (docs/retrofit.md has the list), or any with an adapter. It is not copied: its parameters are those of the
            result.
        tokenizer: a `Tokenizer`, a `GridTokenizer`, or a module from images in [0, 1] and a mask (or None) to a
            `Partition`. It becomes part of the result, too, and is trained with it.
        tokens: what the patch of a segment is:
            `"windows"`: a square around its centroid with as many pixels as it has, or at least `P x P`, inside the
            image: never magnified or distorted, as the model knows its patches;
            `"boxes"`: its bounding box, resampled to `P x P`, as published;
            `"features"`: none; a learned projection of its features, instead of the patch embedding.
        align: how images come to numbers of tokens that fit into one batch:
            `"budget"`: segments merge, by the strength of the tokenizer's criterion, until `max_tokens` are left or
            fewer;
            `"truncate"`: of more than `max_tokens` segments, those of least information are dropped;
            `"pad"`: none are merged or dropped, and there is no `max_tokens`.
            In every case rows with fewer tokens than the longest are padded, and the padding is masked.
        max_tokens: N. None: the tokenizer's, or else as many as the model has patches for images of this size.
        attention: how the model attends to rows with different numbers of tokens; the results are the same
            (docs/retrofit.md has what each costs, and the rule of `"auto"`):
            `"mask"`: the padding is masked;
            `"buckets"`: rows of similar length go through the blocks together, padded to their own longest;
            `"nested"`, `"varlen"`, `"flex"`: all tokens go through the blocks in one row without padding, and attend
            to those of their image: with jagged nested tensors, with a kernel for rows of different length (or image
            by image, where there is none), with a compiled FlexAttention.
        mean: what the images are normalised with, per channel, `(image in [0, 1] - mean) / std`: undone for the
            tokenizer. None: as the model's family was trained (docs/retrofit.md). `mean=(0, 0, 0), std=(1, 1, 1)` for
            images in [0, 1].
        std: see mean.
        adapter: of a model that is not known, a subclass of `Adapter`. None: found by the model's class.

    Returns:
        A module from images, normalised as for `model`, to what `model` returns; `.model`, `.tokenizer`. Its state dict
        has the model's under `model.`; `load_state_dict` takes one of the model alone as well.

    Raises:
        TypeError: a model that is not supported, with what is; arguments of another type.
        ValueError: a value out of range, or that does not fit another argument.

    Note:
        Gradients reach the model, the new parameters, and the tokenizer's features: through W f + b and the selection.
        To pad no more than is needed the host waits for the numbers of tokens, once per call; in a compiled or captured
        graph it does not, and every row is padded to N. The images are copied twice: with the means added, and as
        patches.

    Example:
        >>> import torch, dhvt_kernels as dk
        >>> from torch import nn
        >>> class Sum(dk.Adapter):  # of a toy that adds up 4 x 4 patches
        ...     patch_size, channels, width, mean, std = 4, 3, 5, (0, 0, 0), (1, 1, 1)
        ...
        ...     def embed(self, patches):
        ...         return self.model(patches.flatten(2))
        ...
        ...     def positions(self, height, width):
        ...         return None
        ...
        ...     def forward(self, tokens, mask):
        ...         return tokens.sum(1)
        >>> vit = dk.retrofit(nn.Linear(48, 5), dk.Tokenizer(), max_tokens=7, adapter=Sum)
        >>> vit(torch.rand(2, 3, 32, 32)).shape
        torch.Size([2, 5])
    """
    for name, value in (("model", model), ("tokenizer", tokenizer)):
        if not isinstance(value, nn.Module):
            raise TypeError(f"{name}: expected an nn.Module; found {type(value).__name__}")
    check_choice("tokens", tokens, TOKENS)
    check_choice("align", align, ALIGN)
    check_choice("attention", attention, ATTENTION)
    if max_tokens is not None:
        check_int("max_tokens", max_tokens, 1)
        if align == "pad":
            raise ValueError('max_tokens: expected None with align="pad", which neither merges nor drops tokens')
    chosen = find_adapter(model) if adapter is None else adapter(model)
    if not isinstance(chosen, Adapter):
        raise TypeError(f"adapter: expected a subclass of Adapter; found {type(chosen).__name__}")
    options = _Options(tokens, attention, align, max_tokens)
    return Retrofit(chosen, tokenizer, options, normalisation(chosen, mean, std))


@dataclass(frozen=True)
class _Options:
    tokens: str
    attention: str
    align: str
    max_tokens: int | None


class Features(NamedTuple):
    """What `Retrofit.features` returns."""

    tokens: tuple[Tensor, ...]
    """`[B,N,D]` for each of the layers asked for; anything, but finite, where there is padding."""
    mask: Tensor | None
    """bool `[B,N]`, False for padding; None: all tokens are real."""
    partition: Partition
    """The segments that the tokens are, in N slots."""


class Retrofit(nn.Module):
    """What `retrofit` returns: a Vision Transformer on adaptive tokens."""

    mean: Tensor
    std: Tensor
    tokenizer: Any
    injection: nn.Linear
    filler: nn.Parameter
    mix: nn.Parameter
    projection: nn.Linear

    def __init__(
        self, adapter: Adapter, tokenizer: nn.Module, options: _Options, normalisation: tuple[Tensor, Tensor]
    ) -> None:
        super().__init__()
        self.adapter = adapter
        self.options = options
        self.model: nn.Module = adapter.model
        self.tokenizer = tokenizer
        parameter = next(self.model.parameters(), torch.zeros(()))
        like: dict[str, Any] = {"device": parameter.device, "dtype": parameter.dtype}
        self.register_buffer("mean", normalisation[0].to(parameter.device), persistent=False)
        self.register_buffer("std", normalisation[1].to(parameter.device), persistent=False)
        features = self._count_features()
        if options.tokens != "features":
            size, channels = adapter.patch_size, adapter.channels
            self.injection = nn.Linear(features, channels, **like)
            nn.init.zeros_(self.injection.weight)
            nn.init.zeros_(self.injection.bias)
            self.filler = nn.Parameter(torch.zeros(channels, size, size, **like))
            self.mix = nn.Parameter(torch.full((1,), 3.0, **like))
        else:
            self.projection = nn.Linear(features, adapter.width, **like)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "model" and value is not self._modules.get("model", value):
            raise AttributeError(
                "model: expected the one that was retrofitted, to which the adapter belongs; for another one call "
                "retrofit again"
            )
        super().__setattr__(name, value)

    def forward(self, images: Tensor, partition: Partition | None = None, *, mask: Tensor | None = None) -> Any:
        """Run the model on adaptive tokens.

        Args:
            images: `[B,C,H,W]`, floating, normalised as for the model; any H and W of at least a patch.
            partition: the tokens, of `[B,H,W]` pixels; None: `self.tokenize(images, mask)`. One that is given is
                truncated with `align="truncate"`, and else taken as it is.
            mask: bool `[B,H,W]`, False for pixels that belong to no image: the padding at the right and below of images
                of different size (`pad_images`). Each image has the positions that it would have alone; for that
                the host reads the mask. A partition of a padded batch that is given needs its mask, too.

        Returns:
            What the model returns. Where it returns tokens, those of the segments come in their order.

        Raises:
            TypeError: not tensors, or another dtype.
            ValueError: shapes that do not agree, an image smaller than a patch, a mask that leaves out other pixels
                than those at the right and below, or a budget that the tokenizer cannot meet.
        """
        tokens, real, partition, counts = self._tokens(images, partition, mask)
        return attend(self.adapter.forward, self.options.attention, tokens, real, counts)

    def features(
        self,
        images: Tensor,
        partition: Partition | None = None,
        *,
        mask: Tensor | None = None,
        layers: Sequence[int] | None = None,
    ) -> Features:
        """The tokens after some of the model's blocks, for dense prediction: `partition.labels` says whose pixels.

        Args:
            images: as in `forward`.
            partition: as in `forward`.
            mask: as in `forward`.
            layers: indices of the model's blocks; negative ones count from the last. None: the last.

        Returns:
            `Features`: a token per segment, without the model's own tokens, each after the model's final norm.

        Raises:
            NotImplementedError: an adapter without the method `features`.
            TypeError: as `forward`, or layers that are not integers.
            ValueError: as `forward`; layers that the model does not have; a model that drops tokens in training
                (`patch_drop_rate` of timm), so that they would not be those of the segments.
        """
        wanted = (-1,) if layers is None else layers
        if not isinstance(wanted, Sequence):
            raise TypeError(f"layers: expected a sequence of integers, or None; found {type(wanted).__name__}")
        tokens, real, partition, counts = self._tokens(images, partition, mask)
        method = partial(self.adapter.features, layers=wanted)
        found = attend(method, self.options.attention, tokens, real, counts)
        return Features(found, real, partition)

    def _tokens(
        self, images: Tensor, partition: Partition | None, mask: Tensor | None
    ) -> tuple[Tensor, Tensor | None, Partition, list[int] | None]:
        """Tokens `[B,N,D]` with positions, 0 where there is none; which are real, None for all; partition; counts."""
        sizes = self._check(images, mask)
        if partition is None:
            partition = self._tokenize(images, mask)
        else:
            self._check_partition(partition, images)
            partition = self._align(partition, images)
        partition, real, counts = compact(partition)
        tokens = self.embed(images, partition, sizes)
        positions = self.positions(partition, sizes)
        if positions is not None:
            tokens = tokens + positions
        if partition.selection_gradient:
            tokens = tokens * partition.gate.unsqueeze(-1).to(tokens.dtype)
        if real is not None:
            tokens = tokens.masked_fill(~real.unsqueeze(-1), 0)
        return tokens, real, partition, counts

    def tokenize(self, images: Tensor, mask: Tensor | None = None) -> Partition:
        """The partition of images, normalised as for the model, into at most N segments; arguments as in `forward`."""
        self._check(images, mask)
        return self._tokenize(images, mask)

    def embed(self, images: Tensor, partition: Partition, sizes: list[tuple[int, int]] | None = None) -> Tensor:
        """Tokens `[B,N,D]` of the segments, without positions; arguments as in `forward` and `positions`."""
        if self.options.tokens == "features":
            return self.projection(partition.features.to(self.projection.weight.dtype))
        shift = self.injection(partition.features.to(self.injection.weight.dtype))
        images = images + segment_gather(shift.to(images.dtype), partition.labels)
        moments, size = partition.moments(images[:, :1].detach()), self.adapter.patch_size
        boxes = moments.box
        if self.options.tokens == "windows":
            boxes = windows(moments, size, image_ends(images, sizes))
        patches, masks = token_patches(images, partition.labels, boxes, size=size)
        share = masks + self.mix.sigmoid().to(masks.dtype) * (1 - masks)
        return self.adapter.embed(torch.lerp(self.filler.to(patches.dtype), patches, share))

    def positions(self, partition: Partition, sizes: list[tuple[int, int]] | None = None) -> Tensor | None:
        """`[B,N,D]`: the mean of the position table over each segment; None for a model without.

        Args:
            partition: of `[B,H,W]` pixels.
            sizes: the true (height, width) of each image of a padded batch. Images of one size go together.
        """
        labels, number = partition.labels, partition.num_segments
        if sizes is None:
            return mean_position(labels, number, self.adapter.positions(*labels.shape[1:]))
        groups: dict[tuple[int, int], list[int]] = {}
        for b, size in enumerate(sizes):
            groups.setdefault(size, []).append(b)
        order, parts = [], []
        for (height, width), rows in groups.items():
            index = torch.tensor(rows).to(labels.device, non_blocking=True)
            part = mean_position(labels[index, :height, :width], number, self.adapter.positions(height, width))
            if part is None:
                return None
            order.extend(rows)
            parts.append(part)
        if len(parts) < 2:
            return parts[0] if parts else None
        return torch.cat(parts)[torch.tensor(order).argsort().to(labels.device, non_blocking=True)]

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *more: Any) -> None:
        """Takes the state dict of the model alone as well: what the retrofit adds then keeps its values."""
        mine = [key for key in state_dict if key.startswith(prefix)]
        own = self.model.state_dict().keys()
        whole = any(key.removeprefix(f"{prefix}model.") in own for key in mine if key.startswith(f"{prefix}model."))
        if not whole and any(key.removeprefix(prefix) in own for key in mine):
            for key in mine:
                state_dict[f"{prefix}model.{key.removeprefix(prefix)}"] = state_dict.pop(key)
            added = {key: value for key, value in self.state_dict().items() if not key.startswith("model.")}
            state_dict.update({prefix + key: value for key, value in added.items()})
        super()._load_from_state_dict(state_dict, prefix, *more)

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value!r}" for name, value in vars(self.options).items())

    def _count_features(self) -> int:
        """Features per segment, from an empty image."""
        training = [module for module in self.tokenizer.modules() if module.training]
        side = self.adapter.patch_size
        image = self.mean.new_zeros(1, self.adapter.channels, side, side, dtype=self._tokenizer_dtype())
        try:
            with torch.no_grad():
                partition = self.tokenizer.eval()(image, None)
        finally:
            for module in training:
                module.training = True
        if not isinstance(partition, Partition):
            raise TypeError(f"tokenizer: expected a module that returns a Partition; found {type(partition).__name__}")
        return partition.node_features.shape[-1]

    def _tokenizer_dtype(self) -> torch.dtype | None:
        """That of a learned encoder; None: the tokenizer has no parameters, and takes any."""
        return next((p.dtype for p in self.tokenizer.parameters() if p.is_floating_point()), None)

    def _tokenize(self, images: Tensor, mask: Tensor | None) -> Partition:
        plain = (images * self.std + self.mean).clamp(0, 1)
        if mask is not None:
            plain = plain.masked_fill(~mask.unsqueeze(1), 0)  # a learned encoder looks at it
        dtype = self._tokenizer_dtype()
        plain = plain if dtype is None else plain.to(dtype)
        limit = self._limit(images)
        if self.options.align == "budget" and hasattr(self.tokenizer, "hierarchy"):
            partition = self.tokenizer.hierarchy(plain, mask).cut(max_tokens=limit)
        else:
            partition = self.tokenizer(plain, mask)
        partition = self._align(partition, images)
        if self.options.align == "budget" and partition.num_segments > limit:
            partition, _, counts = compact(partition)
            # Where the host does not know the counts, a mask covers the slots that are not used.
            if counts is not None and partition.num_segments > limit:
                raise ValueError(
                    f"max_tokens: the tokenizer gives {partition.num_segments} segments, and cannot merge them to "
                    f'{limit}: expected one with hierarchy(images, mask) that is complete, or align="truncate"'
                )
        return partition

    def _limit(self, images: Tensor) -> int:
        own = getattr(getattr(self.tokenizer, "selection", None), "max_tokens", None)
        side = self.adapter.patch_size
        return self.options.max_tokens or own or -(-images.shape[2] // side) * -(-images.shape[3] // side)

    def _align(self, partition: Partition, images: Tensor) -> Partition:
        if self.options.align == "truncate":
            return truncate(partition, images, self._limit(images))
        return partition

    def _check(self, images: Tensor, mask: Tensor | None) -> list[tuple[int, int]] | None:
        """Raises what `forward` promises; the size of each image where there is a mask."""
        check_tensors(images=(images, "B C H W", FLOATING), mask=(mask, "B H W?", torch.bool))
        side, channels = self.adapter.patch_size, self.adapter.channels
        if images.shape[1] != channels:
            raise ValueError(f"images: expected [B,{channels},H,W]; found {list(images.shape)}")
        sizes = None if mask is None else image_sizes(mask)
        for height, width in sizes if sizes is not None else [tuple(images.shape[2:])]:
            if height < side or width < side:
                raise ValueError(
                    f"images: expected at least one patch of {side} x {side} pixels; found {height} x {width}"
                )
        return sizes

    def _check_partition(self, partition: Partition, images: Tensor) -> None:
        if not isinstance(partition, Partition):
            raise TypeError(f"partition: expected a Partition; found {type(partition).__name__}")
        expected = [images.shape[0], *images.shape[2:]]
        if list(partition.labels.shape) != expected:
            raise ValueError(f"partition: expected labels {expected}; found {list(partition.labels.shape)}")
        layer = self.injection if self.options.tokens != "features" else self.projection
        if partition.node_features.shape[-1] != layer.in_features:
            raise ValueError(
                f"partition: expected {layer.in_features} features, as the tokenizer gives; "
                f"found {partition.node_features.shape[-1]}"
            )
