"""Train the demo CLIP from scratch on captioned scenes, on the CPU or a GPU.

`python -m clip_wsss.demo.train --out DIR` makes the weights again; the demo never runs it. It
takes about half an hour on two cores. The number of steps is fixed, not the time. Every setting is
an option, so that each loss can be switched off: `--dense 0 --output 0`, `--affinity 0`,
`--mosaics 0`, `--natural 1`. A training that was killed goes on from its last checkpoint. On a GPU:
`--device cuda --processes 1 --batch 96 --loaders 12`.
"""

import argparse
import csv
import json
import math
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from safetensors.torch import save_file
from torch import nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from clip_wsss.core.errors import InputError
from clip_wsss.data.datasets import read_vocabulary
from clip_wsss.demo.batches import Batch, Phase, make_batch
from clip_wsss.demo.captions import Lexicon, TokenTable, read_lexicon
from clip_wsss.demo.losses import attention_loss, contrast, dense
from clip_wsss.demo.network import architecture, encode_images, encode_texts, new_clip


@dataclass(frozen=True)
class Recipe:
    """Settings of the training; shares are shares of the steps."""

    world: int = 1  # of the scenes and captions
    layers: int = 4  # of the vision tower
    seed: int = 0
    steps: int = 2800
    batch: int = 48  # images of one process
    processes: int = 2
    learning_rate: float = 1.5e-3
    weight_decay: float = 0.05
    warm_up: int = 100
    small: float = 0.2  # share at 64 pixels, before 112
    natural: float = 0.7  # share after which captions are natural
    mosaics: int = 40  # percentage of the images
    affinity: float = 2.5  # weight of the affinity loss, once the images are large
    attended: int = 3  # last layers that have it
    dense: float = 1.0  # weight of the dense loss on the value path
    output: float = 0.5  # weight of the dense loss on the output tokens
    usual: bool = False  # prompts of the losses: the most frequent name and template only
    checkpoint: int = 100  # steps
    compile: bool = True
    device: str = "cpu"  # or cuda, with one process
    loaders: int = 0  # processes that make the batches of each training process

    def __post_init__(self) -> None:
        if self.device != "cpu" and self.processes > 1:
            raise InputError(f"--processes: must be 1 on {self.device}; got {self.processes}")

    def phase(self, step: int) -> Phase:
        """What the batches of a step are like."""
        typical, unnamed = (75, 50) if step >= self.natural * self.steps else (20, 10)
        side, kept = (64, 64) if step < self.small * self.steps else (112, 98)
        return Phase(side, kept, typical, unnamed, self.mosaics, self.world, self.usual)

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

    def __init__(self, rows: int, lexicon: Lexicon, recipe: Recipe):
        super().__init__()
        self.clip = new_clip(rows, recipe.layers)
        self.dense_scale = nn.Parameter(torch.full((2,), 2.3))
        self.concepts, self.objects = len(lexicon.concepts), lexicon.objects
        self.recipe = recipe

    def forward(self, batch: Batch, affinity: bool) -> dict[str, torch.Tensor]:
        """Return the losses by name; `total` is the one to minimise.

        Args:
            batch: images and words.
            affinity: whether the affinity loss is one of them.
        """
        recipe = self.recipe
        with torch.autocast(batch.images.device.type, torch.bfloat16):
            views = encode_images(
                self.clip,
                batch.images,
                batch.patches,
                batch.positions,
                recipe.attended if affinity else 1,
            )
            texts = encode_texts(self.clip, batch.tokens)
        scale = self.clip.logit_scale.exp().clamp(max=100)
        prompts = texts[-self.concepts :]
        scale_u, scale_out = self.dense_scale.exp().clamp(max=100)
        logits = scale_u * views.values @ prompts.T
        losses = {
            "cls": contrast(scale * views.cls @ texts.T, batch.words.positives),
            "mean": contrast(scale * views.mean @ texts.T, batch.words.positives),
        }
        total = (losses["cls"] + losses["mean"]) / 2
        if recipe.dense:
            losses["dense"] = dense(logits, batch.words)
            total = total + recipe.dense * losses["dense"]
        if recipe.output:
            losses["output"] = dense(scale_out * views.patches @ prompts.T, batch.words)
            total = total + recipe.output * losses["output"]
        if affinity:
            losses["affinity"] = attention_loss(views.attention, logits, batch.words, self.objects)
            total = total + recipe.affinity * losses["affinity"]
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
    templates = Path(settings.pop("templates", TEMPLATES))
    recipe = Recipe(**settings)
    lexicon = read_lexicon(templates, vocabulary, recipe.world)
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    store = out / "rendezvous"
    store.unlink(missing_ok=True)
    if recipe.processes == 1:
        _work(0, recipe, lexicon, out, store)
    else:
        mp.spawn(_work, (recipe, lexicon, out, store), nprocs=recipe.processes)
    store.unlink(missing_ok=True)
    export(out / "checkpoint.pth", lexicon, out / "demo-clip.safetensors")
    config = json.dumps(architecture(recipe.layers), indent=4)
    (out / "model.json").write_text(config + "\n", encoding="utf-8")
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


