"""Losses of the demo CLIP. They see images, captions and which caption belongs where; no mask.

Shapes: B images, N patch tokens, C concepts, T texts, S slots (one for each concept named in each
cell of an image; a plain scene is one cell, a mosaic has up to four).
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


@dataclass
class Words:
    """Which words belong where.

    Attributes:
        positives: (B, T) bool, texts that are true of the whole image.
        allowed: (B, N, C) bool, prompts that are true of what the caption of a token's cell names.
        shown: (B, N, C) bool, the concepts that it names; a person's prompt may be true of a man.
        slot_concept: (B, S) int64, the concept of a slot.
        slot_tokens: (B, S, N) bool, the tokens of the slot's cell; none for an empty slot.
        slot_top: (B, S) int64, how many of them must show the concept; 0 for an empty slot.
        placed: (B, N) bool, tokens of cells whose caption names a background.
    """

    positives: Tensor
    allowed: Tensor
    shown: Tensor
    slot_concept: Tensor
    slot_tokens: Tensor
    slot_top: Tensor
    placed: Tensor


def contrast(scores: Tensor, positives: Tensor) -> Tensor:
    """Multi-positive contrast of (B, T) scaled scores, averaged over both directions.

    A positive pair must beat the log-sum-exp of all negatives of its image, and of its text.
    """
    negatives = scores.masked_fill(positives, -1e4)
    weights = positives.float()
    loss: Any = 0.0
    for dim in (1, 0):
        gap = functional.softplus(negatives.logsumexp(dim, keepdim=True) - scores)
        counts = weights.sum(dim)
        mean = (gap * weights).sum(dim) / counts.clamp(min=1)
        loss = loss + mean.sum() / (counts > 0).sum().clamp(min=1) / 2
    return loss


def dense(logits: Tensor, words: Words) -> Tensor:
    """*part* plus *cover* of (B, N, C) logits.

    part: the softmax mass of every patch must lie on the concepts that its caption names.
    cover: of the patches of the cell, the best few must show each named concept.
    """
    log_p = logits.log_softmax(-1)
    named = log_p.masked_fill(~words.allowed, -1e4).logsumexp(-1)  # (B, N)
    supervised = words.allowed.any(-1)
    part = -(named * supervised).sum() / supervised.sum().clamp(min=1)

    index = words.slot_concept[..., None].expand(-1, -1, logits.shape[1])
    p = log_p.exp().transpose(1, 2).gather(1, index) * words.slot_tokens  # (B, S, N)
    best = p.topk(max(2, -(-15 * logits.shape[1] // 100)), dim=-1).values
    top = words.slot_top[..., None]
    kept = best * (torch.arange(best.shape[-1], device=p.device) < top)
    mean = kept.sum(-1) / words.slot_top.clamp(min=1)
    used = words.slot_top > 0
    cover = -(mean.clamp(min=1e-6).log() * used).sum() / used.sum().clamp(min=1)
    return part + cover


def attention_loss(
    attention: Tensor, logits: Tensor, words: Words, foreground: int, penalty: float = 2.0
) -> Tensor:
    """Attention should stay within the concept that the value path sees.

    Args:
        attention: (layers, B, N, N), head mean over patches, rows sum to 1.
        logits: (B, N, C) of the value path, a target without gradient.
        words: see `Words`.
        foreground: number of the concepts that are objects; they come first.
        penalty: weight of attention from one object to another.
    """
    p = logits.detach().masked_fill(~words.shown, -1e4).softmax(-1)
    seen = attention.float() @ p  # (layers, B, N, C)
    same = (seen * p).sum(-1)
    objects = p[..., :foreground]
    share = objects.sum(-1)  # (B, N), how much of an object a token is
    strayed = (seen[..., :foreground] * (1 - objects)).sum(-1)
    loss = -same.clamp(min=1e-6).log()
    loss = loss - penalty * share * (1 - strayed).clamp(min=1e-6).log()
    total: Any = 0.0
    for weight in (share * words.placed, (1 - share) * words.placed):
        total = total + (loss * weight).sum() / (weight.sum() * len(attention)).clamp(min=1) / 2
    return total
