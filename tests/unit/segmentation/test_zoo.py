"""Segmentors of MMSegmentation's zoo: read without being executed, built with our loss."""

from importlib.util import find_spec
from pathlib import Path

import pytest

from clip_wsss.core.errors import InputError
from clip_wsss.segmentation.segmentor import build_model, read_segmentor

CONFIGS = Path(find_spec("mmseg").origin).parent / ".mim/configs"
MODELS = sorted((CONFIGS / "_base_/models").glob("*.py"))
ENTRY = {"loss": "confidence-guided", "mu": 0.5}
REST = """
crop_size = (64, 64)
data_preprocessor = dict(size=crop_size)
model = dict(data_preprocessor=data_preprocessor)
"""


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_every_model_of_the_zoo(path, tmp_path):
    file = tmp_path / "mine.py"
    bases = [
        f"_base_/models/{path.name}",
        "../_base_/datasets/pascal_voc12.py",
        "_base_/schedules/schedule_20k.py",
    ]
    file.write_text(f"_base_ = {bases}{REST}")
    try:
        segmentor = read_segmentor(file)
        model = build_model(segmentor, ENTRY, 3, str(file))
    except InputError as error:
        print(path.stem, error)
        return
    print(path.stem, "ok", segmentor.get("init"))
