"""Runs as paths through stages: keys by content, shared folders, passes, files."""

import copy
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from clip_wsss.core.errors import InputError
from clip_wsss.prompts.texts import read_templates
from clip_wsss.runs import plan as plan_module
from clip_wsss.runs.config import load_config, read_yaml
from clip_wsss.runs.contents import folder_digest
from clip_wsss.runs.fingerprint import module_files
from clip_wsss.runs.graph import Graph
from clip_wsss.runs.nodes import cam_of
from clip_wsss.runs.plan import Plan
from clip_wsss.runs.sidecar import same
from clip_wsss.runs.table import read_runs

ROOT = Path(__file__).parents[3]
HEADER = "name\ttexts\tcam\taffinity\tmasks\tsegmentation\tinference\tseed\n"
FULL = "full\tphoto\tsoftmax\tcaa\tcrf\tcgl\tdefault\t0\n"
GROUPS = ("texts", "cam", "affinity", "masks", "segmentation", "inference")


@pytest.fixture(autouse=True)
def _at_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.fixture
def content():
    found = yaml.safe_load((ROOT / "config/config.yaml").read_text(encoding="utf-8"))
    found["compute"]["shards"] = 2
    return found


@pytest.fixture
def graph(tmp_path, content):
    def make(rows=FULL, change=None):
        table = tmp_path / "test.tsv"
        table.write_text(HEADER + rows, encoding="utf-8")
        own = copy.deepcopy(content)
        own["runs"]["tables"] = [str(table)]
        if change:
            change(own)
        config = load_config(own)
        return Graph(config, read_runs(config))

    return make


def folders(graph, run="full"):
    return {group: node.folder for group, node in graph.paths[run].items()}


def moved(one, other):
    """Stages whose folder differs."""
    return {group for group in GROUPS if one.get(group) != other.get(group)}


@pytest.mark.parametrize(
    ("change", "stages"),
    [
        (lambda c: c["texts"]["photo"].update(template="a picture of a {}."), GROUPS),
        (lambda c: c["texts"]["photo"].update(names="clip-es"), GROUPS),
        (lambda c: c["models"]["demo"].update(round_weights="none"), GROUPS),
        (lambda c: c["dataset"]["splits"].update(pseudo="val"), GROUPS[1:]),
        (lambda c: c["dataset"].update(on_bad_image="skip"), GROUPS[1:]),
        (lambda c: c["cam"]["softmax"].update(target="logit"), GROUPS[1:]),
        (lambda c: c["cam"]["softmax"].update(precision="bfloat16"), GROUPS[1:]),
        (lambda c: c["affinity"]["caa"].update(power=3), GROUPS[2:]),
        (lambda c: c["masks"]["crf"]["crf"].update(iterations=5), GROUPS[3:]),
        (lambda c: c["masks"]["crf"].update(background_power=2), GROUPS[3:]),
        (lambda c: c["segmentation"]["cgl"].update(mu=0.8), GROUPS[4:]),
        (lambda c: c["segmentation"]["cgl"].update(iterations=301), GROUPS[4:]),
        (lambda c: c["inference"]["default"].update(flip=True), GROUPS[5:]),
        # What decides no bytes, or says the same:
        (lambda c: c["masks"]["crf"].update(scoring="oracle"), ()),
        (lambda c: c["compute"].update(workers=7, device="auto", shards=5), ()),
        (lambda c: c["evaluation"].update(powers=[3.0]), ()),
        (lambda c: c["dataset"]["splits"].update(test="val"), ()),
        (lambda c: c["dataset"].update(root="elsewhere"), ()),
        (lambda c: c["affinity"]["caa"].update(power=2), ()),
        (lambda c: c["texts"]["photo"].update(template=["a photo of a {}."]), ()),
        (lambda c: c["texts"]["photo"].update(template=1), ()),
        (lambda c: c["texts"]["photo"].update(score="patches"), ()),
        (lambda c: c["masks"]["crf"].update(background_power=1.0), ()),
        (lambda c: c["segmentation"]["cgl"].update(mu=0.95), ()),
        (lambda c: c.update(cam=dict(reversed(c["cam"].items()))), ()),
    ],
)
def test_a_setting_moves_its_stage_and_what_follows(graph, change, stages):
    assert moved(folders(graph()), folders(graph(change=change))) == set(stages)


def test_keys_do_not_know_names_of_rows_and_entries(graph):
    def rename(config):
        for group in GROUPS:
            config[group] = {f"my-{name}": entry for name, entry in config[group].items()}

    rows = "mine\tmy-photo\tmy-softmax\tmy-caa\tmy-crf\tmy-cgl\tmy-default\t0\n"
    assert folders(graph()) == folders(graph(rows, rename), "mine")


