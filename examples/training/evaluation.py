"""Top-1 and top-5, or mean intersection over union; tokens per image, and milliseconds of tokenizer and backbone."""

from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader
from tqdm import tqdm

from .augment import IGNORE
from .config import Config, ConfigError
from .data import Batch
from .model import Timer


def evaluate(model: Any, batches: DataLoader[Batch], config: Config, accelerator: Accelerator) -> dict[str, float]:
    """Figures over all processes; corrupt images are counted, and take no part."""
    dense, classes = config.task == "segmentation", config.model.classes
    counts = torch.zeros(classes**2 if dense else 2, dtype=torch.float64, device=accelerator.device)
    general = torch.zeros(3, dtype=torch.float64, device=accelerator.device)  # images, tokens, skipped
    training, model.timer = model.training, Timer(accelerator.device)
    model.eval()
    try:
        with torch.no_grad():
            for batch in tqdm(batches, "evaluation", leave=False, disable=not accelerator.is_main_process):
                for name in batch.skipped:
                    tqdm.write(f"corrupt image left out of the evaluation: {name}")
                images, labels = batch.images.to(accelerator.device), batch.labels.to(accelerator.device)
                valid = batch.valid.to(accelerator.device)
                with accelerator.autocast():
                    output = model(images)
                figures = confusion(output["logits"], labels) if dense else hits(output["logits"], labels)
                counts += figures[valid].sum(0)
                tokens = output["tokens"][valid].sum()
                general += torch.stack([valid.sum(), tokens, torch.tensor(len(batch.skipped), device=valid.device)])
        seconds = model.timer.seconds
    finally:
        model.timer = None
        model.train(training)
    times = torch.tensor([seconds["tokenizer"], seconds["backbone"]], dtype=torch.float64, device=accelerator.device)
    counts, general, times = (accelerator.reduce(values, "sum").cpu() for values in (counts, general, times))
    images = float(general[0])
    if not images:
        raise ConfigError(f"data.val: expected images; none can be read, {int(general[2])} are corrupt")
    result = {"mIoU": mean_iou(counts.reshape(classes, classes))} if dense else _shares(counts, images)
    return {
        **result,
        "images": images,
        "skipped": float(general[2]),
        "tokens": float(general[1]) / images,
        "tokenizer_ms": 1e3 * float(times[0]) / images,
        "backbone_ms": 1e3 * float(times[1]) / images,
    }


def _shares(counts: Tensor, images: float) -> dict[str, float]:
    return {"top1": 100 * float(counts[0]) / images, "top5": 100 * float(counts[1]) / images}


def hits(logits: Tensor, labels: Tensor) -> Tensor:
    """Of each image, whether its class is the first, and among the first five, `[B,2]`."""
    best = logits.topk(min(5, logits.shape[1]), 1).indices == labels.unsqueeze(1)
    return torch.stack([best[:, 0], best.any(1)], 1).double()


def confusion(logits: Tensor, labels: Tensor) -> Tensor:
    """Pixels of each image by class and prediction, `[B,classes^2]`, at the size of the labels; ignored ones not."""
    classes = logits.shape[1]
    if logits.shape[2:] != labels.shape[1:]:
        logits = F.interpolate(logits.float(), labels.shape[1:], mode="bilinear", align_corners=False)
    predicted = logits.argmax(1)
    rows = [
        torch.bincount(truth[truth != IGNORE] * classes + guess[truth != IGNORE], minlength=classes**2)
        for truth, guess in zip(labels, predicted, strict=True)
    ]
    return torch.stack(rows).double()


def mean_iou(matrix: Tensor) -> float:
    """Percent, over the classes that occur in the labels or the predictions."""
    union = matrix.sum(0) + matrix.sum(1) - matrix.diagonal()
    return 100 * float((matrix.diagonal() / union)[union > 0].mean()) if bool((union > 0).any()) else 0.0
