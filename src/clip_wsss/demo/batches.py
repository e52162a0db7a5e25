"""Training batches of the demo CLIP: scenes, mosaics of scenes, and the words that belong to them.

A batch is a function of the seed, the step and the process, so a resumed training sees the same
batches as an uninterrupted one.
"""

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from clip_wsss.demo.captions import Lexicon, Text, TokenTable, caption, concept_prompts
from clip_wsss.demo.losses import Words
from clip_wsss.demo.scenes import WORLDS, Scene, Style, draw_scene

PATCH = 8
SLOTS = 16  # four cells of a mosaic, with two objects and two backgrounds each
TEXT_LENGTH = {1: 56, 2: 40}  # tokens, by world; the longest captions have fewer
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
    world: int = 1
    usual: bool = False  # prompts of the most frequent name and template only


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

    def to(self, device: str) -> "Batch":
        """The same on a device."""
        return self._mapped(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> "Batch":
        """The same in page-locked memory, as the loader of a GPU asks for it."""
        return self._mapped(Tensor.pin_memory)

    def _mapped(self, function: Callable[[Tensor], Tensor]) -> "Batch":
        def mapped(part: Batch | Words) -> dict[str, Tensor]:
            return {k: function(v) for k, v in vars(part).items() if isinstance(v, Tensor)}

        return Batch(**mapped(self), words=Words(**mapped(self.words)))


@dataclass(frozen=True)
class _Cell:
    """A captioned scene and the tokens it covers: rows and columns, ends exclusive."""

    scene: Scene
    rows: tuple[int, int]
    columns: tuple[int, int]
    objects: tuple[str, ...]  # a sprite of each concept in it
    backgrounds: tuple[str, ...]  # none if the caption leaves them out


def make_batch(
    lexicon: Lexicon, table: TokenTable, phase: Phase, size: int, key: tuple[int, int, int]
) -> Batch:
    """Draw a batch of `size` images; `key` is (seed, step, process)."""
    rng = random.Random("clip/{}/{}/{}".format(*key))
    pictures = [_draw_image(rng, lexicon, phase) for _ in range(size)]
    texts = [_caption(rng, lexicon, cells) for cells in pictures]
    prompts = concept_prompts(lexicon, rng, phase.usual)
    grid = phase.side // PATCH
    order = np.random.default_rng(rng.getrandbits(64))
    kept = order.permuted(np.tile(np.arange(grid**2), (size, 1)), axis=1)[:, : phase.kept]
    kept.sort(axis=1)
    windows = order.integers(0, 14 - grid + 1, (size, 2, 1))  # where a smaller image lies
    positions = (kept // grid + windows[:, 0]) * 14 + kept % grid + windows[:, 1]
    tokens = table.encode([text.text for text in (*texts, *prompts)])
    tokens = tokens[:, : TEXT_LENGTH[phase.world]]
    if (tokens < 0).any() or not (tokens == len(table.rows) - 1).any(axis=1).all():
        raise ValueError("a caption is too long or uses a token outside the table")
    return Batch(
        torch.from_numpy(np.stack([_assemble(cells, phase.side) for cells in pictures])),
        torch.from_numpy(kept),
        torch.from_numpy(positions),
        torch.from_numpy(tokens),
        _words(lexicon, pictures, texts, prompts, kept, grid),
    )


def _draw_image(rng: random.Random, lexicon: Lexicon, phase: Phase) -> list[_Cell]:
    grid = phase.side // PATCH
    if rng.randrange(100) >= phase.mosaics:
        sizes = (30, 85) if phase.side == 112 else (40, 100)
        style = replace(
            WORLDS[phase.world], sizes=sizes, counts=(10, 27, 36, 27), typical=phase.typical
        )
        return [_draw_cell(rng, lexicon, phase, style, (0, grid), (0, grid))]
    margin = grid * 3 // 8
    cuts: list[tuple[int, ...]] = [(0, rng.randint(margin, grid - margin), grid) for _ in range(2)]
    layout = rng.randrange(3)
    if layout < 2:  # one cut only
        cuts[layout] = (0, grid)
    style = replace(WORLDS[phase.world], sizes=(45, 95), counts=(10, 60, 30), typical=phase.typical)
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
    sprites = {lexicon.concept[found.sprite]: found.sprite for found in reversed(scene.objects)}
    shown = tuple(reversed(sprites.values()))
    return _Cell(scene, rows, columns, shown, () if hidden else scene.backgrounds)


def _caption(rng: random.Random, lexicon: Lexicon, cells: list[_Cell]) -> Text:
    """Return the caption of one of the cells."""
    cell = rng.choice(cells)
    return caption(lexicon, cell.objects, cell.backgrounds, rng, cell.scene.look)


def _assemble(cells: list[_Cell], side: int) -> np.ndarray:
    """Return the (3, side, side) float32 image that the cells make up."""
    image = np.empty((side, side, 3), np.float32)
    for cell in cells:
        rows, columns = (slice(PATCH * a, PATCH * b) for a, b in (cell.rows, cell.columns))
        image[rows, columns] = cell.scene.image
    return np.ascontiguousarray(((image - _MEAN) / _STD).transpose(2, 0, 1))


def _words(
    lexicon: Lexicon,
    pictures: list[list[_Cell]],
    texts: list[Text],
    prompts: list[Text],
    kept: np.ndarray,
    grid: int,
) -> Words:
    size, tokens = kept.shape
    concepts = len(prompts)
    spoken = {key: _numbered(lexicon, names) for key, names in lexicon.spoken.items()}
    prompted = [lexicon.words[prompt.names[0]] for prompt in prompts]
    true_names = np.zeros((size, len(lexicon.words)), bool)  # what any caption may say of it
    shown = np.zeros((size, tokens, concepts), bool)
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
            keys = [*cell.objects, *cell.backgrounds]
            mentioned = [lexicon.concept[key] for key in keys]
            said = np.logical_or.reduce([spoken[key] for key in keys] or [true_names[b] & False])
            true_names[b] |= said
            shown[b][np.ix_(inside, mentioned)] = True
            allowed[b][inside] = said[prompted]
            allowed[b][np.ix_(inside, mentioned)] = True
            placed[b, inside] = bool(cell.backgrounds)
            count = int(inside.sum())
            for position, concept in enumerate(mentioned):
                percent = 8 if position < len(cell.objects) else 15
                slot_concept[b, slot] = concept
                slot_tokens[b, slot] = inside
                slot_top[b, slot] = min(count, max(2, count * percent // 100))
                slot += 1
    # A text is true if all that it names is there, and the picture looks as it says.
    required = np.array([_numbered(lexicon, text.names) for text in (*texts, *prompts)])
    wrong = (~true_names).astype(np.int32) @ required.T.astype(np.int32)
    looks = [{cell.scene.look for cell in cells} | {""} for cells in pictures]
    seen = np.array([[text.look in look for text in (*texts, *prompts)] for look in looks])
    arrays = ((wrong == 0) & seen, allowed, shown, slot_concept, slot_tokens, slot_top, placed)
    return Words(*map(torch.from_numpy, arrays))


def _numbered(lexicon: Lexicon, names: Iterable[str]) -> np.ndarray:
    """Return (number of names,) bool, which of all names these are."""
    which = np.zeros(len(lexicon.words), bool)
    which[[lexicon.words[name] for name in names]] = True
    return which