def test_contents_of_files_count_and_their_places_do_not(graph, tmp_path, content):
    weights = tmp_path / "other.safetensors"
    shutil.copy(content["models"]["demo"]["weights"], weights)
    same = graph(change=lambda c: c["models"]["demo"].update(weights=str(weights)))
    keys = [node.key for node in graph().paths["full"].values()]
    assert [node.key for node in same.paths["full"].values()] == keys
    with weights.open("ab") as file:
        file.write(b"x")
    other = graph(change=lambda c: c["models"]["demo"].update(weights=str(weights)))
    assert all(node.key not in keys for node in other.paths["full"].values())


def test_a_comment_in_a_segmentors_file_moves_nothing(graph, tmp_path, content):
    entry = content["segmentation"]["cgl"]
    copied = tmp_path / Path(entry["segmentor"]).name
    copied.write_text("# mine\n" + Path(entry["segmentor"]).read_text("utf-8"), encoding="utf-8")

    def change(config):
        config["segmentation"]["cgl"]["segmentor"] = str(copied)

    assert folders(graph(change=change)) == folders(graph())
    copied.write_text(copied.read_text("utf-8").replace("lr: 0.01", "lr: 0.02"), encoding="utf-8")
    assert moved(folders(graph(change=change)), folders(graph())) == set(GROUPS[4:])


def test_the_clip_of_a_segmentor_is_an_entry_of_models(graph, tmp_path, content):
    """Its contents count for the training, its name does not, and the job gets the entry."""
    weights = tmp_path / "other.safetensors"
    shutil.copy(content["models"]["demo"]["weights"], weights)
    segmentor = tmp_path / "mine.yaml"
    text = Path(content["segmentation"]["cgl"]["segmentor"]).read_text("utf-8")
    segmentor.write_text(text.replace("model: demo ", "model: mine "), encoding="utf-8")

    def change(**entry):
        def own(config):
            config["models"]["mine"] = config["models"]["demo"] | entry
            config["segmentation"]["cgl"]["segmentor"] = str(segmentor)

        return own

    whole = folders(graph())
    named = graph(change=change())
    assert folders(named) == whole
    found = named.paths["full"]["segmentation"].settings["clip"]
    assert content["models"]["demo"].items() <= found.items()
    assert folders(graph(change=change(weights=str(weights)))) == whole
    with weights.open("ab") as file:
        file.write(b"x")
    for entry in ({"weights": str(weights)}, {"round_weights": "none"}):
        assert moved(folders(graph(change=change(**entry))), whole) == set(GROUPS[4:])
    with pytest.raises(InputError, match=r"backbone\.model: unknown entry of models `mine`"):
        graph(change=lambda c: c["segmentation"]["cgl"].update(segmentor=str(segmentor)))


def test_rows_share_what_they_agree_on(graph):
    rows = FULL + "other\tphoto\tsoftmax\tcaa\tcrf\tcgl,mu=0.8\tdefault\t3\n"
    made = graph(rows)
    assert moved(folders(made), folders(made, "other")) == {"segmentation", "inference"}
    assert len(made.nodes("masks")) == 1
    assert len(made.nodes("segmentation")) == 2
    assert [made.seeds(node) for node in made.nodes("segmentation")] in ([[0], [3]], [[3], [0]])


def test_two_spellings_of_the_same_settings_are_one_folder(graph):
    rows = (
        FULL + "again\tphoto\tsoftmax,target=softmax\tcaa,power=2\tcrf\tcgl,mu=0.95\tdefault\t0\n"
    )
    made = graph(rows)
    assert folders(made) == folders(made, "again")


def test_masks_of_other_sources(graph, tmp_path):
    for name in ("a", "b"):
        Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / f"{name}.png")
    entry = {"source": "import", "folder": str(tmp_path)}
    rows = "truth\t-\t-\t-\tground-truth\tcgl\tdefault\t0\nother\t-\t-\t-\tmine\tcgl\tdefault\t0\n"
    one = graph(rows, lambda c: c["masks"].update(mine=entry))
    assert one.paths["truth"].keys() == {"masks", "segmentation", "inference"}
    assert one.scores(one.runs[0]).keys() == {"segmentation"}, "a mask is not scored on itself"
    assert one.scores(one.runs[1]).keys() == {"mask", "segmentation"}
    assert one.passes == {}
    Image.fromarray(np.ones((4, 4), np.uint8)).save(tmp_path / "b.png")
    two = graph(rows, lambda c: c["masks"].update(mine=entry))
    assert folders(one, "truth") == folders(two, "truth")
    assert moved(folders(one, "other"), folders(two, "other")) == set(GROUPS[3:]), "an edit is seen"
    (tmp_path / "._b.png").write_bytes(b"\0\5\x16\7")  # macOS's note of b.png
    assert folders(graph(rows, lambda c: c["masks"].update(mine=entry)), "other") == folders(
        two, "other"
    )


