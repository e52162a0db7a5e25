import json
import re

import numpy as np
import pandas as pd
import pytest
import yaml
from made_results import (
    CHOSEN,
    REPOSITORY,
    config,
    content,
    draw,
    ladder,
    plan,
    run,
    score,
    sign,
    write_logs,
    write_measurement,
    write_results,
)

from clip_wsss.core.csvs import read_csv
from clip_wsss.core.errors import InputError
from clip_wsss.report.tables import runs_table
from clip_wsss.runs.config import load_config
from clip_wsss.score.bootstrap import interval, nan_mean, resampled_iou, tally
from clip_wsss.tables.costs import elapsed, write_costs
from clip_wsss.tables.published import quoted, read_published
from clip_wsss.tables.remarks import of_tags, remarks_of_training
from clip_wsss.tables.write import write_tables

HEAD = "method,stage,split,miou,source,note\n"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The results folder of the ladder, with its tables."""
    return tables_of(tmp_path_factory.mktemp("results") / "demo", ladder())


def tables_of(root, runs, settings=None):
    """Write the measurements of runs and their tables."""
    made = plan(root, runs, settings)
    write_results(made)
    write_tables(made)
    return root


def read(root, name="ladder.csv"):
    return pd.read_csv(root / "tables" / name, keep_default_na=False, na_values=[""])


def lines(root):
    return read(root).set_index("run")


def counts_of(root, name, stage, power=None, number=0):
    """Counts of a stage of a run of the ladder."""
    file = score(plan(root, ladder()), name, stage, number)
    table = pd.read_parquet((root / file).with_name("counts.parquet"))
    return table if power is None else table[table["power"] == power]


def by_hand(counts):
    """Equation of the mIoU, class by class."""
    values = []
    for label in sorted(counts["truth"].unique()):
        there, said = counts["truth"] == label, counts["prediction"] == label
        pixels = counts["pixels"]
        values.append(pixels[there & said].sum() / pixels[there | said].sum())
    return 100 * np.mean(values)


def test_figures_are_those_of_the_counts(made):
    table = lines(made)
    maps = counts_of(made, "plain", "initial", 1)
    assert table.loc["plain", "initial"] == pytest.approx(by_hand(maps), abs=1e-4)
    masks = counts_of(made, "crf", "mask")
    assert table.loc["crf", "mask"] == pytest.approx(by_hand(masks), abs=1e-4)
    assert table.loc["crf", "miou"] == table.loc["crf", "mask"]
    assert table["headline"].tolist() == [
        "initial", "initial", "refined", "mask", "segmentation", "segmentation",
    ]  # fmt: skip
    assert table["split"].tolist() == ["train"] * 6
    assert table.loc["cgl", "segmentation_split"] == "val"
    assert (table["images"] == 12).all()


def test_intervals_and_paired_differences(made):
    table = lines(made)
    sums = [
        tally(counts_of(made, name, "initial", 1), [f"i{n:02d}" for n in range(12)], 3)
        for name in ("softmax", "plain")
    ]
    samples = [100 * nan_mean(resampled_iou(one, 200, 0)) for one in sums]
    around, gap = interval(samples[0]), interval(samples[0] - samples[1])
    row = table.loc["softmax"]
    assert (row["initial_low"], row["initial_high"]) == pytest.approx(
        (around.low, around.high), abs=1e-4
    )
    assert row["difference"] == pytest.approx(
        row["initial"] - table.loc["plain", "initial"], abs=2e-4
    )
    assert (row["difference_low"], row["difference_high"]) == pytest.approx(
        (gap.low, gap.high), abs=1e-4
    )
    assert row["more_than_noise"] == ("yes" if gap.excludes_zero else "no")
    assert row["differs"] == "target: logit -> softmax"


def test_what_a_row_is_compared_at(made):
    table = lines(made)
    assert table.loc["plain", ["difference_of", "difference_note"]].isna().all()
    assert table.loc["softmax", "difference_of"] == "initial"
    assert table.loc["caa", "difference_of"] == "refined - initial"
    assert table.loc["crf", "difference_of"] == "mask - refined"
    assert pd.isna(table.loc["all", "difference"])  # the same masks, and a base without segmentor
    assert table.loc["all", "difference_note"] == "all figures in common are the same"
    assert table.loc["cgl", "difference_of"] == "segmentation"


def test_seeds_are_one_row_with_mean_and_deviation(made):
    seeds = [by_hand(counts_of(made, "cgl", "segmentation", number=n)) for n in (0, 1)]
    row = lines(made).loc["cgl"]
    assert row["segmentation"] == pytest.approx(np.mean(seeds), abs=1e-4)
    assert row["segmentation_sd"] == pytest.approx(np.std(seeds, ddof=1), abs=1e-4)
    assert row["seeds"] == "0 1"
    assert row["noise_covers"] == "images"  # its base has one seed
    assert "± " in (made / "tables/ladder.md").read_text()
    assert r"$\pm$ " in (made / "tables/ladder.tex").read_text()


def test_oracle_figures_are_labelled(tmp_path):
    runs = [
        run("fixed", None, masks="argmax"),
        run("oracle", "fixed", masks="argmax,scoring=oracle"),
    ]
    tables_of(tmp_path, runs)
    table = lines(tmp_path)
    figures = read(tmp_path, "figures.csv").set_index(["run", "stage", "scoring"])["miou"]
    numbers = json.loads((tmp_path / "tables/metrics.json").read_text())
    assert numbers["fixed"]["initial"] == table.loc["fixed", "initial"]
    assert table.loc["oracle", "initial"] == table.loc["fixed", "initial"]
    # FAULTS 14
    assert list(numbers["oracle"]) == ["initial oracle", "mask"]
    assert numbers["oracle"]["initial oracle"] == table.loc["oracle", "initial_oracle"]
    assert numbers["oracle"]["initial oracle"] == figures["oracle", "initial", "oracle"]
    headline = read(tmp_path, "headline.csv").set_index("run")
    assert headline["scoring"].to_dict() == {
        "fixed": "fixed",
        "oracle": "fixed",
    }  # both end in masks
    assert table.loc["oracle", "initial_oracle"] > table.loc["oracle", "initial"]
    assert table.loc["oracle", "initial_oracle_power"] == 2
    assert table.loc["oracle", "difference_of"] == "initial oracle - initial"
    assert table.loc["oracle", "differs"] == "scoring: fixed -> oracle"
    assert "(oracle " in (tmp_path / "tables/ladder.md").read_text()


def test_a_power_of_the_run_s_own(tmp_path):
    tables_of(tmp_path, [run("two", None, masks="argmax,background_power=2")])
    row = lines(tmp_path).loc["two"]
    assert (row["initial_power"], row["initial"]) == (2, row["initial_oracle"])
    figures = pd.read_csv(tmp_path / "tables/figures.csv")
    figures = figures[figures["stage"] == "initial"]
    assert list(figures["scoring"]) == ["fixed", "oracle"], "named apart at one and the same power"
    with pytest.raises(InputError, match=r"background_power: 3 was not counted \(there: 1, 2\)"):
        tables_of(tmp_path, [run("three", None, masks="argmax,background_power=3")])


def test_the_power_of_a_run_without_masks_is_the_evaluation_s(tmp_path):
    tables_of(tmp_path, [run("two", None)], config(background_power=2))
    row = lines(tmp_path).loc["two"]
    assert (row["initial_power"], row["initial"]) == (2, row["initial_oracle"])
    assert (row["headline"], row["scoring"], row["miou"]) == ("initial", "fixed", row["initial"])


def test_a_missing_measurement_is_named(tmp_path):
    with pytest.raises(
        InputError, match=r"score/.*sidecar\.json: missing, so make it again: run the config"
    ):
        write_tables(plan(tmp_path, ladder()))


def test_measurements_of_another_plan_or_changed_by_hand_are_refused(tmp_path):
    root = tables_of(tmp_path, ladder()[:2])
    made = plan(root, ladder()[:2])
    file = root / score(made, "plain", "initial")
    with pytest.raises(InputError, match=r"sidecar\.json: made with numerics .*7.*the plan has"):
        write_tables(plan(root, ladder()[:2], config(powers=[1.0, 2.0, 7.5])))
    old = made.code("score")
    made._codes["score"] = "0" * 16
    with pytest.raises(InputError, match=rf'made with code "{old}", and the plan has "0000'):
        write_tables(made)
    text = file.read_text()
    file.write_text(text.replace('"images": 12', '"images": 13'))
    with pytest.raises(InputError, match=r"score\.json: changed since the job that made it"):
        write_tables(plan(root, ladder()[:2]))


def test_the_same_bytes_twice(made, tmp_path):
    write_tables(plan(made, ladder()), tmp_path)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == sorted(path.name for path in (made / "tables").iterdir())
    for name in names:
        assert (tmp_path / name).read_bytes() == (made / "tables" / name).read_bytes()


def test_every_written_file_is_declared(made, tmp_path):
    written = {path for path in made.rglob("*") if path.is_file()}
    written -= set((made / "score").rglob("*"))
    planned = plan(made, ladder())
    read = (*planned.trainings, *planned.rankings)
    written -= {file for product in read for file in (product.sidecar, *product.files)}
    declared = planned.tables
    assert set(declared) == written
    assert len(declared) == len(written)


def test_an_index_and_the_settings_of_every_folder(made):
    index = read(made, "index.csv")
    assert index.columns.tolist() == ["run", "stage", "folder"]
    assert index["stage"][index["run"] == "plain"].tolist() == ["texts", "cam"]
    shared = index.groupby("stage")["folder"].nunique()
    assert (shared["texts"], shared["cam"], shared["masks"], shared["segmentation"]) == (1, 2, 1, 2)
    for row in index.itertuples():
        settings = yaml.safe_load((made / row.folder / "settings.yaml").read_text())
        stages = {"model", "images"} | set(index["stage"][index["run"] == row.run])
        assert row.stage in settings
        assert set(settings) <= stages
        if row.stage == "affinity":
            assert settings["affinity"] == {"method": "caa", "layers": 3}
            assert settings["cam"]["target"] == "softmax"


def test_the_resolved_config_gives_the_same_folders_again(made):
    text = (made / "tables/config.yaml").read_text()
    again = load_config(yaml.safe_load(text))
    assert plan(made, ladder(), again).graph.folders() == plan(made, ladder()).graph.folders()
    assert list(yaml.safe_load(text)) == sorted(yaml.safe_load(text))
    assert str(REPOSITORY) not in text


def full(name="full", base=None, **more):
    none = {"texts": None, "cam": None, "masks": "ground-truth"}
    return run(name, base, **none, segmentation="all-pixels", **more)


def test_shares_of_full_supervision(tmp_path):
    trained = ladder()[-1]
    runs = [
        *ladder(),
        full(),
        run("flip", "cgl", **{"affinity": "caa", "masks": "crf", "segmentation": "cgl"},
            inference="default,flip=true"),
        full("elsewhere", table="other"),
    ]  # fmt: skip
    tables_of(tmp_path, runs)
    table = lines(tmp_path)
    shares = table["segmentation_of_full"]
    expected = 100 * table.loc[trained.name, "segmentation"] / table.loc["full", "segmentation"]
    assert shares["cgl"] == pytest.approx(expected, abs=1e-3)
    assert shares["full"] == 100
    assert shares[["plain", "crf", "flip"]].isna().all()  # not trained; other inference
    assert pd.isna(table.loc["full", "precision"])
    assert (
        f"({shares['cgl']:.1f} % of full supervision)"
        in (tmp_path / "tables/ladder.md").read_text()
    )
    assert rf"({shares['cgl']:.1f} \% of full" in (tmp_path / "tables/ladder.tex").read_text()
    without = tables_of(tmp_path / "without", ladder())
    assert lines(without)["segmentation_of_full"].isna().all()
    assert "full supervision" not in (without / "tables/ladder.md").read_text()


def test_rows_may_lack_any_stage(tmp_path):
    masks = tmp_path / "masks"
    masks.mkdir()
    (masks / "a.png").write_bytes(b"a label")
    none = {"texts": None, "cam": None}
    settings = content()
    settings["masks"]["theirs"] = {"source": "import", "folder": str(masks)}
    runs = [
        run("maps", None),
        run("import", "maps", **none, masks="theirs"),
        run("theirs", "import", **none, masks="theirs", segmentation="cgl"),
        full(base="theirs"),
        run("true", None, **none, masks="ground-truth"),
    ]
    tables_of(tmp_path / "demo", runs, load_config(settings))
    table = lines(tmp_path / "demo")
    assert table["headline"].tolist()[:4] == ["initial", "mask", "segmentation", "segmentation"]
    assert table.loc["import", "difference_of"] == "mask - initial"
    assert table.loc["import", "differs"].endswith("; masks: none -> import")
    assert table.loc["theirs", "differs"] == "segmentation: none -> TokenHead+confidence-guided"
    words = table.loc["full", "differs"]
    assert words == "source: import -> ground-truth; loss: confidence-guided -> cross-entropy"
    assert table.loc["true", "initial":"difference_note"].isna().all()
    index = read(tmp_path / "demo", "index.csv")
    assert index["stage"][index["run"] == "true"].tolist() == ["masks"]


def test_one_run(tmp_path):
    table = lines(tables_of(tmp_path, [run("only", None)]))
    assert table.index.tolist() == ["only"]
    assert (tmp_path / "tables/ladder.md").read_text().count("| only |") == 1


def test_a_run_with_the_settings_of_its_base_has_no_difference(tmp_path):
    settings = content()
    settings["cam"]["other"] = settings["cam"]["softmax"] | {"precision": "float32"}
    settings["models"]["twin"] = settings["models"]["demo"]
    settings["cam"]["other"]["model"] = "twin"
    runs = [run("base", None), run("twin", "base", cam="other"), run("other", "twin", cam="plain")]
    tables_of(tmp_path, runs, load_config(settings))
    row = lines(tmp_path).loc["twin"]
    assert row[["differs", "difference", "difference_of", "more_than_noise"]].isna().all()
    assert row["difference_note"] == "same settings as its base"
    assert "| same settings as its base |" in (tmp_path / "tables/ladder.md").read_text()
    assert lines(tmp_path).loc["other", "differs"] == "target: softmax -> logit"


def test_a_run_that_differs_from_its_base_in_seeds_only(tmp_path):
    # FAULTS 11
    cells = {"affinity": "caa", "masks": "crf", "segmentation": "cgl"}
    runs = [run("one", None, **cells), run("two", "one", **cells, seeds=(1, 2))]
    tables_of(tmp_path, [*runs, run("again", "two", **cells, seeds=(2, 1))])
    table = lines(tmp_path)
    assert table["differs"].tolist()[1:] == ["seeds: 0 -> 1 2", "seeds: 1 2 -> 2 1"]
    gap = table.loc["two", "segmentation"] - table.loc["one", "segmentation"]
    assert table.loc["two", "difference"] == pytest.approx(gap, abs=2e-4)
    assert table.loc["again", "difference"] == 0


def test_names_and_notes_stay_text(tmp_path):
    # FAULTS 12
    runs = [run("=1+1", None, note="<!--<script>"), run("NA", "=1+1", cam="plain", note="a|b")]
    tables_of(tmp_path, runs)
    assert (tmp_path / "tables/ladder.csv").read_text().splitlines()[1].startswith("'=1+1,")
    table = read_csv(tmp_path / "tables/ladder.csv").set_index("run")
    assert table.index.tolist()[:2] == ["=1+1", "NA"]
    assert table["note"].tolist()[:2] == ["<!--<script>", "a|b"]
    assert table.loc["NA", "base"] == "=1+1"
    text = (tmp_path / "tables/ladder.md").read_text()
    assert "<" not in text
    assert "- NA: a" in text, "the tables to read say the notes too"
    body = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.replace(r"\|", "").count("|") for line in body}) == 1


def test_what_makes_a_figure_say_less_is_said(tmp_path):
    # FAULTS 1, 3, 4, 17
    cells = {"affinity": "caa", "masks": "crf", "segmentation": "cgl"}
    made = plan(tmp_path, [run("plain", None), run("seg", "plain", **cells, seeds=(0, 1))])
    write_results(made)
    maps = draw(0.5, 0).assign(power=1.0)
    zero = {"maps": 9, "zero_maps": 2, "zero_classes": ["dog"], "scaled_down": 3}
    file = tmp_path / score(made, "plain", "initial")
    write_measurement(file, "initial", maps, **zero, without_truth=["cat"])
    file = tmp_path / score(made, "seg", "mask")
    iou = {"background": 0.9, "cat": None, "dog": 0.009}
    write_measurement(
        file,
        "mask",
        draw(0.5, 0),
        unsure=4,
        exchanged=[["dog", "cat", 0.75]],
        skipped=["x"],
        iou=iou,
    )
    write_logs(made, pixels=[5, 0, 0])
    sign(made, logs=False)
    write_tables(made)
    said = [
        "- train: intervals over 12 images, fewer than 30, mean little.",
        "- train: no ground truth of cat; the mIoU leaves them out.",
        "- initial CAM of plain, seg: 2 of 9 maps are zero all over, which is background; all maps "
        "of dog are.",
        "- initial CAM of plain, seg: 3 of 12 images were scaled down for their maps.",
        "- pseudo mask of seg: 4 of 12 masks have no pixel of a confidence of 0.95 or more.",
        "- pseudo mask of seg: the labels show cat where dog is (IoU 75%), as if values or colours "
        "of classes were others than in the ground truth.",
        "- pseudo mask of seg: every class has an IoU below 1%: none is found, or values are "
        "shifted.",
        "- pseudo mask of seg: 1 images were left out: x.",
        "- segmentation of seg: seed 0: no pixel counted in 2 of 3 updates.",
        "- segmentation of seg: seed 1: no pixel counted in 2 of 3 updates.",
    ]
    text = (tmp_path / "tables/ladder.md").read_text().splitlines()
    assert set(said) <= set(text)
    assert set(read_csv(tmp_path / "tables/remarks.csv")["stage"]) == {
        "all", "initial", "mask", "segmentation",
    }  # fmt: skip
    (log,) = {product.files[-1] for product in made.trainings[:1]}
    log.write_text(log.read_text().replace(",0,99\n", ",9,99\n"))
    with pytest.raises(InputError, match=r"log\.csv: changed since the job that made it"):
        write_tables(made)


def test_a_ranking_that_was_changed_by_hand_is_refused(tmp_path):
    # FAULTS 5, 13
    made = plan(tmp_path, [run("photo", None), run("ranked", "photo", texts="sharpest")])
    write_results(made)
    (product,) = made.rankings
    text = product.files[-1].read_text()
    product.files[-1].write_text(text.replace("2,a photo", "1,a photo"))
    with pytest.raises(InputError, match=r"sharpness\.csv: changed since the job that made it"):
        write_tables(made)
    product.files[-1].write_text(text)
    write_tables(made)
    words = f"template: a photo of a {{}}. -> sharpest ({CHOSEN})"
    assert lines(tmp_path).loc["ranked", "differs"] == words


def test_without_ground_truth_there_are_tables_without_figures(tmp_path):
    settings = content()
    settings["dataset"]["masks"] = None
    tables_of(tmp_path, ladder(), load_config(settings))
    assert lines(tmp_path)["differs"].notna().sum() == 5
    assert json.loads((tmp_path / "tables/metrics.json").read_text())["cgl"] == {}
    for name in ("figures", "per_class", "headline", "confidence"):
        assert len(read(tmp_path, f"{name}.csv")) == 0


def test_every_figure_names_its_files(made):
    figures = read(made, "figures.csv")
    for _, row in figures.iterrows():
        values = []
        for file in row["files"].split():
            info = json.loads((made / file).read_text())
            values.append(
                info["powers"][str(row["power"]).removesuffix(".0")]
                if "powers" in info
                else info["miou"]
            )
        assert row["miou"] == pytest.approx(100 * np.mean(values), abs=1e-4)
    assert figures[figures["headline"] == "yes"]["run"].tolist() == [r.name for r in ladder()]
    headline = read(made, "headline.csv")
    assert headline["miou"].tolist() == figures[figures["headline"] == "yes"]["miou"].tolist()


def test_per_class(made):
    table = read(made, "per_class.csv")
    mean = table.groupby(["run", "stage"])["iou"].mean()
    assert mean["crf", "mask"] == pytest.approx(lines(made).loc["crf", "mask"], abs=1e-3)
    assert (table["low"] <= table["high"]).all()
    wide = (made / "tables/per_class.md").read_text().splitlines()
    assert wide[0].startswith("| class | plain (initial) | softmax (initial) | caa (refined) |")
    assert [line.split(" | ")[0] for line in wide[2:]] == ["| background", "| cat", "| dog"]


def test_precision_recall_and_confusion_are_those_of_the_counts(made):
    counts = counts_of(made, "crf", "mask")
    table = read(made, "per_class.csv")
    rates = table[(table["run"] == "crf") & (table["stage"] == "mask")].set_index("class")
    found = []
    for label, name in enumerate(("background", "cat", "dog")):
        there, said, pixels = counts["truth"] == label, counts["prediction"] == label, "pixels"
        hit, alarm, miss = (
            counts.loc[rows, pixels].sum() for rows in (there & said, ~there & said, there & ~said)
        )
        found.append([hit / (hit + alarm), hit / (hit + miss), alarm / hit])
        own = rates.loc[name, ["precision", "recall", "confusion"]].tolist()
        assert own == pytest.approx(100 * np.array(found[-1]), abs=1e-4)
    means = read(made, "figures.csv").query("run == 'crf' and stage == 'mask'").iloc[0]
    means = means[["precision", "recall", "confusion"]].tolist()
    assert means == pytest.approx(100 * np.mean(found, axis=0), abs=1e-3)


def test_the_mu_curve_stands_once_for_shared_masks(made):
    table = read(made, "confidence.csv")
    assert table["run"].unique().tolist() == ["crf"]
    sure = table.set_index("mu").loc[0.95]
    assert (sure["kept"], sure["precision"]) == (50, 100)


def test_metrics_for_dvc_are_numbers_by_run_and_stage(made):
    numbers = json.loads((made / "tables/metrics.json").read_text())
    assert numbers["crf"] == {
        stage: lines(made).loc["crf", stage] for stage in ("initial", "refined", "mask")
    }


def test_latex_escapes_what_would_break_it(tmp_path):
    tables_of(tmp_path, [run("a_b", None), run("c&d", "a_b", texts="sharpest")])
    text = (tmp_path / "tables/ladder.tex").read_text()
    assert r"a\_b" in text
    assert r"c\&d" in text
    assert r"a photo of a \{\}. $\to$ sharpest (a clean origami \{\}.)" in text  # FAULTS 13
    body = text[text.index(r"\midrule") : text.index(r"\bottomrule")]
    rows = [line for line in body.splitlines()[1:] if line]
    assert len({len(re.findall(r"(?<!\\)&", line)) for line in rows}) == 1
    assert not re.search(r"(?<!\{)\[", body)


def publish(tmp_path, name="demo"):
    path = tmp_path / f"{name}.csv"
    path.write_text(
        HEAD + "CAA,refined,train,70.8,a paper,with CAA\nCAA,mask,train,75,a paper,\n"
        "Other,segmentation,val,76.4,another,\n"
    )
    return path


def test_published_figures_stand_beside_the_measured_ones(made, tmp_path):
    settings = config(published=str(publish(tmp_path)))
    write_tables(plan(made, ladder(), settings), tmp_path / "tables")
    table = lines(tmp_path)
    row = table.loc["caa"]
    assert row["refined_quoted"] == 70.8
    assert row["refined_minus_quoted"] == pytest.approx(row["refined"] - 70.8, abs=1e-4)
    assert row["source"] == "a paper"
    assert table["refined_quoted"].notna().sum() == 1
    quotes = table[table["kind"] == "quoted"]
    assert quotes.index.tolist() == ["CAA", "Other"]
    assert quotes.loc["CAA", ["refined", "mask"]].tolist() == [70.8, 75]
    assert quotes.loc["CAA", "split"] == "demo train"
    assert quotes["miou"].isna().all()
    text = (tmp_path / "tables/ladder.md").read_text()
    assert "| CAA (quoted: a paper) |" in text
    assert "(quoted 70.8, difference " in text


def test_figures_of_another_data_set_are_quoted_without_a_difference(made, tmp_path):
    settings = config(published=str(publish(tmp_path, "voc12")))
    write_tables(plan(made, ladder(), settings), tmp_path / "t")
    table = pd.read_csv(tmp_path / "t/ladder.csv")
    assert table["refined_quoted"].isna().all()
    assert table[table["kind"] == "quoted"]["split"].tolist() == ["voc12 train", "voc12 val"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("method,miou\n", "the columns must be method, stage"),
        (HEAD.replace("note", "note,year"), "and may be venue, kind, backbone"),
        (HEAD + "a,crf,train,70,b,\n", "line 2: unknown stage `crf`"),
        (HEAD + "a,mask,train,x,b,\n", "line 2: miou: must be a percentage; got x"),
        ("", "the columns must be method, stage"),
        (HEAD + "a,mask,train,70,b\n", "line 2: must have 6 values; got 5"),
        (HEAD + '"a,mask', "line 2: not CSV"),
        ((HEAD + "é").encode("latin-1"), "is not UTF-8; save it as UTF-8"),
        (HEAD + "a,mask,train,70,,\n", "line 2: source: a quoted figure needs one"),
    ],
)
def test_published_figures_are_checked(tmp_path, text, message):
    path = tmp_path / "voc12.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match=message):
        read_published(path)
    with pytest.raises(InputError, match=message):  # before the first job, not after the last
        config(published=str(path))


def test_a_missing_file_of_published_figures_is_named(tmp_path):
    with pytest.raises(InputError, match=r"evaluation\.published: there is no file"):
        read_published(tmp_path / "no.csv")


def test_what_a_quoted_figure_was_got_with(made, tmp_path):
    path = tmp_path / "voc12.csv"
    head = "crf,backbone,pretraining,scales," + HEAD
    path.write_text(f'{head}yes,ViT-B,ImageNet,"0.5, 1",A,segmentation,val,70,paper,mine\n')
    settings = config(published=str(path))
    write_tables(plan(made, ladder(), settings), tmp_path / "t")
    note = pd.read_csv(tmp_path / "t/ladder.csv").set_index("run").loc["A", "note"]
    assert note == "ViT-B, ImageNet weights, CRF, scales 0.5, 1, mine"


@pytest.mark.parametrize("name", ["voc12", "coco14"])
def test_the_shipped_published_figures_can_be_read(name):
    table = read_published(REPOSITORY / f"config/published/{name}.csv")
    assert quoted(table, "clip-es", name, "segmentation", "val") is not None
    assert quoted(table, "clip-es", "demo", "segmentation", "val") is None
    assert not table.duplicated(["method", "stage", "split"]).any()
    assert set(table["kind"]) <= {"single-stage", "multi-stage", "training-free"}
    assert set(table.loc[table["method"] == "FMA", "models"]) == {"CLIP; SAM"}


def test_that_labels_are_predicted_is_said():
    scored = {"precision": 0.75, "recall": 0.5, "f1": None, "images": 8, "split": "train"}
    assert of_tags("tagclip+x", scored) == (
        "image-level labels are predicted (tagclip+x): precision 75.0%, recall 50.0% of the tags "
        "of 8 images of train"
    )
    assert of_tags("x", None).endswith("; there are no true ones to score them by")


TIMED = "s\th:m:s\tmax_rss\tmax_vms\n"


@pytest.fixture
def costs(tmp_path):
    """Writes the log and the benchmark of a job, and reads the table of costs."""
    settings = content()
    lists = tmp_path / "data/ImageSets/Segmentation"
    lists.mkdir(parents=True)
    for split, number in (("train", 10), ("val", 4)):
        (lists / f"{split}.txt").write_text("\n".join(map(str, range(number))))
    settings["dataset"]["root"] = str(tmp_path / "data")
    return Costs(plan(tmp_path / "results", ladder(), load_config(settings)))


class Costs:
    def __init__(self, made):
        self.plan, self.graph, self.root = made, made.graph, made.root

    def job(self, name, made, seconds=None, memory="9", lines=("ran on X",), at="00:00:00"):
        """A job that made some products; its log is elsewhere than the results."""
        log, file = self.root / f"logs/{name}.log", self.root / f"benchmarks/{name}.tsv"
        made = [f"made elsewhere/{one.sidecar.relative_to(self.root)}" for one in made]
        text = "".join(f"2026-01-01 {at},000 INFO {line}\n" for line in [*lines, *made])
        for path in (log, file):
            path.parent.mkdir(parents=True, exist_ok=True)
        log.write_text(text)
        if seconds is not None:
            file.write_text(f"{TIMED}{seconds}\t0:00:03\t{memory}\t1\n")

    def node(self, run, group):
        return self.graph.paths[run][group]

    def predictions(self, run, seed=0):
        return self.plan.predictions(self.node(run, "inference"), seed, "val")

    def table(self, folder=None):
        write_costs(self.plan, folder)
        table = pd.read_csv((folder or self.root / "tables") / "cost.csv")
        return table.astype(object).where(table.notna(), None)


def test_costs(costs, tmp_path):
    one = "maps/clip-7"
    shards = costs.plan.products(costs.node("cgl", "cam"))
    for shard, seconds, memory in zip(shards, (3, 2), ("900.5", "-"), strict=True):
        name, half = shard.files[0].stem, seconds / 2
        resumed = ("maps: goes on from 3 finished images",) * (seconds == 2)
        lines = (f"maps: 5 images in {half:.3f} s", f"ran on GPU {seconds}", *resumed)
        costs.job(f"{one}/{name}", [shard], seconds, memory, lines, f"00:00:0{seconds}")
    costs.job(f"{one}/0001of0003", [], 8)  # of an earlier number of shards
    training = costs.plan.training(costs.node("cgl", "segmentation"), 1)
    costs.job(costs.graph.training(costs.node("cgl", "segmentation"), 1), [training], 40, "1200")
    costs.job("segmentation/of-no-row/seed0", [], 99)
    costs.job("inference-1", [costs.predictions("cgl", 1)], 8, "1100", (
        "predicting: 10 images in 1.250 s", "predicting: 2 images in 0.250 s", "ran on a GPU",
    ))  # fmt: skip
    costs.job("score", [costs.plan.score("mask", costs.node("crf", "masks"))], 2.5, "300")
    predicted = costs.plan.score("segmentation", costs.node("cgl", "inference"), 1)
    costs.job("score_predictions", [predicted], 0, "3")
    table = costs.table(tmp_path / "out").set_index("folder")
    maps, predicted, every = table.loc[one], table.loc["inference-1"], table.iloc[-1]
    assert maps[["stage", "run", "jobs", "resumed"]].tolist() == ["maps", "softmax", 2, 1]
    assert maps[["images", "seconds", "elapsed_seconds"]].tolist() == [10, 5, 3]
    assert maps[["seconds_an_image", "peak_memory_mb"]].tolist() == [0.25, 900.5]
    # Without the 6.5 seconds in which the job of 8 started.
    assert predicted[["seconds", "startup_seconds"]].tolist() == [8, 6.5]
    assert predicted[["seconds_an_image", "run", "images"]].tolist() == [0.125, "cgl", 4]
    assert every[["stage", "jobs", "resumed", "seconds"]].tolist() == ["all", 6, 1, 55.5]
    assert table.loc[["score", "score_predictions"], "images"].tolist() == [10, 4]
    assert every[["elapsed_seconds", "peak_memory_mb"]].tolist() == [43, 1200]
    # FAULTS 15: not of the whole job, which started too.
    for folder in ("score", "segmentation/" + training.sidecar.parent.parent.name + "/seed1"):
        assert table.loc[folder, "seconds_an_image"] is None is table.loc[folder, "startup_seconds"]
    # Of the jobs, and not of the machine that makes the table.
    assert maps["device"] == "GPU 3; GPU 2"
    assert set(every["device"].split("; ")) == {"GPU 3", "GPU 2", "X", "a GPU"}
    text = (tmp_path / "out/cost.md").read_text()
    assert f"| maps | {one} | softmax | 2 | 1 | 0 | 10 | 5.0 | 3.0 | 2.5 | 0.25 |" in text
    for cut in ("", TIMED, "s\n1\n", "s\tmax_rss\n-\t9\n"):
        (costs.root / "benchmarks/score.tsv").write_text(cut)
        with pytest.raises(InputError, match=r"benchmarks/score\.tsv: no benchmark .*; remove it"):
            costs.table()


def test_costs_of_what_a_later_job_added_are_a_line_of_their_own(costs):
    first, second = costs.predictions("cgl", 0), costs.predictions("cgl", 1)
    costs.job("inference-1", [first], 20, at="00:01:00")
    costs.job("inference-1-2", [second], 3, at="00:02:00")
    table = costs.table().set_index("folder")
    assert table.loc[["inference-1", "inference-1-2"], "seconds"].tolist() == [20, 3]
    assert table.iloc[-1][["jobs", "seconds", "elapsed_seconds"]].tolist() == [2, 23, 23]
    # A job of which nothing is in use any more is no cost of these results.
    costs.job("inference-1-3", [first], 5, at="00:03:00")
    assert costs.table().set_index("folder").iloc[-1][["jobs", "seconds"]].tolist() == [2, 8]
    # Nor is one whose log does not say when it ended, where another does.
    costs.job("inference-0", [first], 4)
    text = (costs.root / "logs/inference-0.log").read_text()
    (costs.root / "logs/inference-9.log").write_text(text.replace("2026-01-01 00:00:00,000 ", " "))
    (costs.root / "logs/inference-0.log").unlink()
    (costs.root / "benchmarks/inference-0.tsv").rename(costs.root / "benchmarks/inference-9.tsv")
    costs.job("inference-1-4", [], 7, lines=["nothing was computed"], at="00:04:00")
    assert costs.table().iloc[-1][["jobs", "seconds"]].tolist() == [2, 8]


def test_no_job_starts_in_less_than_no_time(costs):
    """Snakemake's clock and ours are not one."""
    costs.job("inference-1", [costs.predictions("cgl")], 1, lines=["predicting: 4 images in 1.5 s"])
    assert costs.table().set_index("folder").loc["inference-1", "startup_seconds"] == 0


