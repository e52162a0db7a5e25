"""Small random CLIPs in OpenAI's format, and the files that hold them."""

import json
import warnings
from collections.abc import Sequence
from pathlib import Path

import open_clip
import torch
import torch.nn.functional as F

from clip_wsss.cams.context import HELD, MapContext, look
from clip_wsss.models.clip import load_clip
from clip_wsss.models.frozen_clip import FrozenClip


def small_config(
    *,
    width: int = 32,
    layers: int = 3,
    patch: int = 4,
    side: int = 5,
    head_width: int = 16,
    **other,
) -> dict:
    """A model config: `side` patches a side; `other` goes to its vision_cfg."""
    vision = {"image_size": patch * side, "layers": layers, "width": width, "patch_size": patch}
    return {
        "embed_dim": 24,
        "quick_gelu": True,
        "vision_cfg": vision | {"head_width": head_width} | other,
        "text_cfg": {
            "context_length": 12,
            "vocab_size": 32,
            "width": 16,
            "heads": 2,
            "layers": 1,
        },
    }


def make_openai_state_dict(config: dict, seed: int = 0, logit_scale: float = 3.0) -> dict:
    """Random, informative weights of a config under OpenAI's names.

    Attention and positions are strong enough for maps that differ from patch to patch.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = open_clip.CLIP(**config)
        for name, parameter in model.named_parameters():
            if "ln_" in name:
                parameter.data += 0.2 * torch.randn_like(parameter)
            elif name.startswith("visual.") and name.endswith("bias"):
                parameter.data = 0.1 * torch.randn_like(parameter)
            elif "in_proj_weight" in name:
                parameter.data *= 2
        model.visual.positional_embedding.data = 0.5 * torch.randn_like(
            model.visual.positional_embedding
        )
        model.logit_scale.data.fill_(logit_scale)
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def write_model(folder: Path, config: dict, state: dict) -> dict:
    """Write an OpenAI-format file and its config; an entry of `models`."""
    torch.save(state, folder / "model.pt")
    (folder / "model.json").write_text(json.dumps(config))
    return {"architecture": str(folder / "model.json"), "weights": str(folder / "model.pt")}


def write_jit_archive(path: Path, config: dict, state: dict) -> None:
    """Write a traced model in float16 as OpenAI ships it, with its three notes."""
    model = open_clip.CLIP(**config).eval()
    model.load_state_dict(state)
    size = config["vision_cfg"]["image_size"]
    text = torch.zeros(1, config["text_cfg"]["context_length"], dtype=torch.int64)
    notes = {"input_resolution": size, "context_length": text.shape[1], "vocab_size": 32}
    for name, value in notes.items():
        vars(model).pop(name, None)
        model.register_buffer(name, torch.tensor(value))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(model, (torch.zeros(1, 3, size, size), text), check_trace=False)
        traced.half().save(str(path))


def random_clip(folder: Path, config: dict, state: dict, **options) -> FrozenClip:
    """The model of a config and a state dict, by way of files."""
    return load_clip(write_model(folder, config, state), **options)


class OneImage:
    """A data set of one image."""

    def __init__(self, rgb):
        self.rgb, self.settings = rgb, {"on_bad_image": "fail"}

    def size(self, name):
        return self.rgb.shape[:2]

    def labels(self, name):
        return [1, 0]

    def image(self, name):
        return self.rgb


def random_context(clip: FrozenClip, keys: Sequence[int], classes: int) -> MapContext:
    """An image of 4 x 6 patches; of five texts the first are classes, the rest background words."""
    generator = torch.Generator().manual_seed(0)
    rgb = torch.randint(0, 256, (16, 24, 3), generator=generator, dtype=torch.uint8).numpy()
    texts = F.normalize(torch.randn(5, 24, generator=generator), dim=-1)
    (looked,) = look(clip, clip.preprocess(rgb)[None], HELD)
    return MapContext("x", rgb, keys, texts[:classes], texts[classes:], looked)
