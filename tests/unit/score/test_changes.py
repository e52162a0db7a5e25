import json
from pathlib import Path

import pytest
from made_results import config, content, plan, run

from clip_wsss.runs.config import load_config
from clip_wsss.score.changes import changes, entries


def words(old, new, settings=None):
    graph = plan(".", [old, new], settings).graph
    found = [entries(graph, row) for row in (old, new)]
    # They go through runs.json.
    return changes(*json.loads(json.dumps(found)))


BASE = run("base", None)
CRF = {"affinity": "caa", "masks": "crf"}


def test_the_same_settings_under_two_names_differ_in_nothing():
    assert words(BASE, run("other", None)) == []


def test_the_same_settings_under_other_entries_differ_in_nothing():
    settings = content()
    settings["models"]["twin"] = settings["models"]["demo"]
    settings["cam"]["same"] = {"model": "twin", "target": "softmax"}
    settings["texts"]["same"] = {"template": ["a photo of a {}."], "background": "clip-es"}
    new = run("b", None, cam="same", texts="same,score=patches", affinity="corrected,layers=3")
    assert words(run("a", None, affinity="caa"), new, load_config(settings)) == []


def test_one_setting():
    assert words(run("a", None, cam="plain"), BASE) == ["target: logit -> softmax"]


def test_the_precision_of_the_scores_is_named_with_its_default():
    new = run("b", None, affinity="caa", masks="argmax,scores=float32")
    assert words(run("a", None, affinity="caa", masks="argmax"), new) == [
        "scores: float16 -> float32"
    ]


def test_a_ranked_template_against_a_named_one_leaves_out_how_it_is_ranked():
    old = run("a", None, texts="photo,spread=deviation")
    new = run("b", None, texts="sharpest")
    assert words(old, new) == ["template: a photo of a {}. -> sharpest"]


def test_a_line_of_the_templates_is_named_by_its_words():
    new = run("b", None, texts="photo,template=2")
    (found,) = words(BASE, new)
    assert found.startswith("template: a photo of a {}. -> ")
    assert "{}" in found.rpartition(" -> ")[2]


def test_how_templates_are_ranked_counts_where_both_rank():
    new = run("b", None, texts="sharpest,spread=deviation")
    assert words(run("a", None, texts="sharpest"), new) == ["spread: variance -> deviation"]


def test_synonyms_with_the_template_of_their_base_differ_in_the_names_alone():
    old = run("a", None, texts="sharpest")
    assert words(old, run("b", None, texts="synonyms")) == ["names: plain -> clip-es"]
    own = run("b", None, texts="sharpest,names=clip-es")
    assert words(old, own) == ["names: plain -> clip-es"]
    assert words(own, run("c", None, texts="synonyms")) == ["ranked_names: clip-es -> plain"]


def test_a_stage_that_one_does_not_have_is_named_without_its_settings():
    assert words(BASE, run("b", None, affinity="corrected")) == ["affinity: none -> caa"]
    assert words(run("b", None, **CRF), run("a", None, affinity="caa")) == [
        "masks: crf+backend=fast -> none"
    ]


def test_settings_of_an_option_that_one_does_not_use_are_passed_over():
    crf = run("b", None, affinity="caa", masks="crf,crf.iterations=5")
    old = run("a", None, affinity="caa", masks="argmax")
    assert words(old, crf) == ["refinement: none -> crf"]
    cgl = run("b", None, **CRF, segmentation="cgl")
    old = run("a", None, **CRF, segmentation="all-pixels")
    assert words(old, cgl) == ["loss: cross-entropy -> confidence-guided"]


def test_nested_settings_are_named_by_their_dotted_key():
    new = run("b", None, cam="softmax,position_embedding.round=float16", affinity="caa,layers=8")
    assert words(run("a", None, affinity="caa"), new) == [
        "position_embedding.round: none -> float16",
        "layers: 3 -> 8",
    ]


