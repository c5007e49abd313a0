"""DynamicViT: small modules between the blocks predict which tokens to drop (docs/comparison.md)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .system import TARGETS, System, attend, embed, finish, project

#: Of the ratio loss, and of each of the two distillation losses, beside the loss of the task.
RATIO_WEIGHT, DISTILLATION_WEIGHT = 2.0, 0.5


class Predictor(nn.Module):
    """Log-probabilities `[B,N,2]` to keep and to drop each token, from it and from the mean of all that are there."""

    def __init__(self, width: int, keep: float) -> None:
        super().__init__()
        half = width // 2
        self.local = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, half), nn.GELU())
        self.overall = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, half), nn.GELU())
        self.decide = nn.Sequential(
            nn.Linear(2 * half, half), nn.GELU(), nn.Linear(half, half // 2), nn.GELU(), nn.Linear(half // 2, 2)
        )
        # So that the first forward keeps about as many as the last ones will.
        keep = min(max(keep, 0.01), 0.99)
        with torch.no_grad():
            self.decide[-1].bias.copy_(torch.tensor([keep, 1 - keep]).log())

    def forward(self, tokens: Tensor, kept: Tensor) -> Tensor:
        """From tokens `[B,N,D]`, of which those with kept `[B,N]` = 1 are there."""
        local, kept = self.local(tokens), kept.unsqueeze(-1).to(tokens.dtype)
        overall = (self.overall(tokens) * kept).sum(1, keepdim=True) / kept.sum(1, keepdim=True).clamp(min=1)
        return self.decide(torch.cat([local, overall.expand_as(local)], -1)).log_softmax(-1)


def masked_attention(attention: nn.Module, tokens: Tensor, kept: Tensor) -> Tensor:
    """timm's attention in which a key counts kept `[B,N]` times, in 0..1, except for its own query, for which it is 1.

    weight_ij = e^score_ij G_ij / sum over k of e^score_ik G_ik, with G_ij = kept_j, and 1 where i = j
    """
    query, key, value = project(attention, tokens)
    scores = (query * attention.scale) @ key.transpose(2, 3)
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    own = torch.eye(tokens.shape[1], device=tokens.device, dtype=torch.bool)
    share = torch.where(own, 1, kept[:, None, None]).to(scores.dtype)
    weight = (scores - scores.amax(-1, keepdim=True).detach()).exp() * share
    weight = weight / weight.sum(-1, keepdim=True).clamp(min=torch.finfo(weight.dtype).tiny)
    return finish(attention, attention.attn_drop(weight).to(value.dtype) @ value)


def ratio_loss(kept: Sequence[Tensor], ratios: Sequence[float]) -> Tensor:
    """Mean over images and stages of (ratio of the stage - share of the patches kept)^2.

    Args:
        kept: `[B,N]` for each stage, 1 for tokens that are kept.
        ratios: wished share for each stage.
    """
    terms = [(ratio - mask.mean(1)).square().mean() for mask, ratio in zip(kept, ratios, strict=True)]
    return torch.stack(terms).mean()


def distillation_loss(logits: Tensor, tokens: Tensor, kept: Tensor, teacher: tuple[Tensor, Tensor]) -> Tensor:
    """Squared distance of the kept tokens to those of the plain ViT, and the divergence of the predictions from its.

    Args:
        logits: `[B,classes]`.
        tokens: `[B,N,D]`, patches after the last block.
        kept: `[B,N]` of the last stage.
        teacher: the plain ViT's logits and tokens.
    """
    distance = ((tokens - teacher[1]).square().sum(-1) * kept).sum() / kept.sum().clamp(min=1)
    divergence = F.kl_div(logits.log_softmax(-1), teacher[0].log_softmax(-1), reduction="batchmean", log_target=True)
    return DISTILLATION_WEIGHT * (distance + divergence)


def keep_ratio(patches: int, depth: int, tokens: float, target: str = "mean") -> float:
    """The greatest rho at which the blocks have at most `tokens` tokens; arguments as for ToMe's `schedule`."""
    of = TARGETS[target]

    def reached(ratio: float) -> float:
        return of(counts(ratio, patches, depth))

    if reached(1.0) <= tokens:
        return 1.0
    low, high = 0.0, 1.0
    if reached(low) > tokens:
        raise ValueError(
            f"tokens: expected at least {reached(low):.1f} ({target}), as nothing is dropped at first; found {tokens}"
        )
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if reached(middle) <= tokens else (low, middle)
    return low


