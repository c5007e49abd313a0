"""The systems that are compared: one interface for all, one backbone, and bad input."""

import os
import re
from pathlib import Path

import pytest
import torch
import vits
from systems import MINI, classifier, photos, vit_of
from torch.nn import functional as F

import dhvt_kernels as dk
from benchmarks import models
from benchmarks.models import backbone, tome

WEIGHTS = os.environ.get("DHVT_VIT_WEIGHTS")
needs_weights = pytest.mark.skipif(not WEIGHTS, reason="DHVT_VIT_WEIGHTS is not the path of a ViT-S/16")


@pytest.fixture(autouse=True)
def _timm():
    vits.library("timm")


@pytest.mark.parametrize("name", models.CLASSIFIERS)
def test_a_system_takes_a_step_of_training(name):
    model, images = classifier(name, tokens=9).train(), photos(4)
    before = {key: value.clone() for key, value in model.named_parameters()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    loss = F.cross_entropy(model(images), torch.tensor([0, 1, 2, 3])) + model.auxiliary_loss()
    loss.backward()
    assert loss.isfinite()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters() if parameter.grad is not None)
    optimizer.step()
    still = {key for key, value in model.named_parameters() if torch.equal(value, before[key])}
    assert not still, "all parameters learn"


@pytest.mark.parametrize("name", models.CLASSIFIERS)
def test_a_frozen_system_trains_its_head_and_what_the_method_adds(name):
    model = classifier(name, tokens=9)
    model.freeze()
    trained = {key for key, value in model.named_parameters() if value.requires_grad}
    assert "head.weight" in {key.split(".", key.count(".") - 1)[-1] for key in trained}
    of_backbone = {key for key in trained if ".blocks." in key or "patch_embed" in key or key.endswith("pos_embed")}
    assert not of_backbone
    extra = len(trained) - 2
    assert (extra > 0) == (name in ("dynamicvit", "slic", "dhvt"))
    F.cross_entropy(model.train()(photos()), torch.tensor([0, 1])).backward()
    assert all(value.grad is not None for key, value in model.named_parameters() if key in trained)


@torch.no_grad()
@pytest.mark.parametrize("name", models.CLASSIFIERS)
def test_tokenizer_and_backbone_can_run_apart(name):
    model, images = classifier(name, tokens=9), photos(3)
    expected = model(images)
    partition = model.tokenize(images)
    assert (partition is None) == (name not in ("slic", "dhvt"))
    vits.equal(model(images, partition), expected)
    assert len(model.tokens) == 4
    if partition is not None:
        assert model.tokens == [float(partition.counts.double().mean())] * 4
    limit = {"vit": 16, "slic": 12}.get(name, 9)
    assert 4 < sum(model.tokens) / 4 <= limit
    assert float(model.auxiliary_loss()) == 0


@torch.no_grad()
def test_all_systems_start_from_the_weights_of_one_backbone():
    state = {key: value.half() for key, value in classifier("vit", size=96).backbone.state_dict().items()}
    for name in models.CLASSIFIERS:
        vit = vit_of(models.classifier(name, tokens=9, weights=state, **MINI))
        assert vit.pos_embed.shape == (1, 17, 48), "6 x 6 patches to 4 x 4"
        own = vit.state_dict()
        for key in state.keys() - {"pos_embed", "head.weight", "head.bias"}:
            torch.testing.assert_close(own[key], state[key].float(), rtol=0, atol=0)
        torch.testing.assert_close(own["pos_embed"][:, 0], state["pos_embed"][:, 0].float())
        assert not torch.equal(own["head.weight"], state["head.weight"].float())


@torch.no_grad()
def test_the_hierarchy_has_the_levels_asked_for():
    images = photos(2, 96)
    leaves = [
        classifier("dhvt", size=96, depth=depth, cell=16, strength=4.0).tokenize(images).counts for depth in (1, 2, 3)
    ]
    assert (leaves[0] > leaves[1]).all()
    assert (leaves[1] >= leaves[2]).all()
    pixels = classifier("dhvt", size=96, leaves="pixels", criterion="fixed", tokens=20).tokenize(images)
    assert (pixels.counts > 12).all()
    assert (pixels.counts <= 20).all()
    assert pixels.soft is None


def test_bad_input():
    with pytest.raises(ValueError, match="name: expected one of vit, tome, "):
        models.classifier("vits", classes=2)
    with pytest.raises(ValueError, match="name: expected one of vit-linear, "):
        models.segmenter("vit", classes=2)
    with pytest.raises(ValueError, match="size: expected multiples of 16 pixels; found 60 x 64"):
        models.classifier("vit", **{**MINI, "size": (60, 64)})
    with pytest.raises(ValueError, match="name: expected one of vit_mini, "):
        backbone.plain_vit("vit_huge", classes=2, size=32)
    with pytest.raises(ValueError, match="ratio: expected a number in"):
        classifier("dynamicvit", ratio=1.5)
    with pytest.raises(ValueError, match="reduction: expected 4 numbers >= 0"):
        classifier("tome", reduction=[1, 2])
    with pytest.raises(ValueError, match="reduction: expected at most half of 7 tokens in a block; found 4"):
        classifier("tome", reduction=[5, 4, 4, 0])
    state = classifier("vit").backbone.state_dict()
    with pytest.raises(ValueError, match=r"weights: expected those of vit_small, with blocks\.0\.attn\.proj\.bias"):
        models.classifier("vit", classes=5, weights=state)
    with pytest.raises(ValueError, match=r"blocks\.2\.norm1\.bias \(48,\); found absent"):
        models.classifier("vit", weights={k: v for k, v in state.items() if k != "blocks.2.norm1.bias"}, **MINI)
    with pytest.raises(ValueError, match=r"tokens: expected at least 16\.9 \(mean\), as a block"):
        tome.schedule(196, 12, 5)
    with pytest.raises(ValueError, match="tokens: expected at least 1; found 0"):
        classifier("tome", tokens=0)
    with pytest.raises(ValueError, match="target: expected one of mean, last"):
        classifier("tome", tokens=9, target="first")


@needs_weights
@pytest.mark.slow
@pytest.mark.parametrize("name", models.CLASSIFIERS)
def test_real_weights_fit_every_system(name):
    model = models.classifier(name, classes=101, size=224, tokens=98, weights=WEIGHTS)
    with torch.no_grad():
        logits = model.eval()(photos(1, 224))
    assert logits.isfinite().all()
    assert isinstance(model.tokenize(photos(1, 224)), dk.Partition) == (name in ("slic", "dhvt"))


def test_the_example_of_the_documentation_runs():
    text = (Path(__file__).parents[1] / "docs" / "comparison.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert blocks
    for block in blocks:
        exec(compile(block, "comparison.md", "exec"), {})