def test_costs_that_nobody_knows_are_counted(costs):
    assert costs.table().empty
    first, second = costs.predictions("cgl", 0), costs.predictions("cgl", 1)
    costs.job("inference-1", [first], 20)
    costs.job("inference-2", [second])  # not timed
    table = costs.table()
    own = table[table["stage"] == "inference"].set_index("folder")
    assert own.loc["inference-1", ["jobs", "untimed", "seconds"]].tolist() == [1, 0, 20]
    # With that of the other run, which no job has made.
    assert own.loc[None, ["jobs", "untimed", "seconds"]].tolist() == [0, 2, None]
    own = costs.plan
    products = [own.texts_files, own.maps, own.masks, own.trainings, own.val, own.labels]
    every = {one.sidecar for some in (*products, own.scores) for one in some}
    assert table.iloc[-1]["untimed"] == table["untimed"][:-1].sum() == len(every) - 1


def test_elapsed_time_counts_jobs_side_by_side_once_and_no_pause():
    assert elapsed([(0, 10), (5, 12), (100, 101), (6, 7)]) == 13
    assert elapsed([(0, 10), None]) is None
    assert elapsed([]) == 0


def test_costs_of_shared_stages_stand_once_under_the_first_run(costs):
    for node in costs.graph.nodes("masks"):
        for shard in costs.plan.products(node):
            costs.job(f"{node.folder}/{shard.files[0].stem}", [shard], 1)
    table = costs.table()
    assert table.loc[table["jobs"] > 0, ["stage", "run", "jobs"]].values.tolist() == [
        ["masks", "crf", 2],
        ["all", None, 2],
    ]


