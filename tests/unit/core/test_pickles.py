"""Checkpoints looked into without executing what they hold."""

import argparse
import os
import pickle
import zipfile

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer

from clip_wsss.core.errors import InputError
from clip_wsss.core.pickles import Stored, look_into
from clip_wsss.segmentation.weights import read_state

STATE = {
    "module.a": torch.arange(12.0).reshape(3, 4).T,  # not in the order of memory
    "module.b": torch.nn.Parameter(torch.arange(5, dtype=torch.int64).float()),
    "module.c": torch.tensor([True, False]),
    "module.d": torch.ones(2, dtype=torch.bfloat16),
}
STATE["module.f"] = torch.zeros(0, 3)
STATE["module.e"] = STATE["module.a"][1:, 1]  # a view of the same storage


class Evil:
    """Runs a command when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def mmengine_checkpoint() -> dict:
    """As MMEngine's CheckpointHook writes it: log buffers, the config, numpy's numbers."""
    buffer = HistoryBuffer(np.array([0.5, 0.25]), np.array([1, 1]))
    return {
        "meta": {"epoch": 1, "cfg": argparse.Namespace(lr=1), "seed": np.float64(3)},
        "message_hub": {"log_scalars": {"train/loss": buffer}},
        "state_dict": STATE,
        "optimizer": {"state": {0: {"step": torch.tensor(1.0)}}},
    }


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("wrap", [None, "state_dict", "model"])
def test_names_and_shapes_of_plain_checkpoints(tmp_path, legacy, wrap):
    path = tmp_path / "c.pth"
    content = STATE if wrap is None else {wrap: STATE, "epoch": 3}
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    shapes = {name: one.shape for name, one in look_into(path).items()}
    assert shapes == {"a": (4, 3), "b": (5,), "c": (2,), "d": (2,), "e": (3,), "f": (0, 3)}
    assert all(isinstance(one, Stored) for one in look_into(path).values())
    for name, value in read_state(path).items():
        assert torch.equal(value, STATE[f"module.{name}"])


def test_a_checkpoint_of_mmengine_is_read_as_users_have_it(tmp_path):
    path = tmp_path / "c.pth"
    torch.save(mmengine_checkpoint(), path)
    with pytest.raises(pickle.UnpicklingError):  # torch's own way refuses it
        torch.load(path, weights_only=True)
    found = read_state(path)
    assert found.keys() == set("abcdef")
    for name, value in found.items():
        assert torch.equal(value, STATE[f"module.{name}"]), name
        assert value.dtype == STATE[f"module.{name}"].dtype


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("place", ["beside", "inside", "whole"])
def test_nothing_that_a_checkpoint_names_is_called(tmp_path, legacy, place):
    path, ran = tmp_path / "c.pth", tmp_path / "ran"
    content = {
        "beside": {"state_dict": STATE, "meta": Evil(ran)},
        "inside": STATE | {"x": Evil(ran)},
        "whole": Evil(ran),
    }[place]
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    if place == "beside":
        assert look_into(path).keys() == set("abcdef")
        if legacy:
            with pytest.raises(InputError, match="holds other objects beside tensors"):
                read_state(path)
        else:
            assert read_state(path).keys() == set("abcdef")
    else:
        for read in (look_into, read_state):
            with pytest.raises(InputError, match="holds no state dict") as caught:
                read(path)
            assert "\n" not in str(caught.value)
    assert not ran.exists()


def test_files_that_are_no_checkpoints_are_one_line(tmp_path):
    path = tmp_path / "c.pth"
    bad = tmp_path / "damaged.pth"
    torch.save(mmengine_checkpoint(), path)
    bad.write_bytes(path.read_bytes()[:-300])
    script = tmp_path / "script.pth"
    torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), script)
    plain = tmp_path / "plain.pth"
    plain.write_bytes(pickle.dumps({"a": 1}))
    numbers = tmp_path / "numbers.pth"
    torch.save({"a": 1}, numbers)
    empty = tmp_path / "empty.pth"
    empty.write_bytes(b"")
    cut = tmp_path / "cut.pth"  # without the values of a tensor
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(cut, "w") as new:
        for name in old.namelist():
            if not name.endswith("data/0"):
                new.writestr(name, old.read(name))
    tensors = tmp_path / "own.safetensors"
    tensors.write_bytes(b"8\0\0\0\0\0\0\0{}")
    page = tmp_path / "page.pth"
    page.write_bytes(b"<!DOCTYPE html>")
    for file, message in {
        tensors: "is a file of safetensors; save its tensors with torch.save",
        page: r"not a checkpoint that can be read \(not a pickle\)",
        bad: "not a checkpoint that can be read|is not a file of torch.save",
        script: "is a TorchScript model",
        plain: "is not a file of torch.save",
        numbers: "holds no state dict",
        empty: "not a checkpoint that can be read",
        tmp_path: "cannot be read",
    }.items():
        with pytest.raises(InputError, match=message) as caught:
            look_into(file)
        assert "\n" not in str(caught.value)
        assert str(caught.value).startswith(str(file))
    with pytest.raises(InputError, match="not a checkpoint that can be read"):
        read_state(cut)
