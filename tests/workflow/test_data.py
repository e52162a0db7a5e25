"""From an empty folder to the tables, with a server of stand-ins in the place of the real ones."""

import csv
import json
import os
import subprocess
import sys

import pytest
import stand_ins
import yaml

from clip_wsss import cli
from clip_wsss.runs.config import read_config

pytestmark = pytest.mark.workflow

HEADER = "name\ttexts\tcam\taffinity\tmasks\tsegmentation\tinference\n"
ROW = "corrected\tclip-es\tsoftmax\tcorrected\tcrf\t{segmentation}\t{inference}\n"
COCO_WORDS = {
    "classes": ["person", "car", "dog"],
    "names": {"plain": {}, "clip-es": {"person": "person with clothes,people,human"}},
    "backgrounds": {"none": [], "clip-es": ["grass", "sky"]},
}


@pytest.fixture
def stand_in(project, server):
    """Set a real config up with the demo's CLIP, a small segmentor and archives of `server`."""

    def prepare(name, archives, segmentation="cgl"):
        demo = project.config
        config = yaml.safe_load((project.folder / f"config/{name}.yaml").read_text("utf-8"))
        config["models"] = {"vit-b-16": demo["models"]["demo"]}
        segmentor = "config/segmentors/deeplabv2-r18.yaml"
        config["segmentation"] = {"cgl": {"segmentor": segmentor, "iterations": 2}}
        config["inference"] = {"default": {"scales": [1.0], "flip": False}}
        config["compute"].update(device="cpu", shards=1, workers=1, threads=1)
        config["evaluation"].update(bootstrap=20, panels=2)
        config["sources"]["verify_splits"] = False
        for source, (file, files) in archives.items():
            md5 = stand_ins.write_archive(server.folder / file, files)
            replaced = {"url": f"{server.url}/{file}", "md5": md5}
            config["sources"].setdefault("replace", {})[source] = replaced
        project.config = config
        inference = "-" if segmentation == "-" else "default"
        project.write_runs(HEADER + ROW.format(segmentation=segmentation, inference=inference))
        return project

    return prepare


def voc_archives():
    return {
        "voc2012": ("voc.tar", stand_ins.voc_files()),
        "sbd": ("sbd.tgz", stand_ins.sbd_files()),
    }


def measured(project, table):
    with (project.folder / "results" / table).open() as file:
        return [row for row in csv.DictReader(file) if row["kind"] == "measured"]


@pytest.mark.long
def test_voc_from_its_archives_to_the_tables(stand_in, server):
    project = stand_in("voc12", voc_archives())
    server.cut_after = 9_000  # every connection breaks
    result = project.snakemake()
    assert result.code == 0, result.text
    asked = [asked for name, asked in server.requests if name == "voc.tar"]
    assert len(asked) > 2
    assert all(asked[1:])
    (row,) = measured(project, "voc12/tables/test.csv")
    assert (float(row["images"]), float(row["segmentation_images"])) == (2, 1)
    assert project.snakemake("-n").nothing_to_do


def test_coco_from_its_archives_to_the_tables(stand_in):
    files = stand_ins.coco_files()
    archives = {name: (f"{name}.zip", files[name]) for name in files}
    project = stand_in("coco14", archives, segmentation="-")
    project.config["dataset"]["vocabulary"] = "config/vocabularies/small.yaml"
    project.config["sources"]["replace"]["coco2014-val"]["md5"] = None  # unchecked
    words = project.folder / "config/vocabularies/small.yaml"
    words.write_text(yaml.safe_dump(COCO_WORDS), encoding="utf-8")
    result = project.snakemake("--", "results/coco14/tables/test.csv")
    assert result.code == 0, result.text
    (row,) = measured(project, "coco14/tables/test.csv")
    assert float(row["images"]) == 3
    assert row["mask"]