def test_ground_truth_of_ones_own_counts_by_its_bytes(graph, tmp_path):
    root = tmp_path / "own"
    for split, name in (("train", "a"), ("val", "b")):
        for folder in ("JPEGImages", "Annotations", "SegmentationClass"):
            (root / folder).mkdir(parents=True, exist_ok=True)
            suffix = {"JPEGImages": "jpg", "Annotations": "xml"}.get(folder, "png")
            (root / folder / f"{name}.{suffix}").write_bytes(b"1")
        (root / "ImageSets/Segmentation").mkdir(parents=True, exist_ok=True)
        (root / f"ImageSets/Segmentation/{split}.txt").write_text(f"{name}\n")

    def plan():
        return Plan(graph(FULL, lambda c: c["dataset"].update(source="folder", root=str(root))))

    def stamps(one):
        node = one.graph.paths["full"]
        parts = (("mask", node["masks"]), ("segmentation", node["inference"]))
        return [one.score_stamp(*part) for part in parts], one.check_stamp

    first = plan()
    for file in root.rglob("*.*"):
        file.touch()
    assert (folders(plan().graph), stamps(plan())) == (folders(first.graph), stamps(first))
    (root / "SegmentationClass/a.png").write_bytes(b"22")
    second = plan()
    assert folders(second.graph) == folders(first.graph), "no stage but the score reads it"
    (mask, val), check = stamps(second)
    (first_mask, first_val), first_check = stamps(first)
    assert (mask != first_mask, val == first_val, check != first_check) == (True, True, True)
    for file in ("JPEGImages/a.jpg", "Annotations/a.xml"):
        (root / file).write_bytes(b"333")
        third, before = plan(), check
        (mask_, val_), check = stamps(third)
        assert (folders(third.graph), mask_, val_) == (folders(second.graph), mask, val)
        assert check != before, "it costs itself alone, and is looked at again"
    (root / "SegmentationClass/b.png").write_bytes(b"22")
    assert stamps(plan())[0][1] != val


def test_images_of_ones_own_that_were_replaced_make_stale_what_was_made_of_them(graph, tmp_path):
    # FAULTS 5: figures of images that are gone.
    root = tmp_path / "own"
    ids = {"train": ["a", "b"], "val": ["c"]}
    (root / "ImageSets/Segmentation").mkdir(parents=True)
    for split, names in ids.items():
        (root / f"ImageSets/Segmentation/{split}.txt").write_text("\n".join(names))
        for name in names:
            for folder, suffix in (("JPEGImages", "jpg"), ("Annotations", "xml")):
                (root / folder).mkdir(exist_ok=True)
                (root / folder / f"{name}.{suffix}").write_bytes(b"1")
    own = {"source": "folder", "root": str(root), "masks": None}

    def change(content):
        content["dataset"].update(own)
        content["dataset"]["splits"].update(score=None)
        content["compute"]["shards"] = 2

    def made():
        plan = Plan(graph(FULL.replace("photo", "sharpest"), change))
        path = plan.graph.paths["full"]
        found = {f"{stage} {one.files[0].stem[:4]}": one for stage in ("cam", "affinity", "masks")
                 for one in plan.products(path[stage])}  # fmt: skip
        found["features"] = plan.features(path["texts"].parents[0])
        found["training"] = plan.training(path["segmentation"], 0)
        found["val"] = plan.predictions(path["inference"], 0, "val")
        return {name: one.stamp for name, one in found.items()}

    first = made()
    for file in root.rglob("*.*"):
        file.touch()
    assert made() == first
    for name, others in (
        ("a", {"cam 0001", "affinity 0001", "masks 0001", "features", "training", "val"}),
        ("b", {"cam 0002", "affinity 0002", "masks 0002", "features", "training", "val"}),
        ("c", {"val"}),
    ):
        for file in (f"JPEGImages/{name}.jpg", f"Annotations/{name}.xml"):
            (root / file).write_bytes(b"22")
            second = made()
            assert {key for key in first if not same(first[key], second[key])} == others
            assert {key for key in first if first[key] != second[key]} == others
            (root / file).write_bytes(b"1")


def test_the_check_knows_the_largest_mu_of_trainings_on_imported_confidences(graph, tmp_path):
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "a.png")
    entry = {"source": "import", "folder": str(tmp_path), "confidences": str(tmp_path)}
    rows = "".join(
        f"{name}\t-\t-\t-\t{masks}\tcgl,mu={mu}\tdefault\t0\n"
        for name, masks, mu in (("a", "mine", 0.9), ("b", "mine", 0.8), ("c", "ground-truth", 0.99))
    )
    made = Plan(graph(rows, lambda c: c["masks"].update(mine=entry)))
    assert {split: use.mu for split, use in made.uses.items()} == {"train": 0.9, "val": 0}
    entry = {"source": "import", "folder": str(tmp_path)}
    made = Plan(graph(rows, lambda c: c["masks"].update(mine=entry)))
    assert not any(use.mu for use in made.uses.values()), "without confidences each is 1"


