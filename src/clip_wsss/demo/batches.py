"""Training batches of the demo CLIP: scenes, mosaics of scenes, and the words that belong to them.

A batch is a function of the seed, the step and the process, so a resumed training sees the same
batches as an uninterrupted one.
"""

import random
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from clip_wsss.demo.captions import Lexicon, TokenTable, caption, concept_prompts
from clip_wsss.demo.losses import Words
from clip_wsss.demo.scenes import Scene, Style, draw_scene

PATCH = 8
SLOTS = 16  # four cells of a mosaic, with two objects and two backgrounds each
TEXT_LENGTH = 56  # tokens; the longest captions have fewer
_MEAN = np.array((0.48145466, 0.4578275, 0.40821073), np.float32) * 255
_STD = np.array((0.26862954, 0.26130258, 0.27577711), np.float32) * 255


@dataclass(frozen=True)
class Phase:
    """What the batches of a part of the training are like; probabilities are percentages."""

    side: int  # pixels
    kept: int  # patches that patch dropout keeps
    typical: int  # scenes with a typical background
    unnamed: int  # scenes whose background the caption leaves out
    mosaics: int = 40


@dataclass
class Batch:
    """One step's data of one process.

    Attributes:
        images: (B, 3, S, S) float32, normalised as CLIP wants it.
        patches: (B, N) int64, the patches kept, numbered in the image.
        positions: (B, N) int64, their places in the 14 x 14 grid of position embeddings.
        tokens: (T, L) int64, first the captions of the images, then one prompt for each concept.
        words: what the losses are told.
    """

    images: Tensor
    patches: Tensor
    positions: Tensor
    tokens: Tensor
    words: Words


@dataclass(frozen=True)
class _Cell:
    """A captioned scene and the tokens it covers: rows and columns, ends exclusive."""

    scene: Scene
    rows: tuple[int, int]
    columns: tuple[int, int]
    objects: tuple[int, ...]
    backgrounds: tuple[int, ...]  # concepts, none if the caption leaves them out