def snippets():
    text = (REPOSITORY / "docs/results.md").read_text(encoding="utf-8")
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def test_the_documented_snippets_give_the_figures_of_the_table(made, capsys):
    short, intervals = (
        code.replace("results/demo", str(made)).replace("1000", "200") for code in snippets()
    )
    row = lines(made).loc["softmax"]
    exec(short, {})
    assert float(capsys.readouterr().out) == row["initial"]
    for name, stage in (("crf", "mask"), ("all", "segmentation")):
        labels = short.replace('("softmax", "initial", "fixed")', f'("{name}", "{stage}", "fixed")')
        exec(labels.replace('.query("power == 1")', ""), {})
        assert float(capsys.readouterr().out) == lines(made).loc[name, stage]
    space = {}
    exec(intervals, space)
    gap = space["difference"](space["softmax"], space["plain"])
    assert 100 * space["softmax"].interval.low == pytest.approx(row["initial_low"], abs=1e-4)
    assert 100 * gap.interval.high == pytest.approx(row["difference_high"], abs=1e-4)


def test_every_column_is_documented(made):
    text = (REPOSITORY / "docs/results.md").read_text(encoding="utf-8")
    for column in read(made).columns:
        rest = column.partition("_")[2]
        known = {f"`{column}`", f"`…_{rest}`", f"`_{rest}`"}
        assert any(name in text for name in known), column


