"""Stamps, products and what of them is current."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import synthetic

from clip_wsss.runs.graph import Graph
from clip_wsss.runs.plan import CODE, Plan
from clip_wsss.runs.sidecar import read_sidecar, write_sidecar


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(synthetic.REPOSITORY)
        found = synthetic.build(tmp_path_factory.mktemp("plan"))
        for product in found.plan.maps:
            texts = [one.files[0] for one in product.inputs["texts"] if one.files[0].exists()]
            inputs = {"lists": product.inputs["lists"], "texts": texts}
            write_sidecar(product.sidecar, product.stamp, {"maps": product.files[0]}, inputs)
        yield found


@pytest.fixture(autouse=True)
def _at_the_root(monkeypatch):
    monkeypatch.chdir(synthetic.REPOSITORY)


def test_every_kind_of_job_has_a_fingerprint_of_its_own(made):
    codes = [made.plan.code(job) for job in CODE]
    assert len(set(codes)) >= len(codes) - 2, "features, texts and maps may share theirs"
    assert all(len(code) == 16 for code in codes)


def test_no_products_share_a_file(made):
    plan = made.plan
    products = [
        *plan.texts_files,
        *plan.maps,
        *plan.masks,
        *plan.trainings,
        *plan.val,
        *plan.labels,
        *plan.scores,
    ]
    files = [file for one in products for file in (one.sidecar, *one.files)]
    assert len(set(files)) == len(files)
    assert all(len({file.parent for file in (one.sidecar, *one.files)}) == 1 for one in products)


def test_what_was_made_as_planned_is_current(made):
    for one in made.plan.graph.passes.values():
        assert made.plan.current(one) == list(one.nodes)
    assert not any(made.plan.stale(product) for product in made.plan.maps)


@pytest.mark.parametrize(
    "change",
    [
        lambda stamp: stamp.update(key="0" * 64),
        lambda stamp: stamp.update(code="0" * 16),
        lambda stamp: stamp.update(stage="masks"),
        lambda stamp: stamp["numerics"].update(threads=9),
    ],
)
def test_what_other_settings_or_code_have_made_is_stale(made, change):
    product = made.plan.maps[0]
    text = product.sidecar.read_text(encoding="utf-8")
    record = read_sidecar(product.sidecar)
    change(record["stamp"])
    product.sidecar.write_text(json.dumps(record), encoding="utf-8")
    try:
        assert made.plan.stale(product)
        stale = [one for one in made.plan.graph.passes.values() for n in one.nodes
                 if n not in made.plan.current(one)]  # fmt: skip
        assert len(stale) == 1
    finally:
        product.sidecar.write_text(text, encoding="utf-8")


def test_an_emptied_file_is_made_again(made):
    # FAULTS 5, 18
    product = made.plan.maps[0]
    content = product.files[0].read_bytes()
    product.files[0].write_bytes(b"")
    try:
        assert made.plan.stale(product)
    finally:
        product.files[0].write_bytes(content)
    assert not made.plan.stale(product)


def test_what_is_missing_is_not_current_and_files_without_a_sidecar_are_stale(made):
    product = made.plan.maps[0]
    text = product.sidecar.read_text(encoding="utf-8")
    product.sidecar.unlink()
    try:
        assert made.plan.stale(product), "nobody knows what made its files"
        gone = replace(product, files=(Path("gone.npz"),))
        assert not made.plan.stale(gone), "Snakemake makes what is missing"
        assert sum(len(made.plan.current(one)) for one in made.plan.graph.passes.values()) == (
            len(made.plan.graph.nodes("cam", "affinity")) - 1
        )
    finally:
        product.sidecar.write_text(text, encoding="utf-8")


def test_settings_of_the_machine_count_where_they_change_the_last_bits(made):
    def stamps(**compute):
        config = made.config.model_copy(
            update={"compute": made.config.compute.model_copy(update=compute)}
        )
        plan = made.changed(config=config).plan
        nodes = [plan.graph.paths["seg-cgl"][stage] for stage in ("cam", "masks", "segmentation")]
        return [plan.stamp(node)["numerics"] for node in nodes]

    same = stamps()
    assert [a != b for a, b in zip(same, stamps(threads=3), strict=True)] == [True, False, True]
    assert [a != b for a, b in zip(same, stamps(batch=3), strict=True)] == [True, False, False]
    assert [a != b for a, b in zip(same, stamps(gpus=2), strict=True)] == [False, False, True]
    assert stamps(workers=7, device="auto", shards=3, predictors=2) == same


def test_jobs_of_inference_share_the_trainings_out_and_none_moves(made):
    def shares(predictors, *left_out):
        compute = made.config.compute.model_copy(update={"predictors": predictors})
        runs = [run for run in made.plan.graph.runs if run.name not in left_out]
        config = made.config.model_copy(update={"compute": compute})
        plan = Plan(Graph(config, runs))
        return plan.shares(plan.predicted)

    assert shares(1) == [made.plan.predicted]
    three = shares(3)
    assert len(three) == 3
    assert sorted((one for share in three for one in share), key=str) == sorted(
        made.plan.predicted, key=str
    )
    last = [run.name for run in made.plan.graph.runs if run.segmentation][-1]
    fewer = shares(3, last)
    assert all(set(one) >= set(other) for one, other in zip(three, fewer, strict=True))
    assert fewer != three


def test_scripts_count_as_code(made, tmp_path):
    def code(text):
        (tmp_path / "masks.py").write_text(text, encoding="utf-8")
        return Plan(made.plan.graph, scripts=tmp_path).code("masks")

    assert code("x = 1\n") != code("x = 2\n")
    assert code("x = 1\n") == code("# why\nx = 1\n")
    assert code("x = 1\n") != made.plan.code("masks")


def test_powers_are_those_of_the_sweep_and_of_the_runs(made):
    evaluation = made.config.evaluation.model_copy(
        update={"powers": [3.0, 1.0], "background_power": 2.5}
    )
    plan = made.changed(config=made.config.model_copy(update={"evaluation": evaluation})).plan
    assert plan.powers(plan.graph.paths["crf"]["cam"]) == [1.0, 2.5, 3.0]


def test_tables_and_report_are_stale_where_what_they_say_has_changed(made):
    def keys(**evaluation):
        config = made.config.model_copy(
            update={"evaluation": made.config.evaluation.model_copy(update=evaluation)}
        )
        plan = made.changed(config=config).plan
        return plan.tables_product.stamp["key"], plan.report_product.stamp["key"]

    assert all(a != b for a, b in zip(keys(), keys(seed=7), strict=True))
    fewer = made.changed(runs=made.runs[:-1]).plan.tables_product.stamp
    assert fewer["key"] != made.plan.tables_product.stamp["key"]
    assert keys() == keys()


def test_the_ground_truth_counts_where_it_is_read(made):
    dataset = made.config.dataset.model_copy(update={"masks": "Others"})
    other = made.changed(config=made.config.model_copy(update={"dataset": dataset})).plan
    same = [a.stamp == b.stamp for a, b in zip(made.plan.scores, other.scores, strict=True)]
    assert not any(same)
    assert [one.stamp for one in made.plan.maps] == [one.stamp for one in other.maps]


def test_paths_stay_within_the_results(made):
    plan = made.plan
    for path in plan.tables:
        assert path.is_relative_to(plan.root)
        assert ".." not in Path(path).parts


def test_outputs_of_other_inputs_are_stale(made):
    """What Snakemake puts back after a failed job looks new, and was made from what was before."""
    plan = made.plan
    product = plan.masks[0]
    (maps,) = product.inputs["maps"]
    inputs = {"lists": product.inputs["lists"], "maps": [maps.files[0]]}
    write_sidecar(product.sidecar, product.stamp, {"masks": product.files[0]}, inputs)
    assert not plan.stale(product)
    text = maps.sidecar.read_text(encoding="utf-8")
    record = read_sidecar(maps.sidecar)
    record["outputs"]["maps"] = "0" * 64
    maps.sidecar.write_text(json.dumps(record), encoding="utf-8")
    try:
        assert plan.stale(product)
    finally:
        maps.sidecar.write_text(text, encoding="utf-8")
        assert not plan.stale(product)