def make_batch(
    lexicon: Lexicon, table: TokenTable, phase: Phase, size: int, key: tuple[int, int, int]
) -> Batch:
    """Draw a batch of `size` images; `key` is (seed, step, process)."""
    rng = random.Random("clip/{}/{}/{}".format(*key))
    pictures = [_draw_image(rng, lexicon, phase) for _ in range(size)]
    texts, named = zip(*(_caption(rng, lexicon, cells) for cells in pictures), strict=True)
    prompts = concept_prompts(lexicon, rng)
    grid = phase.side // PATCH
    order = np.random.default_rng(rng.getrandbits(64))
    kept = order.permuted(np.tile(np.arange(grid**2), (size, 1)), axis=1)[:, : phase.kept]
    kept.sort(axis=1)
    windows = order.integers(0, 14 - grid + 1, (size, 2, 1))  # where a smaller image lies
    positions = (kept // grid + windows[:, 0]) * 14 + kept % grid + windows[:, 1]
    tokens = table.encode([*texts, *prompts])[:, :TEXT_LENGTH]
    if (tokens < 0).any() or not (tokens == len(table.rows) - 1).any(axis=1).all():
        raise ValueError("a caption is too long or uses a token outside the table")
    return Batch(
        torch.from_numpy(np.stack([_assemble(cells, phase.side) for cells in pictures])),
        torch.from_numpy(kept),
        torch.from_numpy(positions),
        torch.from_numpy(tokens),
        _words(pictures, named, kept, grid, len(lexicon.names)),
    )


def _draw_image(rng: random.Random, lexicon: Lexicon, phase: Phase) -> list[_Cell]:
    grid = phase.side // PATCH
    if rng.randrange(100) >= phase.mosaics:
        sizes = (30, 85) if phase.side == 112 else (40, 100)
        style = Style(sizes, (10, 27, 36, 27), phase.typical)
        return [_draw_cell(rng, lexicon, phase, style, (0, grid), (0, grid))]
    margin = grid * 3 // 8
    cuts: list[tuple[int, ...]] = [(0, rng.randint(margin, grid - margin), grid) for _ in range(2)]
    layout = rng.randrange(3)
    if layout < 2:  # one cut only
        cuts[layout] = (0, grid)
    style = Style((45, 95), (10, 60, 30), phase.typical)
    return [
        _draw_cell(rng, lexicon, phase, style, rows, columns)
        for rows in zip(cuts[0], cuts[0][1:], strict=False)
        for columns in zip(cuts[1], cuts[1][1:], strict=False)
    ]


def _draw_cell(
    rng: random.Random,
    lexicon: Lexicon,
    phase: Phase,
    style: Style,
    rows: tuple[int, int],
    columns: tuple[int, int],
) -> _Cell:
    width, height = (PATCH * (end - start) for start, end in (columns, rows))
    scene = draw_scene(rng, width, height, style)
    hidden = bool(scene.labels) and rng.randrange(100) < phase.unnamed
    backgrounds = () if hidden else tuple(map(lexicon.background, scene.backgrounds))
    return _Cell(scene, rows, columns, scene.labels, backgrounds)


def _caption(rng: random.Random, lexicon: Lexicon, cells: list[_Cell]) -> tuple[str, list[int]]:
    """Return the caption of one of the cells."""
    cell = rng.choice(cells)
    return caption(lexicon, cell.objects, cell.backgrounds, rng)


def _assemble(cells: list[_Cell], side: int) -> np.ndarray:
    """Return the (3, side, side) float32 image that the cells make up."""
    image = np.empty((side, side, 3), np.float32)
    for cell in cells:
        rows, columns = (slice(PATCH * a, PATCH * b) for a, b in (cell.rows, cell.columns))
        image[rows, columns] = cell.scene.image
    return np.ascontiguousarray(((image - _MEAN) / _STD).transpose(2, 0, 1))


def _words(
    pictures: list[list[_Cell]],
    named: tuple[list[int], ...],
    kept: np.ndarray,
    grid: int,
    concepts: int,
) -> Words:
    size, tokens = kept.shape
    truth = np.zeros((size, concepts), bool)  # what any caption of the image names
    allowed = np.zeros((size, tokens, concepts), bool)
    placed = np.zeros((size, tokens), bool)
    slot_concept = np.zeros((size, SLOTS), np.int64)
    slot_tokens = np.zeros((size, SLOTS, tokens), bool)
    slot_top = np.zeros((size, SLOTS), np.int64)
    y, x = kept // grid, kept % grid
    for b, cells in enumerate(pictures):
        slot = 0
        for cell in cells:
            inside = (y[b] >= cell.rows[0]) & (y[b] < cell.rows[1])
            inside &= (x[b] >= cell.columns[0]) & (x[b] < cell.columns[1])
            mentioned = [*cell.objects, *cell.backgrounds]
            truth[b, mentioned] = True
            allowed[b][np.ix_(inside, mentioned)] = True
            placed[b, inside] = bool(cell.backgrounds)
            count = int(inside.sum())
            for position, concept in enumerate(mentioned):
                percent = 8 if position < len(cell.objects) else 15
                slot_concept[b, slot] = concept
                slot_tokens[b, slot] = inside
                slot_top[b, slot] = min(count, max(2, count * percent // 100))
                slot += 1
    requires = np.zeros((size, concepts), bool)
    for t, mentioned in enumerate(named):
        requires[t, mentioned] = True
    captions = ~(requires[None] & ~truth[:, None]).any(-1)  # a caption is true if all it names is
    positives = np.concatenate([captions, truth], axis=1)
    arrays = (positives, allowed, slot_concept, slot_tokens, slot_top, placed)
    return Words(*map(torch.from_numpy, arrays))