def test_failed_download_is_one_line_and_continues(stand_in, server):
    project = stand_in("voc12", voc_archives())
    server.status["sbd.tgz"] = 404
    receipt = "data/voc12/archives/sbd.json"
    result = project.snakemake("--", receipt)
    assert result.code != 0
    assert "error: sbd: cannot be downloaded" in result.text
    assert "set sources.replace.sbd.path to a local copy" in result.text
    assert "Traceback" not in result.text
    part = project.folder / "data/voc12/archives/benchmark.tgz.part"
    part.parent.mkdir(parents=True, exist_ok=True)  # Snakemake took it away, since it was empty
    part.write_bytes((server.folder / "sbd.tgz").read_bytes()[:1000])  # Snakemake leaves it there
    server.status.clear()
    assert project.snakemake("--", receipt).code == 0
    assert server.requests[-1] == ("sbd.tgz", "bytes=1000-")


@pytest.mark.parametrize("name", ["voc12", "coco14", "folder", "images"])
def test_real_configs_hold_nothing_of_the_demos(project, name, monkeypatch):
    monkeypatch.chdir(project.folder)
    config = read_config(f"config/{name}.yaml").model_dump()
    assert "demo" not in yaml.safe_dump({k: v for k, v in config.items() if k != "demo"})
    assert config["demo"] is None
    threshold = 0.7 if name == "coco14" else 0.4
    for one in ("caa", "clip-es", "corrected"):
        assert (config["affinity"][one]["threshold"], config["affinity"][one]["layers"]) == (
            threshold,
            8,
        )


@pytest.mark.parametrize(
    ("name", "tables"),
    [
        ("voc12", []),
        ("voc12-zeroshot", []),
        ("coco14", []),
        ("voc12", ["voc12", "affinities", "maps", "towers"]),
    ],
)
def test_plans_of_the_real_configs(project, name, tables):
    project.config = yaml.safe_load((project.folder / f"config/{name}.yaml").read_text("utf-8"))
    if tables:
        project.config["runs"]["tables"] = [f"config/runs/{table}.tsv" for table in tables]
    result = project.snakemake("-n")
    assert result.code == 0, result.text
    assert 100 < sum(result.jobs.values()) < 2000
    assert "demo" not in result.text


@pytest.mark.parametrize(("name", "table"), [("config", "corrections"), ("voc12", "towers")])
def test_a_table_named_on_the_command_line(project, name, table):
    tables = f"runs={{tables: [config/runs/{table}.tsv]}}"
    result = project.snakemake("-n", "--config", tables, config=f"config/{name}.yaml")
    assert result.code == 0, result.text
    assert result.jobs["maps"] >= 1
    assert "segmentation" not in result.jobs


def own_data(project, name, folder):
    """Set config/folder.yaml or config/images.yaml up for VOC's stand-ins in `folder`."""
    stand_ins.write_archive(folder, stand_ins.voc_files())
    root = folder / "VOCdevkit/VOC2012"
    project.config = yaml.safe_load((project.folder / f"config/{name}.yaml").read_text("utf-8"))
    project.config["compute"]["shards"] = 1
    project.config["dataset"]["root"] = str(root)
    if name == "images":
        labels = folder / "labels.csv"
        labels.write_text("image,labels\nunused,cat;dog\n", encoding="utf-8")
        project.config["dataset"].update(root=str(root / "JPEGImages"), labels=str(labels))


@pytest.mark.parametrize(("name", "scored"), [("folder", True), ("images", False)])
def test_plans_of_ones_own_data(project, tmp_path, name, scored):
    own_data(project, name, tmp_path / "own")
    result = project.snakemake("-n")
    assert result.code == 0, result.text
    assert {"maps", "masks", "tables", "report"} <= set(result.jobs)
    assert ("score" in result.jobs) == scored
    assert "segmentation" not in result.jobs, "the shipped tables make masks"
    assert not {"download", "demo_data"} & set(result.jobs)


