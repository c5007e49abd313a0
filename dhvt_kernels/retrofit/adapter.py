"""What a retrofit needs to know about a model, and which models it knows."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

from torch import Tensor, nn

from .blocks import run_blocks

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


class Adapter(ABC):
    """How one family of models embeds patches, places them, and goes on with tokens: three methods.

    To retrofit a model that this package does not know, subclass this, set the attributes, write the three methods, and
    pass the class: `retrofit(model, tokenizer, adapter=MyAdapter)` (docs/retrofit.md has an example).

    Args:
        model: the model; its parameters stay where they are, an adapter has none of its own.
    """

    patch_size: int
    """Side P of a patch, pixels."""
    channels: int
    """Channels C of the images."""
    width: int
    """Width D of a token."""
    mean: Sequence[float]
    """What the model's images are normalised with, per channel: `(image in [0, 1] - mean) / std`."""
    std: Sequence[float]

    def __init__(self, model: nn.Module) -> None:
        self.model: Any = model

    @abstractmethod
    def embed(self, patches: Tensor) -> Tensor:
        """Patches `[B,N,C,P,P]` to tokens `[B,N,D]`, without position: the model's patch embedding."""

    @abstractmethod
    def positions(self, height: int, width: int) -> Tensor | None:
        """The model's position table `[gh,gw,D]` over an image of this size, in pixels; None for a model without."""

    @abstractmethod
    def forward(self, tokens: Tensor, mask: Tensor | None) -> Any:
        """All that comes after: from tokens `[B,N,D]` with positions to what the model returns.

        Args:
            tokens: 0 where the mask is False. The method adds class, distillation and register tokens itself.
            mask: bool `[B,N]`, False for padding, which no real token may see; None: all are real.
        """

    def features(self, tokens: Tensor, mask: Tensor | None, layers: Sequence[int]) -> tuple[Tensor, ...]:
        """The tokens `[B,N,D]` after some of the model's blocks and its final norm; for `Retrofit.features` only.

        Args:
            tokens: as in `forward`.
            mask: as in `forward`.
            layers: indices of blocks; negative ones count from the last.

        Returns:
            One tensor per index, in their order, without class, distillation and register tokens.
        """
        raise NotImplementedError(
            f"{type(self).__name__}: expected a method features(tokens, mask, layers) that returns the tokens [B,N,D] "
            "after these blocks (docs/retrofit.md); found none"
        )

    def run(
        self, blocks: Sequence[Any], tokens: Tensor, mask: Tensor | None, layers: Sequence[int] = (-1,)
    ) -> tuple[Tensor, ...]:
        """Run a stack of blocks; for `forward` and `features`.

        Args:
            blocks: modules or functions from `(tokens, keys)` to tokens, see `keys`.
            tokens: `[B,F+N,D]`: F of the model's own, then those that `forward` was given.
            mask: bool `[B,N]` or None, as `forward` was given it.
            layers: indices of blocks; negative ones count from the last. Those after the last of them do not run.

        Returns:
            The tokens `[B,F+N,D]` after each of these blocks; anything, but finite, where there is padding.

        Raises:
            TypeError: indices that are not integers.
            ValueError: an index out of range.
        """
        return run_blocks(self, blocks, tokens, mask, layers)

    def keys(self, tokens: Tensor, mask: Tensor) -> Any:
        """What a block takes, after `tokens [B,F+N,D]`, in place of `mask [B,F+N]`: None where all tokens are real."""
        return mask

    def fused(self) -> bool:
        """Whether the blocks call torch's `scaled_dot_product_attention`, as far as the model says; else `"auto"` does
        not even try a packed row."""
        return True

    def block(
        self, block: Any, tokens: Tensor, keys: Any, inside: Callable[[Callable[..., Any]], Callable[..., Any]] | None
    ) -> Tensor:
        """Call one block, within `inside` where there is one.

        A family with gradient checkpointing overrides it: `inside` goes round what is computed again.
        """
        return (block if inside is None else inside(block))(tokens, keys)


#: Module of the adapter and its class, by module and name of the model's class.
FAMILIES = {
    ("timm.models.vision_transformer", "VisionTransformer"): ("timm_vit", "TimmAdapter"),
    ("timm.models.deit", "VisionTransformerDistilled"): ("timm_vit", "TimmAdapter"),
    ("torchvision.models.vision_transformer", "VisionTransformer"): ("torchvision_vit", "TorchvisionAdapter"),
    **{
        (f"transformers.models.{family}.modeling_{family}", name): ("transformers_vit", adapter)
        for family, adapter, names in (
            ("vit", "ViTAdapter", ("ViTModel", "ViTForImageClassification")),
            ("dinov2", "Dinov2Adapter", ("Dinov2Model", "Dinov2ForImageClassification")),
            ("clip", "CLIPAdapter", ("CLIPVisionModel", "CLIPVisionModelWithProjection", "CLIPForImageClassification")),
            ("siglip", "SiglipAdapter", ("SiglipVisionModel", "SiglipForImageClassification")),
        )
        for name in names
    },
}


def find_adapter(model: nn.Module) -> Adapter:
    """The adapter of a known model, found by the name of its class: nothing is imported that is not there already."""
    cls = type(model)
    for base in cls.__mro__:
        found = FAMILIES.get((base.__module__, base.__name__))
        if found is None:
            continue
        changed = sorted(
            name
            for between in cls.__mro__[: cls.__mro__.index(base)]
            for name, value in vars(between).items()
            if callable(value) and name in vars(base) and name != "__init__"
        )
        if changed:
            raise unsupported(model, f"{cls.__name__} overrides {', '.join(changed)} of {base.__name__}")
        return getattr(import_module(f".{found[0]}", __package__), found[1])(model)
    raise unsupported(model, f"{cls.__module__}.{cls.__qualname__}")


def unsupported(model: nn.Module, found: str) -> TypeError:
    """The error for a model that no adapter fits."""
    names: dict[str, list[str]] = {}
    for module, name in FAMILIES:
        names.setdefault(module.split(".")[0], []).append(name)
    known = "; ".join(f"{library}: {', '.join(classes)}" for library, classes in names.items())
    return TypeError(
        f"model: found {found}; expected one of {known}; or adapter=, a subclass of dhvt_kernels.Adapter with the "
        "methods embed, positions and forward (docs/retrofit.md)"
    )
