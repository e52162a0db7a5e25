"""Train the demo CLIP from scratch on captioned scenes, on the CPU.

`python -m clip_wsss.demo.train --out DIR` makes the weights again; the demo never runs it. It
takes about half an hour on two cores. The number of steps is fixed, not the time.
"""

import argparse
import csv
import json
import math
import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from safetensors.torch import save_file
from torch import nn
from tqdm import tqdm

from clip_wsss.data.datasets import read_vocabulary
from clip_wsss.demo.batches import Batch, Phase, make_batch
from clip_wsss.demo.captions import Lexicon, TokenTable, read_lexicon
from clip_wsss.demo.losses import attention_loss, contrast, dense
from clip_wsss.demo.network import CONFIG, encode_images, encode_texts, new_clip
from clip_wsss.demo.scenes import CLASSES


@dataclass(frozen=True)
class Recipe:
    """Settings of the training; shares are shares of the steps."""

    seed: int = 0
    steps: int = 2800
    batch: int = 48  # images of one process
    processes: int = 2
    learning_rate: float = 1.5e-3
    weight_decay: float = 0.05
    warm_up: int = 100
    small: float = 0.2  # share at 64 pixels, before 112
    natural: float = 0.7  # share after which captions are natural
    affinity: float = 2.5  # weight of the affinity loss, once the images are large
    output: float = 0.5  # weight of the dense loss on the output tokens
    checkpoint: int = 100
    compile: bool = True

    def phase(self, step: int) -> Phase:
        """What the batches of a step are like."""
        typical, unnamed = (75, 50) if step >= self.natural * self.steps else (20, 10)
        if step < self.small * self.steps:
            return Phase(64, 64, typical, unnamed)
        return Phase(112, 98, typical, unnamed)

    def rate(self, step: int) -> float:
        """Learning rate of a step: linear warm-up, then a cosine to 0."""
        if step < self.warm_up:
            return self.learning_rate * (step + 1) / self.warm_up
        done = (step - self.warm_up) / max(1, self.steps - self.warm_up)
        return self.learning_rate * (1 + math.cos(math.pi * done)) / 2


class Objective(nn.Module):
    """The model with its losses.

    Attributes:
        clip: the model.
        dense_scale: log scales of the two dense losses' logits; not part of the model.
    """

    def __init__(self, rows: int, concepts: int, output: float):
        super().__init__()
        self.clip = new_clip(rows)
        self.dense_scale = nn.Parameter(torch.full((2,), 2.3))
        self.concepts, self.output = concepts, output

    def forward(self, batch: Batch, affinity_weight: float) -> dict[str, torch.Tensor]:
        """Return the losses by name; `total` is the one to minimise."""
        with torch.autocast("cpu", torch.bfloat16):
            views = encode_images(self.clip, batch.images, batch.patches, batch.positions)
            texts = encode_texts(self.clip, batch.tokens)
        scale = self.clip.logit_scale.exp().clamp(max=100)
        prompts = texts[-self.concepts :]
        scale_u, scale_out = self.dense_scale.exp().clamp(max=100)
        logits = scale_u * views.values @ prompts.T
        losses = {
            "cls": contrast(scale * views.cls @ texts.T, batch.words.positives),
            "mean": contrast(scale * views.mean @ texts.T, batch.words.positives),
            "dense": dense(logits, batch.words),
            "output": dense(scale_out * views.patches @ prompts.T, batch.words),
        }
        total = (losses["cls"] + losses["mean"]) / 2 + losses["dense"]
        total = total + self.output * losses["output"]
        if affinity_weight:
            losses["affinity"] = attention_loss(views.attention, logits, batch.words, len(CLASSES))
            total = total + affinity_weight * losses["affinity"]
        return {"total": total, **losses}


TEMPLATES = "config/templates/imagenet20.txt"
VOCABULARY = "config/vocabularies/voc12.yaml"