def test_a_folder_that_a_mask_refinement_reads_counts_by_its_contents(graph, tmp_path):
    def folder(name, value):
        (tmp_path / name).mkdir()
        Image.fromarray(np.full((4, 4), value, np.uint8)).save(tmp_path / name / "x.png")
        return reading(name)

    def reading(name):
        entry = {"refinement": "sepl", "sepl": {"folder": str(tmp_path / name)}}
        return lambda c: c["masks"].update(voted=entry)

    rows = FULL.replace("crf", "voted")
    one, two, other = (graph(rows, folder(*of)) for of in (("a", 1), ("b", 1), ("c", 2)))
    assert folders(one) == folders(two), "a copy elsewhere is the same"
    assert moved(folders(one), folders(other)) == set(GROUPS[3:])
    node = one.paths["full"]["masks"]
    assert node.settings["sepl"]["folder"] == str(tmp_path / "a"), "which the job reads"
    assert str(tmp_path) not in str(node.identity)
    np.savez(tmp_path / "c" / "y.npz", regions=np.zeros((1, 4, 4)))
    again = graph(rows, reading("c"))
    assert moved(folders(again), folders(other)) == set(GROUPS[3:])


def test_towers_of_a_mixture_count_by_their_weights(graph):
    def entry(tower, weight):
        def change(c):
            c["models"]["again"] = c["models"]["exact"]
            mixed = [{"layers": 3}, {"tower": tower, "weight": weight}]
            c["affinity"]["caa"].update(mixed=mixed)

        return change

    one, renamed = graph(change=entry("exact", 0.6)), graph(change=entry("again", 0.6))
    assert folders(one) == folders(renamed)
    assert one.paths["full"]["affinity"].towers.keys() == {"exact"}
    for other in (entry("demo", 0.6), entry("exact", 0.5)):
        assert moved(folders(one), folders(graph(change=other))) == set(GROUPS[2:])
    with pytest.raises(InputError, match=r"caa.mixed.1.tower: unknown model `dimo`; did you mean"):
        graph(change=entry("dimo", 0.6))
    with pytest.raises(InputError, match=r"mixed.1.weight: must be more than 0; got 0"):
        graph(change=entry("exact", 0))


@pytest.mark.parametrize(
    ("folder", "line"), [("no", "there is no folder"), (".", "must hold <id>.png")]
)
def test_a_folder_of_masks_that_is_not_there(tmp_path, monkeypatch, folder, line):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=line):
        folder_digest(folder)


def test_the_files_of_a_run(graph):
    made = graph(FULL.replace("\t0\n", "\t0 3\n"))
    path = made.paths["full"]
    assert made.shard_files(path["masks"]) == [
        f"{path['masks'].folder}/{shard}.zip" for shard in ("0001of0002", "0002of0002")
    ]
    assert made.scores(made.runs[0]) == {
        "initial": [f"score/initial/{path['cam'].name}/score.json"],
        "refined": [f"score/refined/{path['affinity'].name}/score.json"],
        "mask": [f"score/mask/{path['masks'].name}/score.json"],
        "segmentation": [
            f"score/segmentation/{path['inference'].name}/seed{seed}/score.json" for seed in (0, 3)
        ],
    }


def test_without_ground_truth_nothing_is_scored(graph):
    made = graph(change=lambda c: c["dataset"].update(masks=None))
    assert made.scores(made.runs[0]) == {}


def test_a_bare_cam_is_a_run(graph):
    made = graph("bare\tphoto\tsoftmax\t-\t-\t-\t-\t-\n")
    assert made.paths["bare"].keys() == {"texts", "cam"}
    assert made.scores(made.runs[0]).keys() == {"initial"}


# ---- passes ----------------------------------------------------------------------------------


def row(name, texts="photo", cam="softmax", affinity="caa"):
    return f"{name}\t{texts}\t{cam}\t{affinity}\t-\t-\t-\t-\n"


def passes(made):
    return sorted(len(one.nodes) for one in made.passes.values())


@pytest.mark.parametrize(
    ("config", "table", "towers"),
    [
        ("config", "affinities", ["demo"]),
        ("config", "maps", ["demo"]),
        ("config", "towers-demo", ["demo", "exact"]),
        ("tagclip", "tagclip", ["demo"]),
        ("voc12", "affinities", ["vit-b-16"]),
        ("voc12", "maps", ["vit-b-16"]),
        ("voc12", "towers", ["eva02-b-16", "mobileclip-b", "pe-core-b-16", "vit-b-16"]),
    ],
)
def test_all_rows_of_one_tower_are_one_pass(config, table, towers):
    content = read_yaml(ROOT / f"config/{config}.yaml")
    content["runs"] = {"tables": [f"config/runs/{table}.tsv"]}
    config = load_config(content)
    made = Graph(config, read_runs(config))
    found = [cam_of(one.nodes[0]).settings["model"] for one in made.passes.values()]
    assert sorted(map(str, found)) == sorted(str(config.models[one].model_dump()) for one in towers)


