"""The command clip-wsss: folders of stages, plain files of a run, and what no run uses."""

import json
import logging
import os
import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import synthetic
import yaml
from PIL import Image

import clip_wsss
from clip_wsss import cli, pictures
from clip_wsss.core.errors import InputError
from clip_wsss.runs.jobs import job
from clip_wsss.runs.plan import Product
from clip_wsss.runs.sidecar import write_sidecar

HEADER = "name\ttexts\tcam\taffinity\tmasks\tsegmentation\tinference\tseed\n"
ROWS = "crf\tphoto\tsoftmax\tcaa\tcrf\t-\t-\t-\nseg\tphoto\tsoftmax\tcaa\tcrf\tcgl\tdefault\t0 1\n"


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with a config, its data and the results of two runs."""
    monkeypatch.chdir(tmp_path)
    for name in ("config", "src"):
        os.symlink(synthetic.REPOSITORY / name, tmp_path / name)
    (tmp_path / "runs.tsv").write_text(HEADER + ROWS, encoding="utf-8")
    content = synthetic.content(Path())
    content["runs"]["tables"] = ["runs.tsv"]
    (tmp_path / "my.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    plan = cli._plan("my.yaml")
    synthetic.write_dataset(Path("data"), 6, 4)
    made = synthetic.Synthetic(plan, plan.dataset)
    synthetic.write_results(made)
    for product in (*plan.maps, *plan.masks, *plan.trainings, *plan.val):
        sign(product)
    return made


def sign(product):
    """Write the sidecar of a product, with its inputs as far as they are there."""
    named = {path.stem: path for path in product.files if path.is_file()}
    inputs = {
        name: [one.files[0] if isinstance(one, Product) else one for one in some]
        for name, some in product.inputs.items()
    }
    there = {name: paths for name, paths in inputs.items() if all(map(Path.exists, paths))}
    write_sidecar(product.sidecar, product.stamp, named, there)


def call(capsys, *arguments):
    code = cli.main([*arguments, "--configfile", "my.yaml"])
    out = capsys.readouterr()
    return code, out.out, out.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [([], "pseudo masks of pictures"), (["--version"], f"{clip_wsss.__version__}\n")],
)
def test_alone_it_lists_its_commands(capsys, arguments, said):
    with pytest.raises(SystemExit, match=r"^0$"):
        cli.main(arguments)
    assert said in capsys.readouterr().out


def test_the_folder_of_a_stage(project, capsys):
    code, out, _ = call(capsys, "path", "crf", "masks")
    assert code == 0
    node = project.plan.graph.paths["crf"]["masks"]
    assert out == f"results/demo/masks/{node.name}\n"
    assert Path(out.strip()).is_dir()


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["path", "cfr", "masks"], "unknown run `cfr`; did you mean `crf`?"),
        (["path", "crf", "segmentation"], "run `crf` has no segmentation; it has texts"),
        (["export", "no"], "unknown run `no`"),
    ],
)
def test_what_is_not_there_is_one_line(project, capsys, arguments, line):
    code, _, error = call(capsys, *arguments)
    assert code == 1
    assert error.startswith("error: ")
    assert line in error
    assert error.count("\n") == 1


def test_all_images_are_counted_without_a_split(project, capsys):
    content = yaml.safe_load(Path("my.yaml").read_text())
    splits = dict.fromkeys(content["dataset"]["splits"])
    settings = {"source": "folder", "splits": splits | {"pseudo": "all", "prompts": "all"}}
    content["dataset"] |= settings
    content["runs"] = {"tables": ["masks.tsv"]}
    Path("masks.tsv").write_text("name\tcam\ttexts\nplain\tplain\tphoto\n")
    Path("my.yaml").write_text(yaml.safe_dump(content))
    code, out, _ = call(capsys, "check")
    assert (code, out.splitlines()[-1]) == (0, f"{content['dataset']['name']}: 10 images, 0 errors")


def test_ctrl_c_is_one_line(monkeypatch, capsys):
    def stopped(arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(pictures, "main", stopped)
    assert cli.main(["masks", "folder"]) == 130
    assert capsys.readouterr().err == "stopped; the same command goes on or starts again\n"


@pytest.mark.parametrize(("command", "unbuffered"), [("--help", ""), ("doctor", "1")])
def test_who_reads_no_further_gets_no_traceback(command, unbuffered):
    # FAULTS 29
    read, write = os.pipe()
    os.close(read)
    made = call_process(command, write, unbuffered)
    os.close(write)
    assert (made.returncode, made.stderr) == (141, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_full_disk_below_what_is_printed_is_one_line():
    # FAULTS 29
    with open("/dev/full", "w") as full:
        made = call_process("--help", full)
    line = "error: stdout: No space left on device; make room, and run again\n"
    assert (made.returncode, made.stderr) == (1, line)


def call_process(command, stdout, unbuffered=""):
    program = [sys.executable, "-m", "clip_wsss", command]
    environment = os.environ | {"PYTHONUNBUFFERED": unbuffered}
    return subprocess.run(
        program, stdout=stdout, stderr=subprocess.PIPE, text=True, env=environment
    )


def test_a_config_that_is_not_there(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["path", "a", "cam", "--configfile", "no.yaml"]) == 1
    assert "no.yaml: there is no such file" in capsys.readouterr().err


def test_warnings_of_pillow_are_not_shown(tmp_path, monkeypatch):
    """They name a line of its source, and no image."""
    monkeypatch.chdir(tmp_path)
    for begin in (lambda: cli.main(["path", "a", "cam", "--configfile", "no.yaml"]), as_a_job):
        with warnings.catch_warnings(record=True) as shown:
            warnings.simplefilter("always")
            begin()
            for module in ("PIL.TiffImagePlugin", "numpy"):
                warnings.warn_explicit("odd", UserWarning, "file.py", 1, module=module)
        assert [str(one.message) for one in shown].count("odd") == 1


def as_a_job():
    logger = logging.getLogger()
    kept = logger.handlers[:], logger.level
    show = warnings.showwarning
    with job("job.log"):
        pass
    logging.captureWarnings(False)
    warnings.showwarning = show
    logger.handlers[:], logger.level = kept


def test_run_becomes_snakemake(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    became = []
    monkeypatch.setattr(os, "execv", lambda _, command: became.append(command[1:]))
    given = ["-n", "--config", "a=b", "--", "all"]
    cli.main(["run", "--configfile", "config/voc12.yaml", *given])
    root = synthetic.REPOSITORY
    config = ["--configfile", f"{root}/config/voc12.yaml"]
    # -P: else modules of the working directory are imported in the place of libraries.
    start = ["-P", "-m", "snakemake"]
    assert became == [[*start, *config, "--snakefile", f"{root}/Snakefile", *given]]
    assert cli.main(["run", "--configfile", "no.yaml"]) == 1
    assert capsys.readouterr().err == "error: no.yaml: there is no such file\n"


def test_a_run_as_plain_folders(project, capsys):
    code, out, _ = call(capsys, "export", "seg", "--out", "mine", "--mu", "0.5")
    assert code == 0
    assert "mine: cams, refined, masks, predictions/seed0, predictions/seed1" in out
    ids, val = project.dataset.ids("train"), project.dataset.ids("val")
    for folder in ("labels", "confidence", "labels-mu0.5"):
        assert len(list(Path("mine/masks", folder).glob("*.png"))) == len(ids)
    assert len(list(Path("mine/cams/overlays").glob("*.jpg"))) == len(ids)
    maps = np.load(f"mine/cams/maps/{ids[0]}.npy", allow_pickle=False)
    assert maps.shape[0] == len(project.dataset.labels(ids[0]))
    predicted = sorted(path.stem for path in Path("mine/predictions/seed1/labels").glob("*.png"))
    assert predicted == sorted(val)
    label = np.asarray(Image.open(f"mine/masks/labels/{ids[0]}.png"))
    kept = np.asarray(Image.open(f"mine/masks/labels-mu0.5/{ids[0]}.png"))
    assert ((kept == label) | (kept == 255)).all()


def test_final_labels_as_a_plain_folder(project, capsys):
    own = "weclip\tphoto\tsoftmax\tcaa\tweclip\tweclip\tweclip\t3\n"
    Path("runs.tsv").write_text(HEADER + ROWS + own, encoding="utf-8")
    plan = cli._plan("my.yaml")
    made = synthetic.Synthetic(plan, plan.dataset)
    synthetic.write_results(made)
    for product in (*plan.maps, *plan.masks, *plan.trainings, *plan.val, *plan.labels):
        sign(product)
    code, out, error = call(capsys, "export", "weclip", "--out", "mine")
    assert code == 0, error
    assert "predictions/seed3, final-labels/seed3" in out
    labels = sorted(path.stem for path in Path("mine/final-labels/seed3/labels").glob("*.png"))
    assert labels == sorted(made.dataset.ids("train"))
    assert not Path("mine/final-labels/seed3/confidence").exists()
    _, out, _ = call(capsys, "clean")
    assert "nothing is unused" in out
    plan.labels[0].files[0].write_bytes(b"x")
    code, _, error = call(capsys, "export", "weclip", "--out", "mine")
    assert code == 1
    assert "labels.zip: changed since" in error


def test_what_no_run_uses_is_listed_and_deleted_on_request(project, capsys):
    code, out, _ = call(capsys, "clean")
    assert code == 0
    assert "nothing is unused" in out
    before = {path for path in project.root.rglob("*") if path.is_file()}
    other = project.root / "masks/crf-00000000/0001of0002.zip"
    seed = project.root / project.plan.graph.paths["seg"]["segmentation"].folder / "seed7/log.csv"
    shard = project.root / project.plan.graph.paths["seg"]["cam"].folder / "0001of0009.npz"
    for path in (other, seed, shard):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    _, out, _ = call(capsys, "clean")
    assert "masks/crf-00000000" in out
    assert "seed7" in out
    assert "0001of0009.npz" in out
    assert "unused by the runs of my.yaml; --yes deletes them" in out
    assert other.exists(), "the first call only lists"
    _, out, _ = call(capsys, "clean", "--yes")
    assert "deleted 3" in out
    assert {path for path in project.root.rglob("*") if path.is_file()} == before


def test_of_a_link_in_the_results_the_link_is_deleted(project, capsys, tmp_path_factory):
    mine = tmp_path_factory.mktemp("mine")
    (mine / "precious.txt").write_text("x")
    link = project.root / "masks/crf-00000000"
    link.symlink_to(mine)
    code, out, _ = call(capsys, "clean", "--yes")
    assert code == 0
    assert "deleted 1" in out
    assert not link.is_symlink()
    assert (mine / "precious.txt").is_file()


def test_results_of_an_earlier_version_are_refused(project, capsys):
    (project.root / "cams").mkdir()
    code, _, error = call(capsys, "path", "crf", "masks")
    assert code == 1
    assert "results of an earlier version" in error


def test_a_changed_archive_is_not_exported(project, capsys):
    archive = next((project.root / "masks").glob("*/*.zip"))
    archive.write_bytes(archive.read_bytes() + b"x")
    code, _, error = call(capsys, "export", "crf", "--out", "mine")
    assert code == 1
    assert f"{archive.name}: changed since the job that made it" in error


def test_what_was_made_of_other_labels_or_images_is_not_exported(project, capsys):
    # FAULTS 5
    (listed,) = project.plan.lists_of("train")[:1]
    text = listed.read_text()
    listed.write_bytes(text.replace("\n", "\r\n").encode())  # which is the same
    assert call(capsys, "export", "seg", "--out", "mine")[0] == 0
    listed.write_text("\n".join(reversed(text.split())))
    code, _, error = call(capsys, "export", "seg", "--out", "mine", "--overwrite")
    assert code == 1
    assert error.startswith("error: results/demo/cam/")
    assert error.endswith(
        ".json: its lists, labels or images have changed since; run the config of these results "
        "again\n"
    )


def test_what_follows_from_maps_of_other_images_is_not_read(project):
    plan = project.plan
    node = plan.graph.paths["seg"]["masks"]
    (mask, *_), (maps, *_) = plan.products(node), plan.products(node.parents[0])
    plan.check(mask)
    for product in (maps, mask):
        kept = product.sidecar.read_text()
        record = json.loads(kept)
        record["stamp"]["images"] = "of others"
        product.sidecar.write_text(json.dumps(record))
        with pytest.raises(InputError, match=f"^{re.escape(str(mask.sidecar))}: its lists, lab"):
            plan.check(mask)
        product.sidecar.write_text(kept)
    record["stamp"]["images"] = "of others"
    mask.sidecar.write_text(json.dumps(record))
    plan.dataset.image_folder.rename("elsewhere")
    plan.check(mask)  # the images are not here, so nobody knows


@pytest.mark.parametrize("command", ["export", "masks", "compare", "parity"])
def test_an_out_that_is_no_folder_to_write_into(project, capsys, command):
    Path("mine").write_text("x")
    images = project.dataset.ids("train")
    picture = project.dataset.image_path(images[0])
    arguments = {
        "export": ["export", "crf", "--configfile", "my.yaml"],
        "masks": ["masks", str(picture), "--labels", "dog", "--device", "cpu"],
        "compare": ["compare", str(project.root), str(project.root)],
        "parity": ["parity", "--root", "data", "--split", "train", "--weights", "no.pt"],
    }[command]
    if command == "masks":
        arguments += ["--preset", f"{synthetic.REPOSITORY}/config/config.yaml:clip-es"]
    for place, reason in (
        ("mine", "cannot be made a folder (File exists)"),
        ("mine/below", "cannot be made a folder (Not a directory)"),
        ("/proc/mine", "cannot be made a folder (No such file or directory)"),
        ("/proc", "cannot be written into (No such file or directory)"),
        ("a" * 300, "cannot be made a folder (File name too long)"),
        ("a\0b", "cannot be made a folder (embedded null byte)"),
    ):
        assert cli.main([*arguments, "--out", place]) == 1
        said = f"error: {place}: {reason}; name another with --out\n".replace("\0", r"\x00")
        assert capsys.readouterr().err == said
    assert Path("mine").read_text() == "x"
    with pytest.raises(SystemExit, match=r"^2$"):
        cli.main([*arguments, "--out", ""])
    assert "argument --out: must name where to write; got nothing" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["masks/labels/mine.png", "export.json", "cams/x/notes.txt"])
def test_an_export_replaces_no_files_of_others(project, capsys, name):
    path = Path("mine", name)
    path.parent.mkdir(parents=True)
    path.write_text("precious")
    code, _, error = call(capsys, "export", "crf", "--out", "mine")
    assert code == 1
    what = "is there, but mine has no export.json of this command"
    if name == "export.json":
        what = "was not written by this version of this command"
    remedy = "give another --out, or replace it with --overwrite"
    assert error == f"error: mine/{name.partition('/')[0]}: {what}; {remedy}\n"
    assert [one for one in Path("mine").rglob("*") if one.is_file()] == [path]
    assert path.read_text() == "precious"
    for again in (["--overwrite"], []):
        assert call(capsys, "export", "crf", "--out", "mine", *again)[0] == 0
    shutil.rmtree("mine/masks")
    Path("mine/masks").write_text("precious")
    code, _, error = call(capsys, "export", "crf", "--out", "mine", "--overwrite")
    assert code == 1
    assert error.startswith("error: mine/masks: cannot be made a folder (File exists); name anothe")
    Path("mine/masks").unlink()
    code, _, error = call(capsys, "export", "seg", "--out", "mine")
    assert code == 1
    assert error.startswith("error: mine: holds the export of another run (export.json); give")
    assert call(capsys, "export", "seg", "--out", "mine", "--overwrite")[0] == 0
