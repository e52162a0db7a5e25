"""The weights of the demo CLIP that are shipped."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import clip_wsss.demo
from clip_wsss.core.errors import InputError
from clip_wsss.data.datasets import read_vocabulary
from clip_wsss.demo.build import scene_of
from clip_wsss.demo.captions import TokenTable, read_lexicon
from clip_wsss.demo.scenes import CLASSES
from clip_wsss.models.clip import load_clip

ROOT = Path(__file__).parents[3]
FOLDER = Path(clip_wsss.demo.__file__).parent / "clip"
WEIGHTS = FOLDER / "demo-clip.safetensors"


@pytest.fixture(scope="module")
def clip():
    return load_clip({"architecture": str(FOLDER / "model.json"), "weights": str(WEIGHTS)})


def test_the_file_is_small_and_has_the_rows_of_the_lexicon():
    assert WEIGHTS.stat().st_size < 3_000_000
    tensors = load_file(WEIGHTS)
    vocabulary = read_vocabulary(ROOT / "config/vocabularies/voc12.yaml")
    rows = TokenTable(read_lexicon(ROOT / "config/templates/imagenet20.txt", vocabulary)).rows
    np.testing.assert_array_equal(tensors["token_embedding.rows"].numpy(), rows)
    assert len(tensors["token_embedding.weight"]) == len(rows)
    assert all(torch.isfinite(value.float()).all() for value in tensors.values())


def test_a_word_that_was_never_trained_is_refused(clip):
    with pytest.raises(InputError, match="zebra"):
        clip.encode_texts([["a photo of a zebra."]])


def test_it_tells_the_classes_of_held_out_scenes(clip):
    texts = clip.encode_texts([[f"a photo of a {name}."] for name in CLASSES])
    scenes = [scene_of("val", 9, index) for index in range(40)]
    batch = torch.stack([clip.preprocess(scene.image) for scene in scenes])
    best = (clip.cls_features(batch).cpu() @ texts.T).argmax(dim=1)
    right = sum(int(label) in scene.labels for label, scene in zip(best, scenes, strict=True))
    assert right >= 34  # of 40; chance is about 4