def test_all_cams_affinities_and_fixed_texts_of_a_trunk_are_one_pass(graph):
    rows = row("a") + row("b", cam="plain") + row("c", texts="clip-es") + row("d", affinity="-")
    rows += row("e", affinity="caa,power=3") + row("f", texts="photo,background=none")
    (one,) = graph(rows).passes.values()
    stages = [node.stage for node in one.nodes]
    assert (stages.count("cam"), stages.count("affinity")) == (4, 5)
    assert one.texts is None


def test_another_trunk_or_a_ranking_is_another_pass(graph):
    rows = row("a") + row("b", cam="clip-es") + row("c", cam="softmax,precision=bfloat16")
    rows += row("d", texts="sharpest") + row("e", texts="sharpest,score=patches")
    made = graph(rows)
    assert passes(made) == [2, 2, 2, 2, 2]
    ranked = [one.texts for one in made.passes.values() if one.texts]
    assert len({texts.name for texts in ranked}) == 2
    assert len({texts.parents[0].name for texts in ranked}) == 1, "they share the features"


def test_a_pass_keeps_its_name_when_variants_come_and_go(graph):
    (one,), (two,) = graph(row("a")).passes, graph(row("a") + row("b", cam="plain")).passes
    assert one == two


def test_the_bits_of_a_subset(graph):
    (one,) = graph(row("a") + row("b", cam="plain")).passes.values()
    for mask in range(1 << len(one.nodes)):
        assert one.mask(one.subset(mask)) == mask
    assert len(one.subset(0b101)) == 2


def test_labels_say_what_differs_from_the_defaults(graph):
    names = {node.stage: node.label for node in graph().paths["full"].values()}
    assert names["cam"] == "clip-128x4+softmax"
    assert names["affinity"] == "caa+layers=3"
    assert names["masks"] == "crf+backend=fast"
    assert names["segmentation"] == "TokenHead+confidence-guided"
    made = graph(change=lambda c: c["masks"]["crf"]["crf"].update(iterations=5))
    assert made.paths["full"]["masks"].label == "crf+backend=fast+iterations=5"


def test_labels_stay_within_a_folders_name(graph):
    template = "a photo of ../../etc " + "x" * 300 + " {}."
    made = graph(change=lambda c: c["texts"]["photo"].update(template=template))
    name = made.paths["full"]["texts"].name
    assert len(name) < 80
    assert set(name).isdisjoint("/\\\x00 ")


def test_labels_have_no_comma(graph):
    """Snakemake separates the wildcards of a job by commas where it starts one elsewhere."""
    rows = "a\tsharpest\tsoftmax,precision=bfloat16\tcaa,power=3,layers=2\tcrf,crf.iterations=5"
    rows += "\tcgl,mu=0.8\tdefault,flip=true\t0\n"
    made = graph(rows, lambda c: c["texts"]["sharpest"].update(template=["a {},b.", "c {}."]))
    assert all("," not in node.name for node in made.paths["a"].values())


# ---- labels made online ----------------------------------------------------------------------

ONLINE = "full\tphoto\tsoftmax\tcaa\tweclip\tweclip\tweclip\t0\n"


@pytest.mark.parametrize(
    ("change", "stages"),
    [
        (lambda c: c["segmentation"]["weclip"]["online"].update(filter="absolute"), GROUPS[4:]),
        (lambda c: c["segmentation"]["weclip"]["online"].update(statistics="clip"), GROUPS[4:]),
        (lambda c: c["segmentation"]["weclip"].update(iterations=101), GROUPS[4:]),
        (lambda c: c["inference"]["weclip"].update(average="probabilities"), GROUPS[5:]),
        (lambda c: c["inference"]["weclip"].update(long_side=64), GROUPS[5:]),
        # The labeller takes these from the other cells.
        (lambda c: c["texts"]["photo"].update(names="clip-es"), GROUPS),
        (lambda c: c["cam"]["softmax"].update(target="logit"), GROUPS[1:]),
        (lambda c: c["affinity"]["caa"].update(power=3), GROUPS[2:]),
        (lambda c: c["masks"]["weclip"].update(background_power=2), GROUPS[3:]),
        (lambda c: c["masks"]["weclip"].update(par={"iterations": 5}), GROUPS[3:]),
        # These it does not use, or they say the same.
        (lambda c: c["masks"]["weclip"].update(scoring="oracle"), ()),
        (lambda c: c["masks"]["weclip"].update(par={"iterations": 20}), ()),
        (lambda c: c["segmentation"]["weclip"]["online"].update(padding="labelled"), ()),
    ],
)
def test_a_setting_of_an_online_row_moves_its_stage_and_what_follows(graph, change, stages):
    assert moved(folders(graph(ONLINE)), folders(graph(ONLINE, change))) == set(stages)