def stages(depth: int) -> list[int]:
    """The blocks before which tokens are dropped: after a quarter, a half and three quarters of them."""
    return [depth * part // 4 for part in (1, 2, 3)]


def counts(ratio: float, patches: int, depth: int) -> list[int]:
    """Tokens of each block at a keep ratio."""
    left, out = patches, []
    for block in range(depth):
        if block in stages(depth):
            power = 1 + stages(depth).index(block)
            left = max(int(ratio**power * patches), 1)
        out.append(left)
    return out


class DynamicViT(System):
    """A plain ViT that keeps the shares rho, rho^2, rho^3 of its tokens after each quarter of its blocks.

    In training tokens are not taken away but masked, by a sample of the predicted probabilities that gradients pass.

    Args:
        backbone: timm's ViT with a class token, which stays.
        ratio: rho, in (0, 1].
    """

    def __init__(self, backbone: nn.Module, ratio: float) -> None:
        super().__init__()
        if not 0 < ratio <= 1:
            raise ValueError(f"ratio: expected a number in (0, 1]; found {ratio}")
        self.backbone = backbone
        depth, patches = len(backbone.blocks), backbone.patch_embed.num_patches
        self.stages = stages(depth)
        self.ratios = [ratio, ratio**2, ratio**3]
        self.schedule = counts(ratio, patches, depth)
        self.predictors = nn.ModuleList(Predictor(backbone.embed_dim, ratio) for _ in self.stages)
        #: `[B,N]` for each stage of the last forward: 1 for the patches that are kept.
        self.kept: list[Tensor] = []
        #: `[B,N,D]`: the patches of the last forward in training, after all blocks, for `distillation_loss`.
        self.features: Tensor | None = None

    def added(self) -> list[nn.Module | nn.Parameter]:
        return [self.backbone.head, self.predictors]

    def auxiliary_loss(self) -> Tensor:
        return RATIO_WEIGHT * ratio_loss(self.kept, self.ratios) if self.training else super().auxiliary_loss()

    def forward(self, images: Tensor, partition: None = None) -> Tensor:
        return self.masked(images) if self.training else self.gathered(images)

    def gathered(self, images: Tensor) -> Tensor:
        """Logits, where each stage goes on with the tokens of greatest probability to be kept, and no others."""
        vit = self.backbone
        tokens, self.kept, self.features = embed(vit, images), [], None
        batch, patches = tokens.shape[0], tokens.shape[1] - 1
        place = torch.arange(patches, device=tokens.device).expand(batch, -1)
        for index, (block, length) in enumerate(zip(vit.blocks, self.schedule, strict=True)):
            if index in self.stages:
                if length < tokens.shape[1] - 1:
                    rest = tokens[:, 1:]
                    predictor = self.predictors[self.stages.index(index)]
                    scores = predictor(rest, rest.new_ones(rest.shape[:2]))[..., 0]
                    best = scores.argsort(dim=1, descending=True, stable=True)[:, :length].sort(1).values
                    place = place.gather(1, best)
                    rows = torch.arange(batch, device=tokens.device)[:, None]
                    tokens = torch.cat([tokens[:, :1], rest[rows, best]], 1)
                self.kept.append(tokens.new_zeros(batch, patches).scatter(1, place, 1))
            attended, _ = attend(block.attn, block.norm1(tokens))
            tokens = _finish_block(block, tokens, attended)
        self._counts = self.schedule
        return vit.forward_head(vit.norm(tokens))

    def masked(self, images: Tensor, decisions: Sequence[Tensor] | None = None) -> Tensor:
        """Logits, with all tokens in every block, and a mask for those that are dropped.

        Args:
            images: `[B,3,H,W]`.
            decisions: `[B,N]` for each stage, 1 for tokens to keep; None: samples.
        """
        vit, self.kept, numbers = self.backbone, [], []
        tokens = embed(vit, images)
        kept = tokens.new_ones(tokens.shape[0], tokens.shape[1] - 1)
        for index, block in enumerate(vit.blocks):
            if index in self.stages:
                stage = self.stages.index(index)
                if decisions is None:
                    choice = F.gumbel_softmax(self.predictors[stage](tokens[:, 1:], kept), hard=True)[..., 0]
                else:
                    choice = decisions[stage]
                kept = kept * choice
                self.kept.append(kept)
            normal = block.norm1(tokens)
            if self.kept:
                attended = masked_attention(block.attn, normal, F.pad(kept, (1, 0), value=1.0))
            else:
                attended, _ = attend(block.attn, normal)
            tokens = _finish_block(block, tokens, attended)
            numbers.append(kept.detach().sum(1))
        self._counts, self.features = numbers, tokens[:, 1:]
        return vit.forward_head(vit.norm(tokens))


def _finish_block(block: nn.Module, tokens: Tensor, attended: Tensor) -> Tensor:
    tokens = tokens + block.drop_path1(block.ls1(attended))
    return tokens + block.drop_path2(block.ls2(block.mlp(block.norm2(tokens))))
