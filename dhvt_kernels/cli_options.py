"""The options of the tokenizer, for every command that has one."""

import inspect
from collections.abc import Callable
from typing import Annotated, Any, Literal

import torch
import typer

from .tokenizer import Tokenizer

#: Type and help of each of the tokenizer's parameters that has a meaning in a shell.
OPTIONS: dict[str, tuple[Any, str]] = {
    "max_tokens": (int | None, "Budget of tokens for each picture; none by default."),
    "leaves": (Literal["soft", "pixels"], "What the hierarchy starts from."),
    "cell": (int, "Side of a soft leaf's cell in pixels."),
    "iterations": (int, "Updates of the soft leaves."),
    "compactness": (float, "Weight of position against colour in the soft leaves."),
    "temperature": (float, "Softness of the assignment of pixels to leaves."),
    "smoothing": (float, "Sigma of the Gaussian smoothing of the features, in pixels."),
    "distance": (Literal["contrast", "ward_length", "ward_root", "ward", "feature"], "What is merged first."),
    "merge_compactness": (float, "Weight of position in the distance."),
    "merge_noise": (
        float | None,
        "Noise in the distance contrast, in squared units of the features; by default --noise.",
    ),
    "depth": (int | None, "Levels of the hierarchy; all by default, 1 = only leaves."),
    "criterion": (
        Literal["bic", "aic", "aicc", "hqc", "cic", "mdl", "fixed"],
        "Information criterion; fixed: as many tokens as --max-tokens allows.",
    ),
    "noise": (float, "Variance of noise and texture, in squared units of the features."),
    "pixel_correlation": (float, "Pixels that count as one sample."),
    "strength": (float, "Factor on the criterion's penalty: more gives fewer tokens."),
    "select": (Literal["optimal", "greedy"], "How the cut of the hierarchy is chosen."),
    "lookahead": (int, "Generations that the greedy selection looks down."),
    "min_gain": (float, "Least gain of a greedy split."),
    "selection_temperature": (float, "Softness of the expected number of tokens."),
}


def tokenizer_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command an option for each of the tokenizer's parameters in place of its `**parameters`."""
    signature = inspect.signature(command)
    defaults = inspect.signature(Tokenizer).parameters
    own = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    added = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=defaults[name].default,
            annotation=Annotated[kind, typer.Option(help=text, rich_help_panel="Tokenizer")],
        )
        for name, (kind, text) in OPTIONS.items()
    ]
    # typer asks for both.
    command.__signature__ = signature.replace(parameters=[*own, *added])  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in (*own, *added)}
    return command


def build_tokenizer(parameters: dict[str, Any], device: str) -> Tokenizer:
    """The tokenizer of these options on a device.

    Raises:
        typer.BadParameter: there is no such device, or the options do not fit.
    """
    try:
        torch.empty(0, device=device)
    except (AssertionError, RuntimeError) as error:  # torch's message about an unknown name lists every device there is
        reason = "" if "device string" in str(error) else f" ({one_line(error)})"
        raise typer.BadParameter(f"device: cannot use {device!r}{reason}") from error
    try:
        tokenizer = Tokenizer(**parameters).to(device).eval()
        tokenizer(torch.zeros(1, 3, 1, 1, device=device))  # some parameters are checked only here
    except (TypeError, ValueError) as error:
        raise typer.BadParameter(one_line(error)) from error
    return tokenizer


def one_line(error: Exception) -> str:
    """What went wrong, without line breaks."""
    return " ".join(str(error).split()) or type(error).__name__
