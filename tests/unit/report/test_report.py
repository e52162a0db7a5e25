import csv
import io
import json
import re
from dataclasses import replace
from html import unescape
from types import SimpleNamespace

import pandas as pd
import pytest
import synthetic

from clip_wsss.core.archives import MASKS, EncodedImage, write_archive
from clip_wsss.core.errors import InputError
from clip_wsss.core.files import write_json
from clip_wsss.core.maps import read_maps, write_maps
from clip_wsss.report import gallery, views
from clip_wsss.report.classes import heatmaps
from clip_wsss.report.ladder import ladder
from clip_wsss.report.opening import answer, best_lines, opening
from clip_wsss.report.relations import across, best, comparison, labels_of, pairs, predictions_of
from clip_wsss.report.results import Results
from clip_wsss.report.tables import DIFFERS, difference_cell, plain_table, runs_table
from clip_wsss.report.write import DOCS, _start, write_report
from clip_wsss.runs.table import Run
from clip_wsss.tables.write import write_tables

PROVENANCE = {"commit": "0123abc", "changed": False, "versions": {"torch": "2.9"}, "gone": None}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    made = synthetic.build(tmp_path_factory.mktemp("report"))
    write_tables(made.plan)
    return made


def report_of(made, out, **changes) -> str:
    made = made.changed(**changes)
    write_report(made.plan, made.dataset, out, PROVENANCE)
    return out.read_text(encoding="utf-8")


def with_settings(made, group, **settings):
    """The config with other settings in one of its groups."""
    part = getattr(made.config, group).model_copy(update=settings)
    return made.config.model_copy(update={group: part})


@pytest.fixture(scope="module")
def html(made, tmp_path_factory):
    return report_of(made, tmp_path_factory.mktemp("page") / "report.html")


@pytest.fixture(scope="module")
def data(html):
    return data_of(html)


def data_of(html: str) -> dict:
    return json.loads(
        re.search(r'<script type="application/json" id="data">(.*?)</script>', html)[1]
    )


@pytest.fixture(scope="module")
def frame(made):
    return pd.read_csv(made.root / "tables/ladder.csv")


def test_the_page_loads_nothing_and_is_small(html):
    assert len(html) < 1_000_000
    assert all(source.startswith("data:") for source in re.findall(r' src="([^"]*)"', html))
    assert re.findall(r'<link[^>]* href="([^"]*)"', html) == ["data:,"]
    assert "@import" not in html
    assert "url(http" not in html
    addresses = set(re.findall(r'"(https?://[^"]*)', html))
    assert "https://arxiv.org/abs/2212.09506" in addresses
    # Papers to go to, and the names of XML's languages, which nobody asks for.
    assert all(
        one.startswith(("https://arxiv.org/abs/", "http://www.w3.org/")) for one in addresses
    )


def test_the_docs_that_are_linked_are_there(html):
    linked = set(re.findall(f'href="{re.escape(DOCS)}/([^"]*)"', html))
    assert {"results.md", "ablation.md", "settings.md"} <= linked
    assert all((synthetic.REPOSITORY / "docs" / name).is_file() for name in linked)


def test_every_picture_is_there_once_and_used(html, data):
    used = set()
    for items in data["panels"].values():
        used |= {cell for item in items for cell in item["cells"].values()}
        used |= {key for item in items for maps in item["maps"].values() for key in maps.values()}
    for groups in data["extremes"].values():
        items = [item for group in groups for item in group["best"] + group["worst"]]
        used |= {cell for item in items for cell in item["cells"].values()}
        used |= {key for item in items for maps in item["maps"].values() for key in maps.values()}
    keys = {cell for cell in used if not cell.startswith("!")}
    assert keys == set(data["pictures"])
    assert len(set(data["pictures"].values())) == len(data["pictures"])
    assert html.count("base64,") == len(data["pictures"])


