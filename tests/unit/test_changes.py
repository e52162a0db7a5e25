from made_results import config, run

from clip_wsss.changes import changes, entries


def words(old, new):
    settings = config()
    return changes(entries(settings, old), entries(settings, new))


BASE = run("base", None)


def test_the_same_settings_under_two_names_differ_in_nothing():
    assert words(BASE, run("other", None)) == []


def test_one_setting():
    assert words(run("a", None, cam="plain"), BASE) == ["target: logit -> softmax"]


def test_a_ranked_template_against_a_named_one_leaves_out_how_it_is_ranked():
    old = run("a", None, texts="photo,spread=deviation")
    new = run("b", None, texts="sharpest")
    assert words(old, new) == ["template: a photo of a {}. -> sharpest"]


def test_how_templates_are_ranked_counts_where_both_rank():
    new = run("b", None, texts="sharpest,spread=deviation")
    assert words(run("a", None, texts="sharpest"), new) == ["spread: variance -> deviation"]


def test_settings_of_an_option_that_one_does_not_use_are_passed_over():
    off = run("a", None, cam="softmax,affinity=none,caa.layers=8")
    assert words(off, BASE) == ["affinity: none -> caa"]
    crf = run("b", None, masks="caa-crf,crf.iterations=5")
    assert words(run("a", None, masks="caa"), crf) == ["refinement: none -> crf"]


def test_nested_settings_are_named_by_their_dotted_key():
    new = run("b", None, cam="softmax,caa.layers=8,position_embedding.round=float16")
    assert words(BASE, new) == [
        "position_embedding.round: none -> float16",
        "caa.layers: 3 -> 8",
    ]


def test_a_key_of_two_groups_is_named_with_its_group():
    old = run("a", None, masks="caa-crf", segmentation="cgl")
    new = run("b", None, masks="caa-crf", segmentation="cgl,precision=amp,test.flip=true")
    assert words(old, new) == [
        "segmentation precision: float32 -> amp",
        "test.flip: false -> true",
    ]


def test_a_stage_that_is_added():
    new = run("b", None, segmentation="cgl,mu=0.8")
    assert words(BASE, new) == ["segmentation: none -> cgl,mu=0.8"]
