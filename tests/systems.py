"""For the tests of `benchmarks.models`: tiny systems with random weights, and images."""

import torch
import vits

from benchmarks import models

MINI = {"classes": 5, "size": 64, "backbone": "vit_mini"}  # 16 patches, 4 blocks


def classifier(name, **options):
    """In evaluation mode, every parameter of the backbone random: some are 0 or 1 as they come."""
    vits.library("timm")
    model = models.classifier(name, **{**MINI, **options}).eval()
    scramble(vit_of(model))
    return model


def segmenter(name, **options):
    """In evaluation mode, every parameter random."""
    vits.library("timm")
    model = models.segmenter(name, tokens=9, channels=8, **{**MINI, **options}).eval()
    scramble(model)
    return model


def vit_of(model):
    return model.vit.model if isinstance(model, models.Adaptive) else model.backbone


def scramble(module):
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=0.2)


def photos(batch=2, size=64):
    """Crops of a photograph, normalised."""
    return (vits.photos(batch, size, size) - 0.45) / 0.225