def test_every_run_has_its_panels_and_extremes(made, data):
    assert list(data["panels"]) == [run.name for run in made.runs] == data["runs"]
    assert all(len(items) == 4 for items in data["panels"].values())
    assert [group["title"] for group in data["extremes"]["seg-cgl"]] == [
        "Pseudo labels, train",
        "Segmentation, val",
    ]
    best, worst = (data["extremes"]["crf"][0][side] for side in ("best", "worst"))
    scores = [float(item["score"].removeprefix("IoU ").rstrip("%")) for item in best + worst[::-1]]
    assert scores == sorted(scores, reverse=True)
    assert data["start"] == "seg-cgl"


def test_figures_of_the_ladder_are_those_of_the_table(html, frame):
    for line in frame.dropna(subset="miou").to_dict("records"):
        assert f">{line['miou']:.1f}</span>" in html or f">{line['miou']:.1f} <small>as" in html
    chart = ladder(frame)
    assert [row["name"] for row in chart["rows"]] == frame["run"].tolist()
    assert [axis["title"] for axis in chart["axes"]] == [
        "pseudo labels: train, 6 images",
        "segmentation: val, 4 images",
    ]
    labels, trained = chart["rows"][-1]["tracks"]
    assert [mark["stage"] for mark in labels["marks"]] == ["initial", "refined", "mask"]
    assert [mark["stage"] for mark in trained["marks"]] == ["segmentation"]
    places = [(mark["left"], frame[mark["stage"]].iloc[-1]) for mark in labels["marks"]]
    (left0, value0), (left1, value1) = min(places), max(places)
    for left, value in places:  # one linear axis for all labels
        along = (value - value0) / (value1 - value0)
        assert left == pytest.approx(left0 + along * (left1 - left0), abs=0.02)
    ticks = chart["axes"][0]["ticks"]
    for tick in ticks:  # which its ticks are on
        along = (float(tick["text"]) - value0) / (value1 - value0)
        assert tick["left"] == pytest.approx(left0 + along * (left1 - left0), abs=0.05)
    for row in chart["rows"]:
        for mark in (mark for track in row["tracks"] if track for mark in track["marks"]):
            assert mark["low"] >= 0
            assert mark["low"] + mark["width"] <= 100


def test_labels_that_are_the_same_are_said_to_be(frame):
    tracks = {row["name"]: row["tracks"][0] for row in ladder(frame)["rows"]}
    assert {name: track["as"] for name, track in tracks.items() if track["as"]} == {
        "seg-cgl": "crf"
    }


def test_without_a_segmentation_there_is_one_axis(frame):
    chart = ladder(frame[frame["run"] != "seg-cgl"].assign(segmentation=float("nan")))
    assert [axis["title"] for axis in chart["axes"]] == ["pseudo labels: train, 6 images"]
    assert all(len(row["tracks"]) == 1 for row in chart["rows"])


def test_runs_table_says_what_differs_and_by_how_much(frame):
    table = runs_table(frame, "ladder")
    labels = [column["label"] for column in table["columns"]]
    assert labels[:4] == ["run", DIFFERS, "split (images)", "seed"]
    softmax = dict(zip(labels, table["rows"][1], strict=True))
    assert softmax[DIFFERS]["text"] == "plain: target: logit → softmax"
    assert softmax["split (images)"]["text"] == "train (6)"
    line = frame.iloc[1]
    assert softmax["difference"]["value"] == line["difference"]
    noise = "more than noise" if line["more_than_noise"] == "yes" else "within noise"
    assert noise in softmax["difference"]["extra"]
    last = dict(zip(labels, table["rows"][-1], strict=True))
    assert last["seed"]["text"] == "0 1"
    assert softmax["seed"]["text"] == "–", "nothing was trained"
    assert "over seeds" in last["segmentation"]["extra"]
    assert last["split (images)"]["text"] == "train (6)\nval (4)"
    assert pd.read_csv(io.StringIO(table["csv"]))["run"].tolist() == table["runs"]


