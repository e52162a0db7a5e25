"""One name means one thing, and what many ask has one home."""

import ast
from collections import defaultdict
from pathlib import Path

import clip_wsss

ROOT = Path(clip_wsss.__file__).parent
TREES = {
    path.relative_to(ROOT).as_posix(): ast.parse(path.read_bytes())
    for path in sorted(ROOT.rglob("*.py"))
    if path.relative_to(ROOT).parts[0] != "project"
}
# Called by their module: `voc.build`, `sidecar.check`; the commands of `python -m`.
SHARED = {"main", "build", "check"}


def test_a_public_function_or_class_has_a_name_of_its_own():
    places = defaultdict(set)
    for place, tree in TREES.items():
        for node in tree.body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].add(place)
    assert len(places) > 500
    twice = {name: where for name, where in places.items() if len(where) > 1}
    assert twice.keys() <= SHARED, twice


def test_what_a_bad_image_does_is_decided_in_one_place():
    found = {
        place
        for place, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and node.value == "on_bad_image"
    }
    # `graph` has it in the keys, `api` sets it.
    assert found == {"data/bad_images.py", "runs/graph.py", "api.py"}


def test_constants_of_the_field_have_one_home():
    homes = defaultdict(list)
    for place, tree in TREES.items():
        for node in tree.body:
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
                homes[ast.unparse(node.targets[0])].append((place, node.value.value))
    assert homes["IGNORE"] == [("data/vocabulary.py", 255)]
    assert homes["MU"] == [("core/confidence.py", 0.95)]