def test_another_model_is_named_by_its_settings():
    settings = content()
    settings["models"]["raw"] = settings["models"]["demo"] | {"round_weights": "none"}
    new = run("b", None, cam="softmax,model=raw")
    assert words(BASE, new, load_config(settings)) == ["model.round_weights: float16 -> none"]


def test_a_key_of_two_groups_is_named_with_its_group():
    old = run("a", None, **CRF, segmentation="cgl")
    new = run("b", None, **CRF, segmentation="cgl,precision=amp", inference="default,flip=true")
    assert words(old, new) == [
        "segmentation precision: float32 -> amp",
        "inference flip: false -> true",
    ]
    new = run("b", None, **CRF, segmentation="cgl", inference="default,refinement=crf")
    assert words(old, new) == ["inference refinement: none -> crf"]


def test_mu_is_named_where_it_decides():
    old = run("a", None, **CRF, segmentation="cgl")
    new = run("b", None, **CRF, segmentation="cgl,mu=0.8")
    assert words(old, new) == ["mu: 0.95 -> 0.8"]
    plain = run("c", None, **CRF, segmentation="cgl,loss=cross-entropy")
    assert words(new, plain) == ["loss: confidence-guided -> cross-entropy"]


def test_a_stage_that_is_added():
    old, new = run("a", None, **CRF), run("b", None, **CRF, segmentation="cgl,mu=0.8")
    assert words(old, new) == ["segmentation: none -> TokenHead+confidence-guided+mu=0.8"]
    new = run("b", None, **CRF, segmentation="cgl", inference="default,flip=true")
    assert words(old, new)[1:] == ["inference: none -> flip=true"]
    old = run("a", None, **CRF, segmentation="cgl", inference=None)
    new = run("b", None, **CRF, segmentation="cgl")
    assert words(old, new) == ["inference: none -> plain"]


def test_another_source_of_the_masks():
    none = {"texts": None, "cam": None}
    new = run("b", None, **none, masks="ground-truth")
    found = words(run("a", None, **CRF), new)
    assert [word.partition(":")[0] for word in found] == ["texts", "cam", "affinity", "source"]
    assert found[2:] == ["affinity: caa+layers=3 -> none", "source: maps -> ground-truth"]


def test_a_file_with_another_content_is_seen(tmp_path):
    files = []
    for name, rate in (("a", 0.1), ("b", 0.2)):
        (tmp_path / name).mkdir()
        files.append(tmp_path / name / "s.yaml")
        text = Path("config/segmentors/frozen-clip.yaml").read_text(encoding="utf-8")
        files[-1].write_text(text.replace("power: 0.9", f"power: {rate}"), encoding="utf-8")
    settings = [content() for _ in files]
    found = []
    for file, one in zip(files, settings, strict=True):
        one["segmentation"]["cgl"]["segmentor"] = str(file)
        row = run("a", None, **CRF, segmentation="cgl")
        found.append(entries(plan(".", [row], load_config(one)).graph, row))
    assert found[0]["segmentation"]["settings"] == found[1]["segmentation"]["settings"]
    (word,) = changes(*found)
    assert word.startswith("segmentation.segmentor.param_scheduler: ")
    assert "0.1" in word
    assert "0.2" in word
    assert str(tmp_path) not in json.dumps(found)


@pytest.mark.parametrize("groups", [("texts", "cam"), ("affinity",)])
def test_some_groups_alone(groups):
    old, new = run("a", None, cam="plain"), run("b", None, affinity="corrected")
    graph = plan(".", [old, new], config()).graph
    found = changes(entries(graph, old), entries(graph, new), groups)
    assert found == [
        {"texts": "target: logit -> softmax", "affinity": "affinity: none -> caa"}[groups[0]]
    ]


def test_a_list_of_settings_is_written_as_in_cells():
    old, new = run("a", None, affinity="caa"), run("b", None, affinity="two-towers")
    assert words(old, new) == [
        "weight: 1 -> 0.4",
        "mixed: none -> layers=3 attention=qk tower=exact weight=0.6",
    ]
