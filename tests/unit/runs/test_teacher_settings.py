"""What a config says of a CLIP that teaches, and which jobs its code counts for."""

import pytest

from clip_wsss.core.errors import InputError
from clip_wsss.runs.config import read_config
from clip_wsss.runs.graph import TEACHER, Graph
from clip_wsss.runs.settings import validated_entry
from clip_wsss.runs.table import read_runs

ENTRY = {"segmentor": "config/segmentors/frozen-clip.yaml", "iterations": 300}
HEAD = {"text_head": {"model": "demo"}}


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"teacher": {"glm": {}}}, "teacher: needs text_head, whose CLIP it is; set that"),
        (HEAD | {"teacher": {}}, "teacher: needs glm or plm; write glm: {}, or leave teacher out"),
        (HEAD | {"teacher": {"glm": {"tau": 0}}}, r"teacher\.glm\.tau: must be more than 0; got 0"),
        (
            HEAD | {"teacher": {"plm": {"windows": []}}},
            r"windows: must be a list that is not empty",
        ),
        (
            HEAD | {"teacher": {"plm": {"windows": [1.5]}}},
            r"windows\.0: must be at most 1; got 1.5",
        ),
        (HEAD | {"teacher": {"plm": {"fusion": 2}}}, r"plm\.fusion: must be at most 1; got 2"),
    ],
)
def test_what_cannot_be_is_one_line(entry, message):
    with pytest.raises(InputError, match=message):
        validated_entry("segmentation", ENTRY | entry, "x")


@pytest.mark.parametrize("config", ["config/zeroshot.yaml", "config/voc12-zeroshot.yaml"])
def test_rows_differ_in_their_teacher_alone(config):
    config = read_config(config)
    graph = Graph(config, read_runs(config))
    parts = {"teacher": set(), "teacher-glm": {"glm"}, "teacher-plm": {"plm"}}
    parts |= {"teacher-glm-plm": {"glm", "plm"}, "teacher-weak-glm-plm": {"glm", "plm"}}
    plain = {name: graph.paths[name] for name in ("teacher", "teacher-weak")}
    for name, wanted in parts.items():
        training, inference = (graph.paths[name][one] for one in ("segmentation", "inference"))
        assert training.identity.get("teacher", {}) == {part: {} for part in wanted}
        base = plain["teacher-weak" if "weak" in name else "teacher"]
        rest = {key: one for key, one in training.identity.items() if key != "teacher"}
        assert rest == {k: v for k, v in base["segmentation"].identity.items() if k != "teacher"}
        assert (TEACHER in training.methods) == bool(wanted)
        assert TEACHER not in inference.methods
        assert inference.methods == base["inference"].methods