def test_tables_say_whose_weights_they_are(made, tmp_path):
    text = (made / "tables/ladder.md").read_text()
    assert text.count("- Weights of demo: licence MIT, source trained here") == 1
    assert "% Weights of demo: licence MIT" in (made / "tables/ladder.tex").read_text()
    unknown = config().models["demo"].model_copy(update={"license": None, "source": None})
    settings = config().model_copy(update={"models": {"demo": unknown}})
    write_tables(plan(made, ladder(), settings), tmp_path)
    assert (
        "- Weights of demo: licence unknown, source unknown."
        in (tmp_path / "ladder.md").read_text()
    )


def held_out(**evaluation):
    found = content(**evaluation)
    found["dataset"]["unseen"] = ["dog"]
    return load_config(found)


def test_seen_and_unseen_classes_stand_beside_the_other_figures(tmp_path, made):
    root = tables_of(tmp_path / "demo", ladder(), held_out())
    line, classes = lines(root).loc["all"], read(root, "per_class.csv")
    ious = classes.query("run == 'all' and stage == 'segmentation'").set_index("class")["iou"]
    seen, unseen = ious[["background", "cat"]].mean(), ious["dog"]
    wanted = {"seen": seen, "unseen": unseen, "harmonic": 2 * seen * unseen / (seen + unseen)}
    figures = read(root, "figures.csv").set_index(["run", "stage"]).loc[("all", "segmentation")]
    for part, value in wanted.items():
        assert line[f"segmentation_{part}"] == pytest.approx(value, abs=2e-4)
        assert line[f"segmentation_{part}_low"] < value < line[f"segmentation_{part}_high"]
        assert figures[f"miou_{part}"] == line[f"segmentation_{part}"]
    gap = lines(root).loc["cgl"]
    assert gap["difference_unseen"] == pytest.approx(
        gap["segmentation_unseen"] - line["segmentation_unseen"], abs=2e-4
    )
    assert gap["difference_unseen_low"] < gap["difference_unseen"] < gap["difference_unseen_high"]
    numbers = json.loads((root / "tables/metrics.json").read_text())["all"]
    assert {part: numbers[f"segmentation {part}"] for part in wanted} == {
        part: line[f"segmentation_{part}"] for part in wanted
    }
    text = (root / "tables/ladder.md").read_text("utf-8")
    assert "segmentation, unseen classes" in text
    assert "difference, harmonic mean" in text
    # Nothing else changes, and without such classes there is no such column.
    plain = read(made)
    pd.testing.assert_frame_equal(read(root)[plain.columns], plain)
    assert not any("unseen" in name for name in (*plain.columns, *read(made, "figures.csv")))
    assert "unseen" not in (made / "tables/ladder.md").read_text("utf-8")
    assert "unseen" not in (made / "tables/runs.json").read_text("utf-8")