def test_any_run_can_be_the_base(made, frame):
    rows = Results(made.plan, made.dataset).rows
    found = pairs(rows)
    assert {base: set(runs) for base, runs in found.items()} == {
        base: set(rows) - {base} for base in rows
    }
    for line in frame.dropna(subset="difference").to_dict("records"):
        assert found[line["base"]][line["run"]] == comparison(line)
    there, back = found["plain"]["crf"], found["crf"]["plain"]
    assert there["value"] == -back["value"] != 0
    score = made.plan.graph.scores(made.runs[3])["mask"][0]
    crf = json.loads((made.root / score).read_text())["miou"]
    score = made.plan.graph.scores(made.runs[0])["initial"][0]
    plain = json.loads((made.root / score).read_text())["powers"]["1"]
    assert there["value"] == pytest.approx(100 * (crf - plain), abs=1e-3)
    assert there["of"] == "mask \N{MINUS SIGN} initial"
    assert "target: logit → softmax" in there["differs"]
    assert found["crf"]["seg-cgl"]["note"] == "all figures in common are the same"


def test_pairs_of_too_many_runs_are_not_in_the_page(made, monkeypatch):
    monkeypatch.setattr("clip_wsss.report.relations.MOST_PAIRED", 4)
    assert pairs(Results(made.plan, made.dataset).rows) == {}


def test_a_difference_says_noise_and_why_there_is_none():
    line = {
        "base": "a",
        "differs": "x: 1 -> 2",
        "difference": -1.25,
        "difference_low": -2,
        "difference_high": -0.5,
        "more_than_noise": "yes",
        "difference_of": "mask - refined",
    }
    said = comparison(line)
    assert said["text"] == "\N{MINUS SIGN}1.2"
    assert difference_cell(said)["extra"] == (
        "[\N{MINUS SIGN}2.0, \N{MINUS SIGN}0.5]\nmore than noise\nmask \N{MINUS SIGN} refined"
    )
    none = comparison({"base": "a", "differs": "", "difference_note": "same settings as its base"})
    assert difference_cell(none)["extra"] == "same settings as its base"
    assert difference_cell(comparison({"base": None, "differs": ""}))["extra"] == ""


def test_runs_without_a_common_base_are_set_against_those_most_like_them(tmp_path):
    rows = synthetic.ladder()
    crf = {group: rows[3].cell(group) for group in ("texts", "cam", "affinity", "masks")}
    other = crf | {"texts": "clip-es"}
    runs = [
        *rows,
        Run("clip-es", None, **other, table="ladder", segmentation="cgl", inference="default"),
        Run("corrected", "clip-es", **crf | {"affinity": "corrected"}, table="ladder"),
    ]
    made = synthetic.build(tmp_path, runs=runs)
    found = across(Results(made.plan, made.dataset).rows)
    assert [(line["run"], line["base"], line["of"]) for line in found] == [
        ("clip-es", "crf", "mask"),
        ("clip-es", "seg-cgl", "segmentation"),
        ("corrected", "crf", "mask"),
    ]
    assert found[0]["differs"] == found[1]["differs"]
    assert found[0]["differs"].startswith("template: sharpest (a clean origami {}.) → a clean")
    assert found[2]["differs"] == "layers: 3 → 8"
    assert across(Results(synthetic.build(tmp_path / "b").plan, made.dataset).rows) == []


def test_the_best_run_its_ties_and_those_within_noise(made):
    rows = Results(made.plan, made.dataset).rows
    labels = best(rows.values(), labels_of)
    values = {name: labels_of(row).value for name, row in rows.items()}
    assert labels.figure.value == max(values.values())
    ties = [name for name, value in values.items() if value == labels.figure.value]
    assert list(labels.runs) == ties
    gaps = pairs(rows)[ties[0]]
    within = [name for name, gap in gaps.items() if "value" in gap and not gap["sure"]]
    assert set(labels.near) <= set(within)
    assert best(rows.values(), predictions_of).runs == ("seg-cgl",)
    assert best([rows["crf"]], predictions_of) is None
    lines = best_lines(replace(labels, runs=("a", "b"), near=("c",)))
    assert lines[0].startswith("a, interval ")
    assert lines[1:] == ["tie with b", "within noise of it: c"]


def test_runs_that_share_their_labels_share_a_column_of_the_heat_map(made):
    results = Results(made.plan, made.dataset)
    labels, predictions = heatmaps(results.rows, results.seen)
    assert labels["runs"][0] == "plain"
    assert any("crf, seg-cgl" in name for name in labels["runs"])
    assert len(labels["rows"]) == 21
    assert predictions["runs"] == ["seg-cgl"]
    assert all(len(row["cells"]) == len(labels["runs"]) for row in labels["rows"])


