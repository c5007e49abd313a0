"""timm, transformers and torchvision, also where torchvision's wheel is of another build of torch."""

import importlib
import importlib.util
import sys
from types import ModuleType

import torch


def library(name: str) -> ModuleType:
    """Import `timm`, `transformers` or `torchvision`; ImportError says what to install."""
    if importlib.util.find_spec("torchvision") is not None:
        _import_torchvision()  # timm needs it, and transformers imports it where it is there
    elif name in ("timm", "torchvision"):
        raise ImportError(f"{name} needs torchvision: pip install --no-deps torchvision")
    if importlib.util.find_spec(name) is None:
        raise ImportError(f"{name} is not installed: pip install {name}")
    return importlib.import_module(name)


def _import_torchvision() -> None:
    """Its wheels of another build of torch cannot register its operators: then without those, which no model needs."""
    try:
        import torchvision
    except RuntimeError:
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        for name in ("nms", "qnms"):
            torch.library.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float threshold) -> Tensor")
        import torchvision  # noqa: F401
