"""The demo CLIP: its configuration, and a forward pass that also returns what the losses read."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
import torch
from torch import Tensor, nn
from torch.nn import functional

CONFIG = Path(__file__).parent / "clip" / "model.json"


@dataclass
class ImageViews:
    """What the losses read of B images with N patch tokens each, embedding width E.

    Attributes:
        cls: (B, E) normalised feature of the class token.
        mean: (B, E) normalised feature of the mean patch, as CLIP-ES reads it.
        values: (B, N, E) value path of the last block, divided by its RMS norm over the image.
        patches: (B, N, E) normalised output tokens.
        attention: (layers, B, N, N) head means over patches of the last layers, rows sum to 1.
    """

    cls: Tensor
    mean: Tensor
    values: Tensor
    patches: Tensor
    attention: Tensor


def architecture(layers: int) -> dict:
    """Return the config of open_clip of a demo CLIP of that many layers."""
    config = json.loads(CONFIG.read_text(encoding="utf-8"))
    config["vision_cfg"]["layers"] = layers
    return config


def new_clip(rows: int, layers: int = 4) -> open_clip.CLIP:
    """Return an untrained demo CLIP whose token embedding has that many rows."""
    config = architecture(layers)
    model = open_clip.CLIP(**config)
    model.token_embedding = nn.Embedding(rows, config["text_cfg"]["width"])
    nn.init.normal_(model.token_embedding.weight, std=0.02)
    return model


def encode_texts(clip: open_clip.CLIP, tokens: Tensor) -> Tensor:
    """Return (T, E) normalised features of (T, L) tokens, L no longer than the texts need."""
    length = tokens.shape[1]
    x = clip.token_embedding(tokens) + clip.positional_embedding[:length]
    x = clip.transformer(x, attn_mask=clip.attn_mask[:length, :length])
    x = clip.ln_final(x[torch.arange(len(x)), tokens.argmax(-1)])
    return functional.normalize((x @ clip.text_projection).float(), dim=-1)


def encode_images(
    clip: open_clip.CLIP, images: Tensor, patches: Tensor, positions: Tensor, layers: int = 3
) -> ImageViews:
    """Run the vision tower on the chosen patches.

    Args:
        clip: the model.
        images: (B, 3, S, S), normalised.
        patches: (B, N) which patches to look at.
        positions: (B, N) their places in the grid of position embeddings.
        layers: number of the last layers whose attention is wanted, at least 1.
    """
    visual = clip.visual
    grid = visual.conv1(images).flatten(2).transpose(1, 2)  # (B, all patches, W)
    chosen = grid.gather(1, patches[..., None].expand(-1, -1, grid.shape[-1]))
    cls = visual.class_embedding + visual.positional_embedding[0]
    chosen = chosen + visual.positional_embedding[1:][positions]
    x = visual.ln_pre(torch.cat([cls.expand(len(chosen), 1, -1), chosen], dim=1))
    maps, values, blocks = [], x, visual.transformer.resblocks
    for depth, block in enumerate(blocks):
        wanted = depth >= len(blocks) - layers
        update, weights, value = _attend(block, x, wanted)
        if depth == len(blocks) - 1:
            values = block.attn.out_proj(value[:, 1:])
        x = x + update
        x = x + block.mlp(block.ln_2(x))
        if wanted:
            inner = weights[:, 1:, 1:]
            maps.append(inner / inner.sum(-1, keepdim=True).clamp(min=1e-6))
    x = visual.ln_post(x)
    centred = (values - values.mean(-1, keepdim=True)) * visual.ln_post.weight
    u = (centred @ visual.proj).float()
    rms = u.pow(2).sum(-1).mean(1).clamp(min=1e-6).sqrt()
    return ImageViews(
        functional.normalize((x[:, 0] @ visual.proj).float(), dim=-1),
        functional.normalize((x[:, 1:].mean(1) @ visual.proj).float(), dim=-1),
        u / rms[:, None, None],
        functional.normalize((x[:, 1:] @ visual.proj).float(), dim=-1),
        torch.stack(maps),
    )


def _attend(block: Any, x: Tensor, wanted: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Return a block's attention update, its weights and its values.

    The weights, if they are wanted, are (B, 1 + N, 1 + N) float32, the mean of the heads. The
    values are what each token would add by attending to itself only, before the projection:
    (B, 1 + N, W).
    """
    attn = block.attn
    batch, length, width = x.shape
    qkv = functional.linear(block.ln_1(x), attn.in_proj_weight, attn.in_proj_bias)
    q, k, v = qkv.view(batch, length, 3, attn.num_heads, -1).permute(2, 0, 3, 1, 4)
    if wanted:
        weights = ((q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)).float().softmax(-1)
        mixed, mean = weights.to(v.dtype) @ v, weights.mean(1)
    else:
        mixed, mean = functional.scaled_dot_product_attention(q, k, v), x
    update = attn.out_proj(mixed.transpose(1, 2).reshape(batch, length, width))
    return update, mean, qkv[..., 2 * width :]
