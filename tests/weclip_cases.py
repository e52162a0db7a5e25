"""The fixtures of WeCLIP's public code, and slow twins (docs/weclip.md).

The folder is that of CLIP_WSSS_WECLIP_FIXTURES, else tests/fixtures/weclip. Another folder may
bring other photographs, weights and seeds; a CLIP of its own is its tiny.safetensors or tiny.pt.
"""

import os
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

FIXTURES = Path(__file__).parent / "fixtures"
FOLDER = Path(os.environ.get("CLIP_WSSS_WECLIP_FIXTURES", FIXTURES / "weclip"))
needs_fixtures = pytest.mark.skipif(  # a folder that is stated and lacks a file fails
    "CLIP_WSSS_WECLIP_FIXTURES" not in os.environ and not FOLDER.is_dir(),
    reason=f"{FOLDER} is missing; CLIP_WSSS_WECLIP_FIXTURES names a folder of WeCLIP's fixtures",
)


@cache
def load(name: str) -> dict[str, np.ndarray]:
    """The arrays of one file of the folder."""
    with np.load(FOLDER / f"{name}.npz", allow_pickle=False) as file:
        return dict(file)


def tensor(name: str, field: str) -> torch.Tensor:
    array = load(name)[field]
    return torch.from_numpy(array.astype(np.float32) if array.dtype == np.float16 else array)


def by_image(counts, *arrays):
    """Cut arrays of all classes, one image after the other, into those of each image."""
    ends = np.cumsum(counts)
    return list(zip(*(np.split(array, ends[:-1]) for array in arrays), strict=True))


def unfolded_par(maps: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    """PAR as its formulas say: all 48 neighbours of all pixels at once."""
    dilations, size = (1, 2, 4, 8, 12, 24), maps.shape[1:]
    kernel = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if (dy, dx) != (0, 0)]

    def neighbours(planes: torch.Tensor) -> torch.Tensor:  # (K, H, W) -> (K, 48, H, W)
        found = []
        for r in dilations:
            padded = F.pad(planes[None], (r,) * 4, mode="replicate")
            windows = F.unfold(padded, 3, dilation=r).unflatten(1, (len(planes), 9))
            windows = windows.unflatten(-1, tuple(size))[0]
            found.append(windows[:, [0, 1, 2, 3, 5, 6, 7, 8]])
        return torch.cat(found, dim=1)

    image = F.interpolate(image[None].float(), tuple(size), mode="bilinear", align_corners=True)[0]
    around = neighbours(image)
    colour = (around - image[:, None]).abs() / (around.std(dim=1, keepdim=True) + 1e-8) / 0.3
    radius = torch.tensor([r * (dy**2 + dx**2) ** 0.5 for r in dilations for dy, dx in kernel])
    distance = radius / (radius.std() + 1e-8) / 0.3
    weights = (-(colour**2)).mean(dim=0).softmax(dim=0)
    weights = weights + 0.01 * (-(distance**2)).softmax(dim=0)[:, None, None]
    for _ in range(20):
        maps = (neighbours(maps) * weights).sum(dim=1)
    return maps


def tiny_clip():
    """The CLIP of the fixtures, loaded as the public code does."""
    from clip_wsss.models.clip import load_clip

    return load_clip(model_entry(), position_embedding={"resize": "bilinear", "round": "float16"})


def model_entry() -> dict:
    """The `models` entry of the fixtures' CLIP."""
    own = [FOLDER / name for name in ("tiny.safetensors", "tiny.pt")]
    weights = next(filter(Path.is_file, own), FIXTURES / "parity/tiny.safetensors")
    config = FIXTURES / "parity/tiny.json"
    return {"architecture": str(config), "weights": str(weights), "round_weights": "float16"}


def decoder_name(public: str) -> str:
    """What a tensor of the public decoder is called in `WeCLIPHead`."""
    name = public.removeprefix("decoder_fts_fuse.").removeprefix("decoder.")
    for theirs, ours in (
        ("linears_modulelist.", "projections."),
        (".proj_2.", ".2."),
        (".proj.", ".0."),
        ("linear_fuse.", "fuse."),
        ("linear_pred.", "classify."),
        ("transformer.resblocks.", "blocks."),
        (".attn.out_0.", ".attn.out_proj."),
        (".attn.", ".attention."),
        (".ln_", ".norm"),
        (".mlp.c_fc.", ".expand."),
        (".mlp.c_proj.", ".shrink."),
    ):
        name = name.replace(theirs, ours)
    return name


def decoder_state() -> dict[str, torch.Tensor]:
    return {decoder_name(name): tensor("decoder_tiny", name) for name in load("decoder_tiny")}


def decoder_shape() -> dict:
    """Settings of a `WeCLIPHead` that the decoder's weights fit; 8 heads, which no tensor shows."""
    state = decoder_state()
    return {
        "type": "WeCLIPHead",
        "num_classes": len(state["classify.weight"]),
        "channels": len(state["fuse.weight"]),
        "layers": sum(name.endswith("norm1.weight") for name in state),
    }
