"""The slow readable twin of the CAM job: one image, one class, straight from the paper.

It shares no code with the package. It reads an OpenAI-format state dict, runs the vision tower
step by step, keeps every attention map, and lets autograd find the gradient (docs/parity.md).
"""

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from scipy import ndimage

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass
class Twin:
    """A vision tower: its weights and the few facts that shapes do not tell."""

    state: dict
    heads: int
    quick_gelu: bool = True
    norm_after_pooling: bool = False
    round_weights: bool = False
    round_position: bool = False
    dtype: torch.dtype = torch.float64

    def __post_init__(self):
        self.state = {name: tensor.to(self.dtype) for name, tensor in self.state.items()}
        if self.round_weights:
            for name, tensor in self.state.items():
                part_of_norm = "ln_" in name or "embedding" in name or name == "logit_scale"
                if not part_of_norm:
                    self.state[name] = tensor.half().to(self.dtype)
        self.patch = self.state["visual.conv1.weight"].shape[-1]
        blocks = {name.split(".")[3] for name in self.state if name.startswith("visual.tr")}
        self.layers = len(blocks)

    def preprocess(self, rgb: np.ndarray) -> torch.Tensor:
        height, width = (-(-side // self.patch) * self.patch for side in rgb.shape[:2])
        image = np.asarray(Image.fromarray(rgb).resize((width, height), Image.BICUBIC)) / 255
        image = (image - CLIP_MEAN) / CLIP_STD
        return torch.tensor(image, dtype=self.dtype).permute(2, 0, 1)

    def norm(self, x: torch.Tensor, name: str) -> torch.Tensor:
        if f"{name}.weight" not in self.state:
            return x
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        return scaled * self.state[f"{name}.weight"] + self.state[f"{name}.bias"]

    def linear(self, x: torch.Tensor, name: str) -> torch.Tensor:
        return x @ self.state[f"{name}.weight"].T + self.state[f"{name}.bias"]

    def attend(self, a: torch.Tensor, block: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Output and head-averaged map of the attention of a block, from ln_1's output."""
        packed = a @ self.state[f"{block}.attn.in_proj_weight"].T
        q, k, v = (packed + self.state[f"{block}.attn.in_proj_bias"]).chunk(3, dim=-1)
        width = a.shape[-1] // self.heads
        outputs, maps = [], []
        for head in range(self.heads):
            part = slice(head * width, (head + 1) * width)
            attention = (q[:, part] @ k[:, part].T / width**0.5).softmax(dim=-1)
            outputs.append(attention @ v[:, part])
            maps.append(attention)
        return self.linear(torch.cat(outputs, -1), f"{block}.attn.out_proj"), sum(maps) / len(maps)

    def finish(self, x: torch.Tensor, y: torch.Tensor, block: str) -> torch.Tensor:
        x = x + y
        hidden = self.linear(self.norm(x, f"{block}.ln_2"), f"{block}.mlp.c_fc")
        if self.quick_gelu:
            hidden = hidden * torch.sigmoid(1.702 * hidden)
        else:
            hidden = torch.nn.functional.gelu(hidden)
        return x + self.linear(hidden, f"{block}.mlp.c_proj")

    def positions(self, grid: tuple[int, int]) -> torch.Tensor:
        stored = self.state["visual.positional_embedding"]
        side = round((len(stored) - 1) ** 0.5)
        square = stored[1:].T.reshape(1, -1, side, side)
        if self.round_position:  # float32's last bits decide what float16 rounds to
            square = square.float()
        resized = torch.nn.functional.interpolate(square, size=grid, mode="bilinear")
        positions = torch.cat([stored[:1], resized[0].flatten(1).T])
        return positions.half().to(self.dtype) if self.round_position else positions

    def cam(self, image, present, background, position, target) -> tuple[np.ndarray, list]:
        """The CAM (gh, gw) of one class and all attention maps (1 + N, 1 + N)."""
        gh, gw = image.shape[1] // self.patch, image.shape[2] // self.patch
        kernel = self.state["visual.conv1.weight"]
        x = torch.nn.functional.conv2d(image[None], kernel, stride=self.patch)[0].flatten(1).T
        x = torch.cat([self.state["visual.class_embedding"][None], x]) + self.positions((gh, gw))
        x = self.norm(x, "visual.ln_pre")
        maps = []
        for layer in range(self.layers):
            block = f"visual.transformer.resblocks.{layer}"
            a = self.norm(x, f"{block}.ln_1").detach().requires_grad_()
            y, attention = self.attend(a, block)
            maps.append(attention.detach())
            out = self.finish(x, y, block)
            if layer < self.layers - 1:
                x = out.detach()
        if self.norm_after_pooling:
            pooled = self.norm(out[1:].mean(dim=0), "visual.ln_post")
        else:
            pooled = self.norm(out[1:], "visual.ln_post").mean(dim=0)
        feature = pooled @ self.state["visual.proj"]
        feature = feature / feature.norm()
        scale = self.state["logit_scale"].exp()
        logits = scale * (torch.cat([present, background]).to(self.dtype) @ feature)
        score = logits.softmax(dim=0)[position] if target == "softmax" else logits[position]
        score.backward()
        weights = a.grad[1:].mean(dim=0)
        raw = (a[1:].detach() @ weights).clamp(min=0).numpy().reshape(gh, gw)
        return raw, maps


def scaled(cam: np.ndarray) -> np.ndarray:
    cam = cam - cam.min()
    return cam / (1e-7 + cam.max())


def boxed(cam: np.ndarray, threshold: float, edge: str) -> np.ndarray:
    """Boxes around the 8-connected components of what is above the threshold."""
    steps = np.trunc(cam.astype(np.float32) * np.float32(255)).astype(int)
    components, _ = ndimage.label(steps > int(threshold * steps.max()), np.ones((3, 3)))
    mask = np.zeros(cam.shape)
    for rows, columns in ndimage.find_objects(components):
        bottom, right = rows.stop, columns.stop
        if edge == "clamp":
            bottom, right = min(bottom, cam.shape[0] - 1), min(right, cam.shape[1] - 1)
        mask[rows.start : bottom, columns.start : right] = 1
    return mask


def refined(cam: np.ndarray, maps: list, layers, rounds, threshold, edge, power) -> np.ndarray:
    """The map after CAA: Sinkhorn, symmetry, the whole product, the box mask, min-max."""
    last = maps[-layers:]
    D = (sum(m.double() for m in last) / len(last))[1:, 1:].numpy()
    for _ in range(rounds):
        D = D / D.sum(axis=0, keepdims=True)
        D = D / D.sum(axis=1, keepdims=True)
    A = np.linalg.matrix_power((D + D.T) / 2, power)
    spread = A @ (boxed(cam, threshold, edge) * cam).reshape(-1)
    return scaled(spread.reshape(cam.shape))