def test_the_background_may_count_for_nothing_beside_unseen_classes(tmp_path):
    root = tables_of(tmp_path / "demo", ladder(), held_out(unseen_background="ignored"))
    counts = counts_of(root, "all", "segmentation").query("truth != 0")
    value = lines(root).loc["all", "segmentation_seen"]
    hit = counts.query("truth == prediction == 1")["pixels"].sum()
    either = counts.query("truth == 1 or prediction == 1")["pixels"].sum()
    assert value == pytest.approx(100 * hit / either, abs=1e-4)


def test_the_report_says_seen_and_unseen_in_the_cells(tmp_path):
    root = tables_of(tmp_path / "demo", ladder(), held_out())
    table = runs_table(read_csv(root / "tables/ladder.csv"), "ladder")
    labels = [column["label"] for column in table["columns"]]
    row = table["rows"][-1]
    assert re.search(r"unseen \d+\.\d \[", row[labels.index("segmentation")]["extra"])
    assert re.search(r"harmonic [+−]\d+\.\d \[", row[labels.index("difference")]["extra"])


@pytest.mark.parametrize("lines", ["", "1,0.5,0.1,0\n2,0.5,0.1", "2,0.5,0.1,", "2,0.5,0.1,x"])
def test_a_training_log_that_was_cut_off_is_not_read_as_whole(tmp_path, lines):
    # FAULTS 18
    log = tmp_path / "log.csv"
    log.write_text(f"iteration,loss,lr,pixels,of\n{lines}\n")
    with pytest.raises(InputError, match=r"log\.csv: not the log of a training; train again"):
        remarks_of_training(log)
    log.write_text("iteration,loss,lr,pixels,of\n1,0.5,0.1,0,99\n2,0.5,0.1,7,99\n")
    assert remarks_of_training(log) == ["no pixel counted in 1 of 2 updates"]
    log.write_text("iteration,loss,lr,pixels,of\n1,0.5,0.1,9,99\n2,0.5,0,7,99\n3,0.5,0,7,99\n")
    assert remarks_of_training(log) == ["the learning rate is 0 in 2 of 3 updates"]
    for pixels, said in ((9, True), (10, False)):  # of 1000
        log.write_text(f"iteration,loss,lr,pixels,of\n1,0.5,0.1,{pixels},600\n2,0.5,0.1,0,400\n")
        line = "trained on 0.90% of the pixels: the others are ignored or below mu"
        assert (line in remarks_of_training(log)) == said