SSR = "ssr\tphoto\tsoftmax\tsgc\tweclip\tssr\tweclip\t0\n"


@pytest.mark.parametrize(
    ("change", "stages"),
    [
        (lambda c: c["segmentation"]["ssr"]["online"].update(tau=0.1), GROUPS[4:]),
        (lambda c: c["segmentation"]["ssr"]["online"].update(pseudo_label="cluster"), GROUPS[4:]),
        (lambda c: c["segmentation"]["ssr"]["online"].update(tau=0.05), ()),
        (lambda c: c["affinity"]["sgc"].update(superpixels={"segments": 50}), GROUPS[2:]),
        (lambda c: c["models"]["exact"].update(round_weights="float16"), GROUPS[2:]),
    ],
)
def test_a_setting_of_ssr_moves_its_row_alone(graph, change, stages):
    before, after = (graph(ONLINE + SSR, *one).paths for one in ((), (change,)))
    assert before["full"] == after["full"]
    changed = {s for s, node in before["ssr"].items() if node.folder != after["ssr"][s].folder}
    assert changed == set(stages)


def test_a_maker_that_takes_the_affinity_takes_all_of_it(graph):
    made = graph(ONLINE + SSR)
    training, affinity = (made.paths["ssr"][stage] for stage in ("segmentation", "affinity"))
    own = training.settings["online"]
    assert own["labels"]["affinity"] == affinity.settings
    assert own["towers"] == {"exact": made.config.models["exact"].model_dump()}
    assert set(affinity.methods) < set(training.methods)
    assert not {"towers", "affinity"} & made.paths["full"]["segmentation"].settings["online"].keys()


def test_an_online_training_reads_images_and_ranked_texts_but_no_masks(graph):
    rows = (
        ONLINE
        + ONLINE.replace("full", "ranked").replace("photo", "sharpest")
        + FULL.replace("full", "offline")
    )
    plan = Plan(graph(rows))
    node = {name: path["segmentation"] for name, path in plan.graph.paths.items()}
    inputs = {name: plan.training(one, 0).inputs for name, one in node.items()}
    assert inputs["offline"].keys() == {"lists", "masks"}
    assert len(inputs["offline"]["masks"]) == len(plan.graph.shards)
    assert inputs["full"].keys() == inputs["ranked"].keys() == {"lists", "texts"}
    assert inputs["full"]["lists"] == plan.images_of("train")
    assert inputs["full"]["texts"] == []
    assert inputs["ranked"]["texts"] == [plan.texts(plan.graph.paths["ranked"]["texts"])]
    own = node["full"].settings["online"]
    assert own["texts"]["templates"] == ["a photo of a {}."]
    assert node["ranked"].settings["online"]["texts"] is None


def test_what_is_asked_of_the_blocks_of_towers_is_said_to_the_check(graph):
    rows = (
        FULL
        + "same\tphoto\tplain\tcaa\t-\t-\t-\t0\n"
        + "cosine\tphoto\tplain\tcosine\t-\t-\t-\t0\n"
        + "far\tphoto\tplain\tcaa,layers=99\t-\t-\t-\t0\n"
        + "mixed\tphoto\tplain\ttwo-towers\t-\t-\t-\t0\n"
        + "online\tphoto\tsoftmax\tcaa\tweclip\tweclip,online.dynamic_layers=77\tweclip\t0\n"
    )
    made = graph(rows, lambda c: c["affinity"]["two-towers"].update(blocks=[0, -4]))
    assert Plan(made).attention == [
        ("affinity `caa`", "demo", 3, None),
        ("affinity `caa,layers=99`", "demo", 99, None),
        ("affinity `two-towers`", "demo", 3, [0, -4]),
        ("affinity `two-towers`", "exact", 3, None),
        ("segmentation `weclip,online.dynamic_layers=77`: online.dynamic_layers", "demo", 77, None),
    ]


def test_what_a_clip_has_to_encode_is_said_to_the_check(graph):
    def change(content):
        content["texts"]["ranked"] = {
            "template": "sharpest", "names": "plain", "ranked_names": "clip-es",
            "background": "clip-es",
        }  # fmt: skip

    rows = FULL + "other\tranked\tplain\tcaa\t-\t-\t-\t0\n"
    plan = Plan(graph(rows, change))
    found = {where: rest for where, *rest in plan.prompts}
    vocabulary = plan.graph.vocabulary
    model, templates, words = found["texts `ranked`"]
    assert model == "demo"
    assert templates == read_templates(Path("config/templates/imagenet20.txt"))
    lists = [vocabulary.texts("plain").values(), vocabulary.texts("clip-es").values()]
    assert set(words) == {*lists[0], *lists[1], *vocabulary.background("clip-es")}
    assert found["texts `photo`"][1] == ["a photo of a {}."]