class _Batches(Dataset):
    """The batches of one process, by step."""

    def __init__(self, recipe: Recipe, lexicon: Lexicon, table: TokenTable, rank: int):
        self.recipe, self.lexicon, self.table, self.rank = recipe, lexicon, table, rank

    def __getitem__(self, step: int) -> Batch:
        recipe = self.recipe
        key = (recipe.seed, step, self.rank)
        return make_batch(self.lexicon, self.table, recipe.phase(step), recipe.batch, key)


def _work(rank: int, recipe: Recipe, lexicon: Lexicon, out: Path, store: Path) -> None:
    """Train in one process of one thread."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{store.resolve()}", rank=rank, world_size=recipe.processes
    )
    torch.manual_seed(recipe.seed)
    table = TokenTable(lexicon)
    model = Objective(len(table.rows), lexicon, recipe).to(recipe.device)
    optimizer = torch.optim.AdamW(_groups(model, recipe.weight_decay), betas=(0.9, 0.98))
    run = torch.compile(model) if recipe.compile else model
    checkpoint = out / "checkpoint.pth"
    start, seconds = _resume(checkpoint, recipe, model, optimizer)
    if rank == 0:
        _cut_log(out / "log.csv", start)
    dist.barrier()
    loader = DataLoader(
        _Batches(recipe, lexicon, table, rank),
        batch_size=None,
        sampler=range(start, recipe.steps),
        num_workers=recipe.loaders,
        pin_memory=recipe.device != "cpu",
    )
    begun = time.monotonic() - seconds
    bar = tqdm(loader, initial=start, total=recipe.steps, disable=bool(rank))
    for done, batch in enumerate(bar, start + 1):
        large = recipe.phase(done - 1).side == 112
        losses = run(batch.to(recipe.device), bool(recipe.affinity) and large)
        optimizer.zero_grad()
        losses["total"].backward()
        if recipe.processes > 1:
            _average_gradients(model)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = recipe.rate(done - 1)
        optimizer.step()
        if rank == 0 and done % 20 == 0:
            _log(out / "log.csv", done, time.monotonic() - begun, losses)
        if done % recipe.checkpoint == 0 or done == recipe.steps:
            if rank == 0:
                state = {
                    "model": model.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "recipe": _weighty(recipe),
                    "step": done,
                    "seconds": time.monotonic() - begun,
                }
                torch.save(state, checkpoint.with_suffix(".part"))
                os.replace(checkpoint.with_suffix(".part"), checkpoint)
            dist.barrier()
    dist.destroy_process_group()


def _weighty(recipe: Recipe) -> dict:
    """The settings that change the weights by more than float noise."""
    free = ("checkpoint", "compile", "device", "loaders")
    return {key: value for key, value in asdict(recipe).items() if key not in free}


def _resume(
    checkpoint: Path, recipe: Recipe, model: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[int, float]:
    """Load an interrupted training; return its steps and seconds, none where there is none.

    The order of random numbers needs no state: batches depend on the step, the model draws none.
    """
    if not checkpoint.exists():
        return 0, 0.0
    saved = torch.load(checkpoint, weights_only=True, map_location=recipe.device)
    if saved["recipe"] != _weighty(recipe):
        other = {k for k, v in _weighty(recipe).items() if saved["recipe"].get(k) != v}
        raise InputError(
            f"{checkpoint}: is of a training with another {', '.join(sorted(other))}; "
            "name another folder"
        )
    model.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    return saved["step"], saved["seconds"]


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


def _cut_log(path: Path, step: int) -> None:
    """Take away the lines of steps that will be done again."""
    if path.exists():
        head, *lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [line for line in lines if int(line.split(",")[0]) <= step]
        path.write_text("".join([head, *kept]), encoding="utf-8", newline="")


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
    for field in fields(Recipe):
        kind: Any = {"action": argparse.BooleanOptionalAction}
        if not isinstance(field.default, bool):
            kind = {"type": type(field.default)}
        parser.add_argument(f"--{field.name.replace('_', '-')}", default=field.default, **kind)
    settings = vars(parser.parse_args())
    try:
        rebuild(settings.pop("out"), settings)
    except InputError as error:
        parser.exit(1, f"{error}\n")


if __name__ == "__main__":
    main()