def test_bad_data_stop_before_anything_is_computed(project, tmp_path, monkeypatch, capsys):
    own_data(project, "folder", tmp_path / "own")
    root = tmp_path / "own/VOCdevkit/VOC2012"
    (val,) = stand_ins.VOC_VAL
    (root / f"SegmentationClass/{val}.png").write_bytes(stand_ins.png(stand_ins.box(99)))
    train = stand_ins.VOC_TRAIN[0]
    (root / f"Annotations/{train}.xml").write_bytes(stand_ins.xml("unicorn"))
    lines = [f"{val}.png: holds the value 99", f"{train}.xml: unknown class `unicorn`"]
    result = project.snakemake()
    assert result.code != 0
    assert result.executed == {}
    monkeypatch.chdir(project.folder)
    assert cli.main(["check", "--configfile", "test.yaml"]) == 1
    done = capsys.readouterr()
    assert "2 train and 1 val images, 2 errors" in done.out
    for text in (result.text, done.err):
        assert all(line in text for line in lines)
        assert "Traceback" not in text
    own_data(project, "folder", tmp_path / "good")
    result = project.snakemake("--", "results/folder/data/check.json")
    assert result.executed == {"check": 1}
    report = json.loads((project.folder / "results/folder/data/check.json").read_text("utf-8"))
    assert (report["errors"], report["splits"]["val"]["masks"]) == ([], {"cat": 1})


def test_jobs_import_nothing_of_the_working_directory(project, tmp_path):
    own_data(project, "folder", tmp_path / "own")
    project.write_config()
    names = ("yaml", "numpy", "numexpr", "pandas", "PIL", "torch", "snakemake")
    for name in names:
        hostile = f"open({name!r} + '.imported', 'w').close()\n"
        (project.folder / f"{name}.py").write_text(hostile, encoding="utf-8")
    (project.folder / "mine.smk").write_text(
        'include: "Snakefile"\nrule probe:\n    output: "probe.txt"\n    shell:\n'
        f"        \"{sys.executable} -c 'import sys; print(sys.flags.safe_path)' > {{output}}\"\n",
        encoding="utf-8",
    )
    command = [sys.executable, "-P", "-m", "snakemake", "--configfile", "test.yaml"]  # as `run`
    command += ["--snakefile", "mine.smk", "--cores", "2"]
    done = subprocess.run(
        [*command, "--", "results/folder/data/check.json", "probe.txt"],
        cwd=project.folder,
        env={**os.environ, "PYTHONPATH": str(project.folder / "src")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (project.folder / "probe.txt").read_text() == "True\n", "as a training's processes"
    assert not list(project.folder.glob("*.imported"))


def test_missing_list_of_ones_own_stops_before_any_job(project, tmp_path):
    own_data(project, "folder", tmp_path / "own")
    project.config["dataset"]["splits"]["val"] = "vla"
    result = project.snakemake("-n")
    assert result.code != 0
    assert "vla.txt: no such list of images" in result.text
    assert "(there: train, val)" in result.text
    assert "Traceback" not in result.text


@pytest.mark.long
def test_what_was_made_of_an_image_that_was_replaced_is_made_again(project, tmp_path):
    # FAULTS 5: its shard is, and the others are not.
    models = {"vit-b-16": project.config["models"]["demo"]}
    own_data(project, "folder", tmp_path / "own")
    project.config["models"] = models
    project.config["evaluation"] = {"bootstrap": 20, "panels": 2}
    project.config["compute"].update(device="cpu", shards=2, workers=1, threads=1)
    project.write_runs("name\ttexts\tcam\taffinity\tmasks\nonly\tphoto\tsoftmax\t-\tcrf\n")
    assert project.snakemake().code == 0
    results = project.folder / "results/folder"
    before = {path: path.read_bytes() for path in results.glob("*/*/*of0002.*")}
    name = stand_ins.VOC_TRAIN[1]
    image = tmp_path / f"own/VOCdevkit/VOC2012/JPEGImages/{name}.jpg"
    os.utime(image)
    assert project.snakemake("-n").nothing_to_do
    other = image.with_name("unused.jpg").read_bytes()
    image.write_bytes(other + b"\0" * (len(other) == image.stat().st_size))
    result = project.snakemake()
    again = {"check": 1, "maps": 1, "masks": 1, "score": 1, "tables": 1, "report": 1}
    assert result.executed == again, result.text
    changed = {path.name for path, data in before.items() if path.read_bytes() != data}
    assert changed == {f"0002of0002.{kind}" for kind in ("npz", "zip", "json")}
    assert project.snakemake("-n").nothing_to_do
