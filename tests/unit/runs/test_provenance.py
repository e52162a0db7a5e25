import hashlib
import json
import platform
import re
import subprocess
import sys
import time

from clip_wsss.runs.provenance import (
    LISTED,
    commit,
    hash_inputs,
    portable,
    versions,
    write_provenance,
)


def sha(text):
    return hashlib.sha256(text.encode()).hexdigest()


def git(folder, *arguments):
    name = ["-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", *name, *arguments], cwd=folder, check=True, capture_output=True)


def test_the_file(tmp_path):
    (tmp_path / "cams").mkdir()
    (tmp_path / "cams/1.npz").write_text("maps")
    settings = {"cam": {"target": "softmax"}, "dataset": {"root": str(tmp_path / "data/demo")}}
    out = tmp_path / "metrics/initial.provenance.json"
    write_provenance(out, [tmp_path / "cams/1.npz"], settings, time.time() - 2, tmp_path)
    record = json.loads(out.read_text())
    assert record["commit"] == commit()["commit"]  # of the suite, wherever it runs
    assert record["config"]["values"]["dataset"] == {"root": "data/demo"}
    assert record["inputs"] == {"cams/1.npz": sha("maps")}
    assert record["versions"]["numpy"]
    assert record["device"]
    assert 2 <= record["seconds"] < 60
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", record["finished"])
    assert str(tmp_path) not in out.read_text()
    assert platform.node() not in out.read_text()


def test_the_hash_of_the_settings_does_not_depend_on_where_the_project_lies(tmp_path):
    hashes = set()
    for name in ("one", "two"):
        root = tmp_path / name
        root.mkdir()
        settings = {"b": [1, str(root / "data")], "a": None}
        write_provenance(root / "p.json", [], settings, root=root)
        hashes.add(json.loads((root / "p.json").read_text())["config"]["sha256"])
    write_provenance(tmp_path / "p.json", [], {"a": None, "b": [2, "data"]}, root=tmp_path)
    hashes.add(json.loads((tmp_path / "p.json").read_text())["config"]["sha256"])
    assert len(hashes) == 2


def test_commit_and_whether_the_tree_differs(tmp_path):
    assert commit(tmp_path) == {"commit": None, "changed": None}
    git(tmp_path, "init", "-q")
    (tmp_path / "a").write_text("1")
    git(tmp_path, "add", "a")
    git(tmp_path, "commit", "-q", "-m", "a")
    (tmp_path / "untracked").write_text("1")
    found = commit(tmp_path)
    assert re.fullmatch(r"[0-9a-f]{40}", found["commit"])
    assert found["changed"] is False
    (tmp_path / "a").write_text("2")
    assert commit(tmp_path) == {"commit": found["commit"], "changed": True}


def test_an_installed_package_has_no_commit(monkeypatch):
    monkeypatch.setattr("clip_wsss.runs.provenance.checkout", lambda: None)
    assert commit() == {"commit": None, "changed": None}


def test_many_inputs_have_one_hash_as_of_sha256sum(tmp_path):
    names = [f"{number:03d}.png" for number in range(LISTED + 1)]
    for name in names:
        (tmp_path / name).write_text(name)
    lines = "".join(f"{sha(name)}  {name}\n" for name in names)
    expected = {"files": len(names), "sha256": sha(lines)}
    assert hash_inputs([tmp_path], tmp_path) == expected
    assert hash_inputs([tmp_path / name for name in reversed(names)], tmp_path) == expected
    few = hash_inputs([tmp_path / name for name in names[:2]], tmp_path)
    assert few == {name: sha(name) for name in names[:2]}


def test_no_path_outside_of_the_project_survives(tmp_path):
    settings = {
        "inside": tmp_path / "data",
        "outside": "/srv/someone/VOC2012",
        "home": "~/clip.pt",
        "above": "../data/VOC2012",
        "kept": ["config/vocabularies/voc12.yaml", "a photo of a {}.", 3, None, True, "openai"],
    }
    assert portable(settings, tmp_path) == {
        "inside": "data",
        "outside": "<outside>/VOC2012",
        "home": "<outside>/clip.pt",
        "above": "<outside>/VOC2012",
        "kept": ["config/vocabularies/voc12.yaml", "a photo of a {}.", 3, None, True, "openai"],
    }


def test_versions():
    found = versions()
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert {"clip-wsss", "numpy", "torch"} <= set(found)