def test_classes_have_their_iou_images_and_change(made):
    results = Results(made.plan, made.dataset)
    labels, predictions = heatmaps(results.rows, results.seen)
    per_class = pd.read_csv(made.root / "tables/per_class.csv").set_index(["run", "stage", "class"])
    base, own = (per_class.loc[run, "iou"].loc[stage]
                 for run, stage in (("caa", "refined"), ("crf", "mask")))  # fmt: skip
    place = labels["runs"].index("crf, seg-cgl")
    assert labels["bases"][place] == "caa"
    assert labels["bases"][0] == "" != labels["bases"][1]
    truths = [made.dataset.mask(name) for name in made.dataset.ids("train")]
    for number, row in enumerate(labels["rows"]):
        assert row["images"] == sum((truth == number).any() for truth in truths)
        cell = row["cells"][place]
        if row["images"] == 0:
            assert cell is None
            continue
        assert cell["value"] == pytest.approx(own[row["name"]], abs=1e-3)
        change = own[row["name"]] - base[row["name"]]
        assert cell["change"]["value"] == pytest.approx(change, abs=1e-3)
        low, high = map(float, re.findall(r"[+-]?\d+\.\d", cell["change"]["tip"].replace(
            "\N{MINUS SIGN}", "-"))[1:])  # fmt: skip
        if abs(low) > 0.1 and abs(high) > 0.1:  # the tip is rounded
            assert cell["change"]["sure"] == (low > 0 or high < 0)
        assert row["cells"][0]["change"] is None
    assert not predictions["changed"]  # crf, its base, has no segmentation
    table = pd.read_csv(io.StringIO(labels["csv"]))
    line = table[(table["runs"] == "crf seg-cgl") & (table["class"] == "background")].iloc[0]
    assert line["change"] == pytest.approx(own["background"] - base["background"], abs=1e-3)


def test_details_are_drawn_once_for_the_runs_that_share_them(made):
    parts = views.details(Results(made.plan, made.dataset))
    assert [part["runs"] for part in parts] == [[0], [1], [2], [3, 4], [4]]
    titles = [chart["title"] for chart in parts[3]["charts"]]
    assert titles == [
        "Confusion",
        "Object size",
        "Number of classes",
        "Is the confidence right?",
        "What a threshold keeps",
    ]
    assert parts[4]["title"] == "Segmentation, val, 4 images, seed 0"


def test_templates_are_ranked_and_scattered_once_enough_were_measured(made):
    results = Results(made.plan, made.dataset)
    (ranking,) = views.rankings(results)
    assert ranking["title"] == "Texts synonyms"
    assert [row["template"] for row in ranking["rows"]] == list(synthetic.TEMPLATES)
    assert [row["chosen"] for row in ranking["rows"]] == [True, False, False]
    assert [row["left"] for row in ranking["rows"]] == [0, 50, 100]
    assert ranking["scatters"] == []


def test_sharpness_is_drawn_against_miou_where_templates_were_measured(tmp_path, monkeypatch):
    content = synthetic.content(tmp_path)
    for number, template in enumerate(synthetic.TEMPLATES):
        content["texts"][f"t{number}"] = content["texts"]["synonyms"] | {"template": template}
        monkeypatch.setitem(synthetic.NOISE, f"t{number}", 0.3 + 0.2 * number)
    rows = synthetic.ladder()
    runs = [rows[2], *(replace(rows[1], name=f"t{n}", texts=f"t{n}", base=None) for n in range(3))]
    made = synthetic.build(tmp_path, runs=runs, settings=content)
    results = Results(made.plan, made.dataset)
    (ranking,) = views.rankings(results)
    (scatter,) = ranking["scatters"]
    assert scatter["svg"].count("<circle") == 3
    info = results.info(results.files["t2"]["initial"][0])
    assert f"{synthetic.TEMPLATES[2]} {info['powers']['1']:.1%}" in scatter["svg"]


