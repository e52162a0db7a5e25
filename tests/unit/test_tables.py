import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest
from made_results import REPOSITORY, config, ladder, run, write_results

from clip_wsss.bootstrap import interval, nan_mean, resampled_iou, tally
from clip_wsss.costs import write_costs
from clip_wsss.errors import InputError
from clip_wsss.published import quoted, read_published
from clip_wsss.tables import write_tables

HEAD = "method,stage,split,miou,source,note\n"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The results folder of the ladder, with its tables."""
    root = tmp_path_factory.mktemp("results") / "demo"
    write_results(root, ladder(), config())
    write_tables(ladder(), config(), root, root / "tables")
    return root


def read(root, name="ladder.csv"):
    return pd.read_csv(root / "tables" / name, keep_default_na=False, na_values=[""])


def lines(root):
    return read(root).set_index("run")


def counts_of(root, file, power=None):
    table = pd.read_parquet(root / f"{file}.parquet")
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
    maps = counts_of(made, "metrics/photo/plain/initial,power=1", 1)
    assert table.loc["plain", "initial"] == pytest.approx(by_hand(maps), abs=1e-4)
    masks = counts_of(made, "metrics/photo/softmax/caa-crf/mask")
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
        tally(counts_of(made, f"metrics/photo/{cam}/initial,power=1", 1),
              [f"i{n:02d}" for n in range(12)], 3)
        for cam in ("softmax", "plain")
    ]  # fmt: skip
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
    assert pd.isna(table.loc["plain", "difference_of"])
    assert table.loc["softmax", "difference_of"] == "initial"
    assert table.loc["caa", "difference_of"] == "refined - initial"
    assert table.loc["crf", "difference_of"] == "mask - refined"
    assert pd.isna(table.loc["all", "difference"])  # the same masks, and a base without segmentor
    assert table.loc["cgl", "difference_of"] == "segmentation"


def test_seeds_are_one_row_with_mean_and_deviation(made):
    seeds = [
        by_hand(counts_of(made, f"metrics/photo/softmax/caa-crf/cgl/seed{n}/segmentation"))
        for n in (0, 1)
    ]
    row = lines(made).loc["cgl"]
    assert row["segmentation"] == pytest.approx(np.mean(seeds), abs=1e-4)
    assert row["segmentation_sd"] == pytest.approx(np.std(seeds, ddof=1), abs=1e-4)
    assert row["seeds"] == "0 1"
    assert row["noise_covers"] == "images"  # its base has one seed
    assert "± " in (made / "tables/ladder.md").read_text()
    assert r"$\pm$ " in (made / "tables/ladder.tex").read_text()


def test_oracle_figures_are_labelled(tmp_path):
    runs = [
        run("fixed", None, masks="initial"),
        run("oracle", "fixed", masks="initial,scoring=oracle"),
    ]
    write_results(tmp_path, runs, config())
    write_tables(runs, config(), tmp_path, tmp_path / "tables")
    table = lines(tmp_path)
    assert table.loc["fixed", "miou"] == table.loc["fixed", "initial"]
    assert table.loc["oracle", "initial"] == table.loc["fixed", "initial"]
    assert table.loc["oracle", "miou"] == table.loc["oracle", "initial_oracle"]
    assert table.loc["oracle", "scoring"] == "oracle"
    assert table.loc["oracle", "initial_oracle_power"] == 2
    assert table.loc["oracle", "difference_of"] == "initial oracle - initial"
    assert "(oracle " in (tmp_path / "tables/ladder.md").read_text()


def test_a_power_of_the_run_s_own(tmp_path):
    runs = [run("two", None, masks="initial,background_power=2")]
    write_results(tmp_path, runs, config())
    write_tables(runs, config(), tmp_path, tmp_path / "tables")
    row = lines(tmp_path).loc["two"]
    assert (row["initial_power"], row["initial"]) == (2, row["initial_oracle"])
    figures = pd.read_csv(tmp_path / "tables/figures.csv")
    assert list(figures["scoring"]) == ["fixed", "oracle"], "named apart at one and the same power"
    assert list(figures["headline"]) == ["yes", "no"]
    runs = [run("three", None, masks="initial,background_power=3")]
    write_results(tmp_path, runs, config())
    with pytest.raises(InputError, match=r"background_power: 3 was not counted \(there: 1, 2\)"):
        write_tables(runs, config(), tmp_path, tmp_path / "tables")


def test_a_missing_measurement_is_named(tmp_path):
    with pytest.raises(
        InputError, match=r"metrics/photo/plain/initial,power=1\.json: no such file"
    ):
        write_tables(ladder(), config(), tmp_path, tmp_path / "tables")


def test_the_same_bytes_twice(made, tmp_path):
    write_tables(ladder(), config(), made, tmp_path)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == sorted(path.name for path in (made / "tables").iterdir())
    for name in names:
        assert (tmp_path / name).read_bytes() == (made / "tables" / name).read_bytes()


def test_without_ground_truth_there_are_tables_without_figures(tmp_path):
    settings = config()
    settings["dataset"]["masks"] = None
    write_tables(ladder(), settings, tmp_path, tmp_path / "tables")
    assert lines(tmp_path)["differs"].notna().sum() == 5
    assert json.loads((tmp_path / "tables/metrics.json").read_text())["cgl"] == {}


def test_every_figure_names_its_files(made):
    figures = read(made, "figures.csv")
    for _, row in figures.iterrows():
        values = []
        for file in row["files"].split():
            info = json.loads((made / file).read_text())
            values.append(
                info["powers"][str(row["power"]).removesuffix(".0")]
                if info["powers"]
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
    runs = [run("a_b", None, texts="photo"), run("c&d", "a_b", texts="sharpest")]
    write_results(tmp_path, runs, config())
    write_tables(runs, config(), tmp_path, tmp_path / "tables")
    text = (tmp_path / "tables/ladder.tex").read_text()
    assert r"a\_b" in text
    assert r"c\&d" in text
    assert r"a photo of a \{\}. $\to$ sharpest" in text
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
    write_tables(ladder(), config(published=str(publish(tmp_path))), made, tmp_path / "tables")
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
    write_tables(ladder(), config(published=str(publish(tmp_path, "voc12"))), made, tmp_path / "t")
    table = pd.read_csv(tmp_path / "t/ladder.csv")
    assert table["refined_quoted"].isna().all()
    assert table[table["kind"] == "quoted"]["split"].tolist() == ["voc12 train", "voc12 val"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("method,miou\n", "the columns must be method, stage"),
        (HEAD + "a,crf,train,70,b,\n", "line 2: unknown stage `crf`"),
        (HEAD + "a,mask,train,x,b,\n", "line 2: miou: `x` is no percentage"),
        (HEAD + "a,mask,train,70,,\n", "line 2: source: a quoted figure needs one"),
    ],
)
def test_published_figures_are_checked(tmp_path, text, message):
    path = tmp_path / "voc12.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_published(path)


def test_a_missing_file_of_published_figures_is_named(tmp_path):
    with pytest.raises(InputError, match=r"evaluation\.published: there is no file"):
        read_published(tmp_path / "no.csv")


@pytest.mark.parametrize("name", ["voc12", "coco14"])
def test_the_shipped_published_figures_can_be_read(name):
    table = read_published(REPOSITORY / f"config/published/{name}.csv")
    assert quoted(table, "clip-es", name, "segmentation", "val") is not None
    assert quoted(table, "clip-es", "demo", "segmentation", "val") is None


def test_costs(made, tmp_path):
    settings = config()
    lists = tmp_path / "data/ImageSets/Segmentation"
    lists.mkdir(parents=True)
    for split, number in (("train", 10), ("val", 4)):
        (lists / f"{split}.txt").write_text("\n".join(map(str, range(number))))
    settings["dataset"].update(root=str(tmp_path / "data"))
    settings["dataset"]["vocabulary"] = str(REPOSITORY / "config/vocabularies/voc12.yaml")
    settings["compute"]["device"] = "cpu"
    shutil.copytree(made, tmp_path / "results")
    head = "s\th:m:s\tmax_rss\tmax_vms\n"
    for path, seconds, memory in (
        ("cams/photo/softmax/0001of0002", 3.0, "900.5"),
        ("cams/photo/softmax/0001of0003", 8.0, "999.0"),  # of an earlier number of shards
        ("cams/photo/softmax/0002of0002", 2.0, "-"),
        ("segmentation/photo/softmax/caa-crf/cgl/seed1/train", 40, "1200"),
        ("segmentation/photo/softmax/caa-crf/cgl/seed1/predict", 8, "1100"),
    ):
        file = tmp_path / f"results/costs/{path}.tsv"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{head}{seconds}\t0:00:03\t{memory}\t1\n")
    write_costs(ladder(), settings, tmp_path / "results", tmp_path / "out")
    table = pd.read_csv(tmp_path / "out/cost.csv").set_index("stage")
    assert table.index.tolist() == ["cams", "training", "prediction"]
    assert table.loc["cams", ["run", "jobs", "images", "seconds"]].tolist() == ["softmax", 2, 10, 5]
    assert table.loc["cams", ["seconds_an_image", "peak_memory_mb"]].tolist() == [0.5, 900.5]
    assert table.loc["prediction", "seconds_an_image"] == 2
    assert pd.isna(table.loc["training", "seconds_an_image"])
    assert table["device"].nunique() == 1
    assert (
        "| cams | photo/softmax | softmax | 2 | 10 | 5.0 | 0.5 |"
        in (tmp_path / "out/cost.md").read_text()
    )


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
    for stage in ("crf/mask", "crf/cgl/seed1/segmentation"):
        labels = short.replace("photo/softmax/initial,power=1", f"photo/softmax/caa-{stage}")
        exec(labels.replace('.query("power == 1")', ""), {})
        info = json.loads((made / f"metrics/photo/softmax/caa-{stage}.json").read_text())
        assert float(capsys.readouterr().out) == round(100 * info["miou"], 4)
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
