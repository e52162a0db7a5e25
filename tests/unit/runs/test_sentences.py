"""The sentences that a file of text features needs."""

from pathlib import Path

import numpy as np
import torch

from clip_wsss.data.vocabulary import read_vocabulary
from clip_wsss.models.sentences import Sentences
from clip_wsss.prompts.texts import text_features
from clip_wsss.runs.config import read_config
from clip_wsss.runs.sentences import sentences
from clip_wsss.runs.settings import Texts

ROOT = Path(__file__).parents[3]


def test_every_template_with_every_word(tmp_path):
    config = read_config(ROOT / "config/voc12.yaml")
    found = sentences(config)
    assert found == sorted(set(found))
    assert "a photo of a dog." in found
    assert "a clean origami ground." in found
    asked: list[str] = []

    class Asked:
        def encode_texts(self, texts):
            asked.extend(text for item in texts for text in item)
            return torch.eye(len(texts))

    vocabulary = read_vocabulary(config.dataset.vocabulary)
    for template, names in (("a photo of a {}.", "plain"), ("a clean origami {}.", "clip-es")):
        words = vocabulary.background("clip-es")
        text_features(Asked(), [template], list(vocabulary.texts(names).values()), words)
    assert set(asked) <= set(found)
    np.savez(tmp_path / "a.npz", texts=np.array(found), features=np.ones((len(found), 4)))
    assert Sentences(tmp_path / "a.npz", 4)(asked).shape == (len(asked), 4)


def test_names_that_rank_templates_are_asked_for_too(monkeypatch):
    monkeypatch.chdir(ROOT)
    entry = Texts(template="sharpest", names="clip-es", ranked_names="plain")
    config = read_config("config/voc12.yaml").model_copy(update={"texts": {"a": entry}})
    assert {"a photo of a bird.", "a photo of a bird avian."} <= set(sentences(config))