def test_the_demo_is_called_a_worked_example_and_other_data_are_not(made, html, tmp_path):
    assert "not an independent confirmation" in html
    config = with_settings(made, "dataset", source="voc12")
    assert "not an independent confirmation" not in report_of(
        made, tmp_path / "r.html", config=config
    )


def test_provenance_names_what_is_known(made, html):
    assert "0123abc" in html
    assert "torch 2.9" in html
    assert "uncommitted changes</dt><dd>no" in html
    assert "gone" not in html
    assert "time of all jobs" not in html
    assert "of the trainings 0, 1, of the resampling 0" in html
    path = made.plan.graph.paths["seg-cgl"]
    assert f"<code>{path['masks'].folder}/</code>" in html
    assert f"score/segmentation/{path['inference'].name}/seed1/score.json" in html


@pytest.mark.parametrize("untimed", [0, 7])
def test_costs_are_shown_with_their_sum(made, tmp_path, untimed):
    path = made.root / "tables/cost.csv"
    path.write_text(
        "stage,untimed,seconds,elapsed_seconds,startup_seconds,peak_memory_mb,device\n"
        "cams,0,90.5,90.5,12.5,,A\nmasks,0,59.5,40,,812.25,A\n"
        f"all,{untimed},150,96,,812.25,A\n"
    )
    try:
        html = report_of(made, tmp_path / "r.html")
    finally:
        path.unlink()
    assert "time of all jobs</dt><dd>1.6 minutes elapsed, 2.5 minutes summed" in html
    assert ("summed, without that of 7 files</dd>" in html) is bool(untimed)
    assert ("7 files are of jobs that are not known" in html) is bool(untimed)
    assert "device of all jobs</dt><dd>A</dd>" in html
    assert '<button type="button">startup seconds' in html
    assert ">12.5</td>" in html
    assert 'id="cost"' in html
    assert ">90.5</td>" in html
    assert "<p>A. Seconds of all jobs" in html


def test_published_figures_are_called_quoted(made, tmp_path):
    published = str(synthetic.REPOSITORY / "config/published/voc12.csv")
    config = with_settings(made, "evaluation", published=published)
    html = report_of(made, tmp_path / "r.html", config=config)
    assert "Published figures, quoted" in html
    assert '<a href="#published">Quoted</a> <strong>70.8</strong> CLIP-ES on voc12 train' in html


def test_without_ground_truth_there_are_pictures(tmp_path):
    made = synthetic.build(tmp_path, masks=False)
    html = report_of(made, tmp_path / "report.html")
    data = data_of(html)
    assert "nothing is scored" in html
    assert 'class="rung"' not in html
    for items in data["panels"].values():
        assert all(item["cells"]["truth"] == "!no ground truth" for item in items)
        assert all(item["cells"]["mask"] in data["pictures"] for item in items)
    assert all(groups == [] for groups in data["extremes"].values())


def test_names_and_notes_are_no_markup(made, tmp_path):
    note = "<!--<script></script><b>bold</b>"  # FAULTS 12
    runs = [replace(run, note=note) for run in made.runs]
    html = report_of(made, tmp_path / "r.html", runs=runs)
    assert data_of(html)["notes"]["plain"] == note
    assert "<b>bold" not in html
    assert "<!--" not in html


def test_odd_names_of_runs_and_rows_like_their_base(tmp_path):
    # FAULTS 11, 12
    names = ["=1+1", "NA", "01", "<b>", "a|b"]
    bases = [None, *names[:-1]]
    cells = ["photo", "plain"], ["photo", "plain"], ["sharpest", "softmax"], ["photo", "softmax"]
    rows = [
        Run(name, base, *cell, note=name, table="ladder")
        for name, base, cell in zip(names, bases, [*cells, cells[-1]], strict=True)
    ]
    made = synthetic.build(tmp_path, runs=rows)
    write_tables(made.plan)
    html = report_of(made, tmp_path / "r.html")
    assert data_of(html)["runs"] == names
    assert html.count("<small> same settings as its base</small>") == 2  # NA, and the last
    assert "sharpest (a clean origami {}.)" in html
    assert "<b>" not in html
    saved = [
        unescape(text) for text in re.findall(r"<pre hidden[^>]*>(.*?)</pre>", html, re.DOTALL)
    ]
    cells = [cell for text in saved for row in csv.reader(io.StringIO(text)) for cell in row]
    assert "'=1+1" in cells  # of what the page saves no spreadsheet computes a name
    assert not [cell for cell in cells if cell.startswith("=")]


