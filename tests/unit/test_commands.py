"""Every command in the docs is run somewhere, or is listed here with the reason why it is not.

A command that is new or has changed must be entered. The files that it names must be there, and
so must the test.
"""

import re

import pytest
import synthetic

ROOT = synthetic.REPOSITORY
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PROGRAM = re.compile(
    r"(PYTHONPATH=\S+ )?(make|snakemake|clip-wsss|pip|git|python|dvc|source|docker|conda|cd) "
)
CI, DOWNLOADS, USER = ".ci/run", "fetches gigabytes", "what it names is the reader's"
DATA = "tests/workflow/test_data.py::"
DEMO = "tests/workflow/test_demo.py::test_everything_is_there"
VOC = f"{DATA}test_voc_from_its_archives_to_the_tables"
CLI = "tests/unit/test_cli.py::"
MASKS = "tests/unit/test_docs.py::test_the_page_of_masks_runs_as_it_stands"
README = "tests/unit/test_docs.py::test_the_readme_makes_and_scores_masks"
DVC = "tests/workflow/test_dvc.py::test_push_pull_and_nothing_to_do"
WHEEL = "tests/workflow/test_deploy.py::test_a_wheel_gives_the_same_bytes_in_a_folder_of_the_user"
SYSTEMS = "tests/workflow/test_systems.py::test_every_system_has_its_figures"
PLANS = f"{DATA}test_a_table_named_on_the_command_line"