def test_an_online_training_takes_its_labellers_settings_from_all_cells(graph):
    rows = "full\tphoto\tclip-es,target=logit\tcaa,sinkhorn=2\tweclip,background_power=3"
    made = graph(f"{rows}\tweclip,online.dynamic_layers=5\tweclip\t0\n")
    own = made.paths["full"]["segmentation"].settings["online"]
    assert own["clip"]["position_embedding"]["round"] == "float16"
    assert own["clip"]["weights"] == made.config.models["demo"].weights
    labels = own["labels"]
    assert (labels["target"], labels["static_layers"], labels["sinkhorn"]) == ("logit", 3, 2)
    assert (labels["background_power"], labels["dynamic_layers"]) == (3, 5)
    assert own["settings"]["statistics"] == "imagenet"


def test_the_code_of_online_labels_counts_for_their_trainings_only(graph):
    plan = Plan(graph(ONLINE + FULL.replace("full", "offline")))
    for stage in ("segmentation", "inference"):
        codes = {name: plan.stamp(path[stage])["code"] for name, path in plan.graph.paths.items()}
        assert codes["full"] != codes["offline"]
    made = {name: path["segmentation"] for name, path in plan.graph.paths.items()}
    assert "clip_wsss.labels.weclip:weclip" in made["full"].methods
    assert made["offline"].methods == ("clip_wsss.losses.confidence_guided:confidence_guided",)
    offline = module_files("clip_wsss.segmentation.train")
    assert not [name for name in offline if "weclip" in name.split(".")]
    others = {"clip_wsss.prompts.texts", "clip_wsss.cams.backward", "clip_wsss.runs.settings"}
    assert not others & offline.keys()


class Labeller:
    """A maker of labels that knows no whole images."""

    layers = 0

    def __init__(self, texts):
        pass


class Finisher(Labeller):
    """One that does."""

    def final(self, seen):
        """Scores of the one image."""


def test_final_labels_are_made_where_a_maker_can_and_they_can_be_scored(graph):
    def change(content, score="train"):
        content["dataset"]["splits"]["score"] = score
        entry = content["segmentation"]["weclip"]
        for maker in (Labeller, Finisher):
            online = {"method": f"{__name__}:{maker.__name__}"}
            content["segmentation"][maker.__name__] = {**entry, "online": online}

    rows = ONLINE.replace("weclip\t0", "weclip\t0 3") + FULL.replace("full", "offline")
    for name in ("Labeller", "Finisher"):
        rows += ONLINE.replace("full", name).replace("weclip\tweclip\t0", f"{name}\tweclip\t0")
    plan = Plan(graph(rows, change))
    scores = {run.name: plan.graph.scores(run) for run in plan.graph.runs}
    assert [name for name, found in scores.items() if "labels" in found] == ["full", "Finisher"]
    assert list(scores["full"]) == ["initial", "refined", "mask", "labels", "segmentation"]
    assert len(scores["full"]["labels"]) == 2
    node = plan.graph.paths["full"]["inference"]
    assert (node, 3) in plan.labelled
    made = plan.predictions(node, 3, "labels")
    assert made.files == (plan.root / node.folder / "seed3/labels.zip",)
    assert plan.score("labels", node, 3).inputs["read"] == [made]
    assert made.stamp["numerics"]["split"] == "train"
    assert not Plan(graph(rows, partial(change, score=None))).labelled


def test_the_makers_code_counts_for_final_labels_and_not_for_predictions(graph, monkeypatch):
    def codes():
        plan = Plan(graph(ONLINE))
        node = plan.graph.paths["full"]["inference"]
        return [plan.inference_stamp(node, split)["code"] for split in ("val", "labels")]

    before = codes()
    changed = {"clip_wsss.labels.weclip:weclip": "0" * 16}
    known = plan_module.function_fingerprint
    monkeypatch.setattr(
        plan_module, "function_fingerprint", lambda name: changed.get(name) or known(name)
    )
    assert [a == b for a, b in zip(before, codes(), strict=True)] == [True, False]