def test_what_was_counted_beside_the_figures_is_shown(html):
    # FAULTS 1
    assert "<li>train: intervals over 6 images, fewer than 30, mean little.</li>" in html
    assert "no ground truth of" in html


def test_many_runs_are_chosen_from_a_list(made, tmp_path):
    more = [replace(made.runs[3], name=f"crf{n}", table="ladder") for n in range(14)]
    html = report_of(made, tmp_path / "r.html", runs=[*made.runs, *more])
    assert '<select name="run-of-panels">' in html


def test_pictures_shrink_until_the_page_can_be_mailed(made, tmp_path, monkeypatch):
    before = len(report_of(made, tmp_path / "r.html"))
    monkeypatch.setattr(gallery, "PICTURES", 60_000)
    monkeypatch.setattr(gallery, "SMALLEST", 8)
    html = report_of(made, tmp_path / "r.html")
    assert sum(map(len, data_of(html)["pictures"].values())) <= 60_000
    assert len(html) < before


def test_the_same_results_give_the_same_page(made, html, tmp_path):
    assert report_of(made, tmp_path / "r.html") == html


def test_a_missing_table_is_named(made, tmp_path):
    runs = [replace(run, table="other") for run in made.runs]
    with pytest.raises(InputError, match=r"other\.csv: missing; run snakemake"):
        report_of(made, tmp_path / "r.html", runs=runs)


def test_a_missing_measurement_is_named(made, tmp_path):
    runs = [*made.runs, replace(made.runs[0], name="new", texts="clip-es")]
    with pytest.raises(InputError, match=r"score/initial/.*sidecar\.json: missing, so make it"):
        report_of(made, tmp_path / "r.html", runs=runs)


def test_a_measurement_of_another_plan_is_refused(made, tmp_path):
    config = with_settings(made, "evaluation", powers=[1.0, 2.5])
    with pytest.raises(InputError, match=r"sidecar\.json: made with numerics"):
        report_of(made, tmp_path / "r.html", config=config)


def test_final_labels_are_a_stage_where_a_run_has_them(data, tmp_path):
    assert "labels" not in [stage["key"] for stage in data["stages"]]
    own = synthetic.build(tmp_path, runs=[synthetic.online(), *synthetic.ladder()[-1:]])
    write_tables(own.plan)
    html = report_of(own, tmp_path / "report.html")
    shown = data_of(html)
    assert [stage["key"] for stage in shown["stages"]][-2:] == ["labels", "prediction"]
    assert 'style="--stages: 8"' in html
    groups = {group["title"]: group for group in shown["extremes"]["weclip"]}
    assert list(groups) == ["Pseudo labels, train", "Final labels, train", "Segmentation, val"]
    best = groups["Final labels, train"]["best"][0]
    assert best["cells"]["labels"] in shown["pictures"]
    assert groups["Final labels, train"]["stages"] == ["image", "truth", "labels"]
    frame = pd.read_csv(own.root / "tables/ladder.csv")
    frame = frame[frame["kind"] == "measured"]
    table = runs_table(frame, "ladder")
    place = [column["label"] for column in table["columns"]].index("final labels")
    cells = [row[place] for row in table["rows"]]
    assert cells[0]["value"] == frame["labels"].iloc[0]
    assert "over seeds" in cells[0]["extra"]
    assert cells[1]["text"] == "–"
    tracks = ladder(frame)["rows"][0]["tracks"]
    assert [track["marks"][-1]["stage"] for track in tracks] == ["labels", "segmentation"]
    assert f"Final labels, train, {frame['images'].iloc[0]} images, seed 0" in html