WHERE = {
    "make demo": DEMO,
    "make demo TORCH=cpu": "PyTorch's own index is not on every network",
    "make systems": SYSTEMS,
    "make test": CI,
    "make test-long": CI,
    "make lint": CI,
    "make docs": CI,
    "make bench": "takes an hour",
    "make bench OLD=v0.1.0": "takes an hour",
    "make mutants": "takes hours",
    "make track": DVC,
    "source .venv/bin/activate": CI,
    "snakemake --cores all": DEMO,
    "snakemake --cores all --configfile config/voc12.yaml": VOC,
    "snakemake --cores all --configfile config/voc12.yaml -- "
    "data/voc12/ImageSets/Segmentation/train_aug.txt": VOC,
    "snakemake --cores all --configfile config/coco14.yaml": (
        f"{DATA}test_coco_from_its_archives_to_the_tables"
    ),
    "snakemake --cores all --configfile config/tagclip.yaml": (
        "tests/workflow/test_tags.py::test_labels_are_predicted_before_they_are_read"
    ),
    "snakemake --cores all --configfile config/systems.yaml": SYSTEMS,
    "snakemake --cores all --configfile config/zeroshot.yaml": (
        "tests/workflow/test_zeroshot.py::test_rows_with_held_out_classes"
    ),
    "snakemake --cores all --configfile config/voc12-zeroshot.yaml": (
        f"{DATA}test_plans_of_the_real_configs"
    ),
    "snakemake --cores all --configfile config/folder.yaml": (f"{DATA}test_plans_of_ones_own_data"),
    "snakemake --cores all --configfile config/config.yaml "
    "--config 'runs={tables: [config/runs/corrections.tsv]}'": PLANS,
    "snakemake --cores all --configfile config/voc12.yaml "
    "--config 'runs={tables: [config/runs/towers.tsv]}'": PLANS,
    "snakemake --cores all --configfile config/config.yaml "
    "--config 'runs={tables: [config/runs/weclip.tsv]}'": (
        "tests/workflow/test_online.py::test_rows_with_labels_made_online"
    ),
    "snakemake --cores all --configfile config/config.yaml "
    "--config 'runs={tables: [config/runs/ssr.tsv]}'": (
        "tests/workflow/test_online.py::test_rows_with_labels_made_online"
    ),
    "snakemake --workflow-profile profiles/slurm --configfile config/voc12.yaml": (
        "tests/workflow/test_slurm.py::test_the_demo_through_slurm"
    ),
    "snakemake --cores all --resources gpu=4 --configfile config/voc12.yaml": "needs four GPUs",
    "snakemake --executor kubernetes --container-image REGISTRY/clip-wsss --jobs 100 \\": (
        "needs a cluster, as the page says"
    ),
    "clip-wsss masks pictures --labels dog,person --out masks": README,
    "clip-wsss score masks/labels SegmentationClass --common": README,
    "clip-wsss doctor": README,
    "clip-wsss check": f"{DATA}test_bad_data_stop_before_anything_is_computed",
    "clip-wsss path crf masks": f"{CLI}test_the_folder_of_a_stage",
    "clip-wsss export crf": f"{CLI}test_a_run_as_plain_folders",
    "clip-wsss clean": f"{CLI}test_what_no_run_uses_is_listed_and_deleted_on_request",
    "clip-wsss compare A B": "tests/unit/test_compare.py::test_the_command_prints_and_writes",
    "clip-wsss compare A B [--results results/demo] [--out DIR]": (
        "tests/unit/test_compare.py::test_the_command_prints_and_writes"
    ),
    "clip-wsss masks pictures --labels dog,person": MASKS,
    "clip-wsss masks pictures --csv labels.csv --out masks-csv": MASKS,
    "clip-wsss masks by-class --by-folder --classes cat,dog --out masks-own": MASKS,
    "clip-wsss score masks/labels SegmentationClass --common --csv scores.csv": MASKS,
    "clip-wsss parity --root VOC_FOLDER --split NAME --weights FILE --out DIR": (
        "tests/unit/test_parity.py::test_command_line"
    ),
    "clip-wsss run --cores all": WHEEL,
    "clip-wsss run --cores all --configfile config/voc12.yaml": DOWNLOADS,
    "clip-wsss run --cores all --configfile config/voc12.yaml -n": (
        "tests/workflow/test_deploy.py::test_the_files_of_the_user_come_first"
    ),
    "pip install .": WHEEL,
    "cd /some/empty/folder": USER,
    "cd /some/folder/with/12/GB": USER,
    "cd clip-wsss": USER,
    "git clone <this repository>": USER,
    "dvc remote add -d store /some/folder": DVC,
    'git add data.dvc results.dvc .dvc/config && git commit -m "Results"': USER,
    "dvc push": DVC,
    "python benchmarks/run.py --only cam crf --old HEAD~20": "takes half an hour",
    "python benchmarks/crf.py --help": "prints its options",
    "PYTHONPATH=src python benchmarks/gpu.py --out FOLDER": "needs a GPU",
    "PYTHONPATH=src python benchmarks/gpu.py --out FOLDER --device cpu --quick": "takes minutes",
    "python -m clip_wsss.segmentation.convert config.py segmentor.yaml": (
        "tests/unit/segmentation/test_zoo.py::"
    ),
    "python -m clip_wsss.runs.sentences config/voc12.yaml > sentences.txt": (
        "tests/unit/runs/test_sentences.py::test_every_template_with_every_word"
    ),
}


def commands():
    """The commands of all pages, without the remarks behind them."""
    for page in PAGES:
        fenced = False
        for line in page.read_text("utf-8").splitlines():
            fenced ^= line.startswith("```")
            if PROGRAM.match(line.strip() + " ") and (fenced or line.startswith("    ")):
                yield re.split(r"\s+# ", line.strip())[0]


def test_every_command_is_accounted_for():
    assert set(commands()) == set(WHERE)


@pytest.mark.parametrize("where", sorted({w for w in WHERE.values() if "::" in w}))
def test_the_test_is_there(where):
    file, _, name = where.partition("::")
    assert f"def {name}" in (ROOT / file).read_text("utf-8")


@pytest.mark.parametrize("file", sorted(set(re.findall(r"config/\S+?\.\w+", " ".join(WHERE)))))
def test_the_file_is_there(file):
    assert (ROOT / file).is_file()


@pytest.mark.parametrize("command", [c for c in WHERE if c.startswith("make ")])
def test_make_knows_the_target(command):
    target = command.split()[1]
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
