from pathlib import Path

import pytest

from clip_wsss.imports import files_of

SOURCE = Path(__file__).parents[2] / "src"


def _write(folder, files):
    for name, text in files.items():
        path = folder / "clip_wsss" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def test_a_module_is_made_of_what_it_imports(tmp_path):
    _write(
        tmp_path,
        {
            "__init__.py": "",
            "a.py": "import numpy\nfrom clip_wsss.b import x\n",
            "b.py": "def f():\n    from clip_wsss.part import c\n",
            "part/__init__.py": "",
            "part/c.py": "import clip_wsss.a\n",
            "typed.py": "if TYPE_CHECKING:\n    from clip_wsss.a import y\n",
            "other.py": "",
        },
    )
    found = {
        str(Path(file).relative_to(tmp_path / "clip_wsss"))
        for file in files_of("a", source=tmp_path)
    }
    assert found == {"a.py", "b.py", "part/__init__.py", "part/c.py"}
    assert len(files_of("typed", source=tmp_path)) == 1


def test_cams_depend_on_the_gradients_and_tables_on_no_model():
    cams = {Path(file).name for file in files_of("cam", "clip", source=SOURCE)}
    assert {"cam.py", "gradcam.py", "affinity.py", "clip.py", "clip_weights.py"} <= cams
    assert "refine.py" not in cams, "a new mask refinement costs no CAM"
    assert "train.py" not in {Path(file).name for file in files_of("tables", source=SOURCE)}


def test_an_unknown_module_is_an_error():
    with pytest.raises(FileNotFoundError):
        files_of("nothing", source=SOURCE)