def test_left_out_images_are_listed(tmp_path):
    made = synthetic.build(tmp_path, runs=synthetic.ladder()[3:4])
    write_tables(made.plan)
    node = made.plan.graph.paths["crf"]["masks"]
    path = made.root / made.plan.graph.shard_file(node, "0001of0002")
    write_archive(path, MASKS, [EncodedImage("bad_one", skipped="truncated")])
    html = report_of(made, tmp_path / "r.html")
    assert "Left out of the scores: bad_one." in html
    for item in data_of(html)["panels"]["crf"]:
        there = item["id"] not in made.dataset.ids("train")[:3]  # those of the other shard
        assert (item["cells"]["mask"] != "!no pseudo mask") is there


def test_warnings_of_the_check_are_shown(tmp_path):
    made = synthetic.build(tmp_path, runs=synthetic.ladder()[:1])
    write_tables(made.plan)
    assert "The check of the data" not in report_of(made, tmp_path / "r.html")
    write_json(made.root / "data/check.json", {"warnings": ["split <b>: 3 images"]})
    html = report_of(made, tmp_path / "r.html")
    assert "The check of the data: 1 warning</summary>" in html
    assert "<li>split &lt;b&gt;: 3 images</li>" in html


def test_left_out_images_are_listed_without_masks(tmp_path):
    content = synthetic.content(tmp_path)
    content["dataset"]["on_bad_image"] = "skip"
    made = synthetic.build(tmp_path, runs=synthetic.ladder()[:1], settings=content)
    write_tables(made.plan)
    shard = made.plan.graph.shard_file(made.plan.graph.paths["plain"]["cam"], "0001of0002")
    write_maps(made.root / shard, read_maps(made.root / shard), {"bad_one": "truncated"})
    assert "Left out of the scores: bad_one." in report_of(made, tmp_path / "r.html")


def test_rows_that_lack_any_stage(tmp_path):
    none = {"table": "ladder", "segmentation": "all-pixels", "inference": "default"}
    rows = synthetic.ladder()
    runs = [
        *rows,
        Run("full", "seg-cgl", masks="ground-truth", **none),
        Run("twin", "crf", *(rows[3].cell(g) for g in ("texts", "cam", "affinity", "masks")),
            table="ladder"),
        Run("true", None, masks="ground-truth", table="ladder"),
        Run("untested", "full", masks="ground-truth", table="ladder", segmentation="all-pixels"),
    ]  # fmt: skip
    made = synthetic.build(tmp_path, runs=runs)
    write_tables(made.plan)
    html = report_of(made, tmp_path / "r.html")
    data = data_of(html)
    assert list(data["panels"]) == [run.name for run in runs]
    assert data["start"] == "seg-cgl"
    for item in data["panels"]["full"]:
        assert item["cells"]["initial"].startswith("!")
        assert item["cells"]["mask"] in data["pictures"]
    assert data["extremes"]["true"] == []
    assert "All but those on ground truth learn from image-level labels alone." in html
    assert "The demo shows that methods run; it does not rank them. " in html
    line = pd.read_csv(made.root / "tables/ladder.csv").set_index("run").loc["seg-cgl"]
    assert f"{line['segmentation_of_full']:.1f} % of full supervision" in html
    best = html[html.index("Best segmentation, mIoU") :]
    assert best[: best.index("</dd>")].count("seg-cgl") == 1
    assert "<small> same settings as its base</small>" in html


def test_the_first_sentence_says_what_helped():
    rows = [("a", 4.44, "yes"), ("b", -1.0, "yes"), ("c", 0.1, "no"), ("d", 8.0, "yes")]
    frame = pd.DataFrame(rows, columns=["run", "difference", "more_than_noise"])
    base = pd.DataFrame({"run": ["base"], "difference": [float("nan")], "more_than_noise": [None]})
    assert answer({"x": pd.concat([base, frame])}) == (
        "Better than their base: d +8.0 points of mIoU, a +4.4; worse: b \N{MINUS SIGN}1.0; "
        "within noise: c. "
    )
    worse = frame[frame["run"] == "b"]
    assert answer({"x": worse}) == "Worse: b \N{MINUS SIGN}1.0 points of mIoU. "
    assert answer({"x": frame}, most=1).startswith(
        "Better than their base: d +8.0 points of mIoU and 1"
    )
    assert answer({"x": base}) == answer({}) == ""