def rebuild(out: Path, settings: Mapping) -> None:
    """Train the demo CLIP and write model.json, demo-clip.safetensors and log.csv to a folder.

    Args:
        out: the folder; a training that was interrupted there goes on.
        settings: any field of `Recipe`, and `templates` and `vocabulary`, paths from the folder
            of the project.

    Raises:
        InputError: if the vocabulary is not the demo's.
    """
    settings = dict(settings)
    vocabulary = read_vocabulary(settings.pop("vocabulary", VOCABULARY))
    lexicon = read_lexicon(Path(settings.pop("templates", TEMPLATES)), vocabulary)
    recipe = Recipe(**settings)
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    store = out / "rendezvous"
    store.unlink(missing_ok=True)
    mp.spawn(_work, (recipe, lexicon, out, store), nprocs=recipe.processes)
    store.unlink(missing_ok=True)
    export(out / "checkpoint.pth", lexicon, out / "demo-clip.safetensors")
    shutil.copyfile(CONFIG, out / "model.json")
    (out / "recipe.json").write_text(json.dumps(asdict(recipe), indent=2) + "\n")


def export(checkpoint: Path, lexicon: Lexicon, weights: Path) -> None:
    """Write the compact weights: float16, of the token embedding only the rows in use."""
    state = torch.load(checkpoint, weights_only=True)["model"]
    tensors = {
        name.removeprefix("clip."): value.to(torch.float16).contiguous()
        for name, value in state.items()
        if name.startswith("clip.") and not name.endswith("attn_mask")
    }
    tensors["token_embedding.rows"] = torch.from_numpy(TokenTable(lexicon).rows)
    save_file(tensors, weights)


def _work(rank: int, recipe: Recipe, lexicon: Lexicon, out: Path, store: Path) -> None:
    """Train in one process of one thread."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{store.resolve()}", rank=rank, world_size=recipe.processes
    )
    torch.manual_seed(recipe.seed)
    table = TokenTable(lexicon)
    model = Objective(len(table.rows), len(lexicon.names), recipe.output)
    optimizer = torch.optim.AdamW(_groups(model, recipe.weight_decay), betas=(0.9, 0.98))
    run = torch.compile(model) if recipe.compile else model
    checkpoint = out / "checkpoint.pth"
    start, seconds = 0, 0.0
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        start, seconds = saved["step"], saved["seconds"]
    dist.barrier()
    begun = time.monotonic() - seconds
    for step in tqdm(range(start, recipe.steps), initial=start, total=recipe.steps, disable=rank):
        phase = recipe.phase(step)
        batch = make_batch(lexicon, table, phase, recipe.batch, (recipe.seed, step, rank))
        losses = run(batch, recipe.affinity if phase.side == 112 else 0.0)
        optimizer.zero_grad()
        losses["total"].backward()
        _average_gradients(model)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = recipe.rate(step)
        optimizer.step()
        done = step + 1
        if rank == 0 and done % 20 == 0:
            _log(out / "log.csv", done, time.monotonic() - begun, losses)
        if done % recipe.checkpoint == 0 or done == recipe.steps:
            if rank == 0:
                state = {
                    "model": model.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "step": done,
                    "seconds": time.monotonic() - begun,
                }
                torch.save(state, checkpoint.with_suffix(".part"))
                os.replace(checkpoint.with_suffix(".part"), checkpoint)
            dist.barrier()
    dist.destroy_process_group()


def _groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Decay matrices only."""
    parameters = list(model.parameters())
    return [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]


def _average_gradients(model: nn.Module) -> None:
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))


def _log(path: Path, step: int, seconds: float, losses: dict[str, torch.Tensor]) -> None:
    fields = ("total", "cls", "mean", "dense", "output", "affinity")
    fresh = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        if fresh:
            writer.writerow(("step", "seconds", *fields))
        figures = (f"{losses[name].item():.4f}" if name in losses else "" for name in fields)
        writer.writerow((step, f"{seconds:.1f}", *figures))


def main() -> None:
    """Command line of `rebuild`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the result")
    parser.add_argument("--templates", default=TEMPLATES)
    parser.add_argument("--vocabulary", default=VOCABULARY)
    parser.add_argument("--steps", type=int, default=Recipe.steps)
    parser.add_argument("--no-compile", dest="compile", action="store_false")
    settings = vars(parser.parse_args())
    rebuild(settings.pop("out"), settings)


if __name__ == "__main__":
    main()