@pytest.mark.parametrize("name", ["weclip", "weclip-voc12", "weclip-coco14", "ssr", "ssr-voc12"])
def test_a_training_is_shown_with_and_without_crf(content, name):
    """Rows of the shipped tables, which share their trainings."""
    system, _, data = name.partition("-")
    config = data or "config"
    content = read_yaml(f"config/{config}.yaml")
    content["runs"] = {"tables": [f"config/runs/{name}.tsv"]}
    settings = load_config(content)
    paths = Graph(settings, read_runs(settings)).paths
    shared = [run for run in paths if f"{run}-no-crf" in paths]
    assert system in shared
    for own in shared:
        crf, plain = paths[own], paths[f"{own}-no-crf"]
        assert crf["segmentation"] == plain["segmentation"]
        assert crf["inference"].settings["refinement"] == "crf"
        assert plain["inference"].settings["refinement"] == "none"
        views = [one["inference"].settings for one in (crf, plain)]
        assert all(views[0][key] == views[1][key] for key in ("scales", "flip", "long_side"))


def predicted(content, **changed):
    """Let the labels be predicted."""
    own = {"model": "demo", "texts": "photo", "votes": 2} | changed
    content["dataset"].update(labels="tagclip", tagclip=own)


@pytest.mark.parametrize(
    ("change", "stages"),
    [
        (lambda c: predicted(c, votes=1), GROUPS[1:]),
        (lambda c: predicted(c, model="exact"), GROUPS[1:]),
        (lambda c: predicted(c, texts="clip-es"), GROUPS[1:]),
        (lambda c: c["texts"]["photo"].update(background="none"), GROUPS),
        (lambda c: predicted(c, truth="xml"), ()),
        (lambda c: predicted(c, threshold=0.5), ()),
    ],
)
def test_predicted_labels_decide_the_maps(graph, change, stages):
    first = graph(change=predicted)
    second = graph(change=lambda c: (predicted(c), change(c)))
    assert moved(folders(first), folders(second)) == set(stages)
    assert (first.tags.folder != second.tags.folder) == bool(stages)
    assert moved(folders(first), folders(graph())) == set(GROUPS[1:])


def test_the_check_knows_of_texts_without_background_words(graph):
    def bare(target="softmax"):
        def change(config):
            config["texts"]["photo"].update(background="none")
            for entry in config["cam"].values():
                if entry.get("method", "gradcam") == "gradcam":
                    entry["target"] = target

        return {split: use.bare for split, use in Plan(graph(change=change)).uses.items()}

    assert bare() == {"train": ["photo"], "val": ()}
    assert bare("logit") == {"train": [], "val": ()}
    assert not any(use.bare for use in Plan(graph()).uses.values())


def test_what_reads_labels_reads_those_that_are_predicted(graph):
    plan = Plan(graph(change=predicted))
    labels = plan.tags.files[0]
    assert labels in plan.images_of("train")
    assert labels not in plan.lists_of("train")  # which the check and the job itself read
    shards = plan.tags.inputs["scores"]
    assert [one.files[0].name for one in shards] == [f"{one}.csv" for one in plan.graph.shards]
    assert not any(labels in one.inputs["lists"] for one in shards)
    assert plan.dataset.settings["labels"] == str(labels)
    assert not any(use.labels for use in plan.uses.values())
    assert all(
        labels in plan.shard(node, "0001of0002").inputs["lists"] for node in plan.graph.nodes("cam")
    )
    assert plan.tag_score.inputs["read"] == [plan.tags]
    assert {plan.graph.tags.folder, f"score/tags/{plan.graph.tags.name}"} <= plan.graph.folders()
    assert plan.models.keys() == {"demo"}
    assert Plan(graph()).tags is None
    without = graph(change=lambda c: (predicted(c), c["dataset"].update(masks=None)))
    assert Plan(without).tag_score is None
    others = graph(
        change=lambda c: (
            predicted(c, truth="t.csv", model="exact"),
            c["dataset"].update(masks=None),
        )
    )
    assert Path("t.csv") in Plan(others).tag_score.inputs["lists"]
    assert Plan(others).models.keys() == {"demo", "exact"}


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda c: predicted(c, model="none"), "dataset.tagclip.model: unknown entry of model"),
        (lambda c: predicted(c, texts="none"), "dataset.tagclip.texts: unknown entry of texts"),
        (lambda c: predicted(c, texts="sharpest"), "`sharpest` ranks its templates by labels"),
        (lambda c: predicted(c, votes=-1), "dataset.tagclip.votes: must be at least 0; got -1"),
        (lambda c: c["dataset"].update(labels="tagclip"), "dataset: tagclip: is needed by labels"),
        (lambda c: (predicted(c), c["dataset"].update(labels="xml")), "and is only for it"),
        (
            lambda c: (
                c["models"].update(pe={"architecture": "PE-Core-B-16", "weights": "meta"}),
                predicted(c, model="pe"),
            ),
            "`pe` must be a CLIP whose network is open_clip's own",
        ),
    ],
)
def test_predicted_labels_that_cannot_be(graph, change, line):
    with pytest.raises(InputError, match=line):
        graph(change=change)