@pytest.mark.parametrize(
    ("low", "high", "sure", "words"),
    [
        (-3.7, -0.04, "yes", "[−3.70, −0.04]"),
        (0.004, 1.0, "yes", "[+0.004, +1.000]"),
        (-3.7, -0.06, "yes", "[−3.7, −0.1]"),
        (-3.7, 0.04, "no", "[−3.7, 0.0]"),
    ],
)
def test_an_interval_that_excludes_0_does_not_show_one(low, high, sure, words):
    line = {"base": "a", "differs": "", "difference": -2.0, "difference_low": low,
            "difference_high": high, "more_than_noise": sure, "difference_of": "mask"}  # fmt: skip
    assert comparison(line)["interval"] == words


def test_an_online_training_does_not_come_first_for_its_final_labels():
    masks = ["initial", "refined", "mask", "segmentation"]
    files = {"crf": masks[:3], "best": masks, "online": [*masks, "labels"]}
    results = SimpleNamespace(runs=[SimpleNamespace(name=name) for name in files], files=files)
    frame = pd.DataFrame({"run": list(files), "miou": [76.0, 70.0, 61.0]})
    assert _start(results, {"ladder": frame}) == "best"


def test_one_run(tmp_path):
    made = synthetic.build(tmp_path, runs=synthetic.ladder()[:1])
    write_tables(made.plan)
    html = report_of(made, tmp_path / "r.html")
    assert (
        "of the demo, measured after every stage. It learns from image-level labels alone." in html
    )
    assert html.count('class="rung"') == 1


def test_all_images_are_no_split_by_name():
    run, masks = SimpleNamespace(name="mine"), SimpleNamespace(source="maps")
    splits = SimpleNamespace(pseudo="all", val=None)
    results = SimpleNamespace(
        config=SimpleNamespace(dataset=SimpleNamespace(splits=splits)),
        dataset=SimpleNamespace(name="holiday", ids=lambda split: ["a", "b", "c"]),
        graph=SimpleNamespace(settings={"mine": SimpleNamespace(masks=masks)}),
        runs=[run],
        scored=False,
    )
    said = opening(results, {}, demo=False)
    assert said["lead"] == (
        "One run on the 3 images of holiday. It learns from image-level labels alone."
    )
    assert said["tiles"] == [{"label": "Images", "value": "3", "lines": []}]


def test_unlabelled_pixels_are_a_column_of_the_confusion_matrix(tmp_path):
    labels = tmp_path / "theirs"
    labels.mkdir()
    (labels / "any.png").write_bytes(b"a label")
    content = synthetic.content(tmp_path)
    content["masks"]["theirs"] = {"source": "import", "folder": str(labels)}
    runs = [Run("import", None, masks="theirs", table="ladder")]
    made = synthetic.build(tmp_path, runs=runs, settings=content)
    write_tables(made.plan)
    html = report_of(made, tmp_path / "r.html")
    assert "labelled unlabelled" not in html
    assert "It has masks made elsewhere." in html
    file = (made.root / made.plan.graph.scores(runs[0])["mask"][0]).with_name("counts.parquet")
    counts = pd.read_parquet(file)
    counts.loc[counts["truth"] == 0, "prediction"] = 255
    counts.to_parquet(file, index=False)
    results = Results(made.plan, made.dataset)
    (part,) = views.details(results)
    assert "100.0% of background labelled unlabelled" in part["charts"][0]["svg"]


def test_any_csv_can_be_shown():
    table = plain_table(
        pd.DataFrame({"stage": ["cams", None], "peak_memory_mb": [1234.5, None], "none": None}),
        "cost",
        "",
    )
    assert [column["label"] for column in table["columns"]] == ["stage", "peak memory, MB"]
    assert table["rows"][0][1] == {
        "text": "1,234", "extra": "", "value": 1234.5, "number": True
    }  # fmt: skip
    assert [cell["text"] for cell in table["rows"][1]] == ["–", "–"]


def test_the_files_of_a_run_say_whose_weights_they_are(made, html):
    rows = html.count("<dt>weights of demo</dt><dd>licence MIT, source trained here")
    assert rows == sum(run.cam is not None for run in made.plan.graph.runs)
