"""Initial weights: where they come from, and what their tensors are called here."""

import hashlib
import re
import zipfile
from http.client import HTTPException
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import torch
import torchvision
from mmengine.runner.checkpoint import get_external_models
from torch import Tensor, nn
from tqdm import tqdm

from clip_wsss.core.errors import InputError, one_line
from clip_wsss.core.files import atomic_path
from clip_wsss.core.pickles import Stored, look_into, state_dict
from clip_wsss.core.resources import find, is_file, missing
from clip_wsss.core.spelling import unknown

RANDOM = "random"  # none
MOST = 20e9  # bytes of a download: an address does not say how many there are
REQUIRED = "required"  # in a segmentor's file: the run must say


def fetch_initial(init: str | None) -> Path | None:
    """Bring initial weights to a local file.

    Args:
        init: a file; `https://...#sha256=<hex>`, with at least the first 8 digits of the
            checksum, if the file's name does not end with them as torchvision's and OpenMMLab's do;
            `torchvision://ResNet101_Weights.IMAGENET1K_V1` or another of torchvision's weights;
            `open-mmlab://resnet50_v1c`; `random` or None for none.

    Returns:
        The file, in torch's hub cache if it was downloaded; None if there are no weights.

    Raises:
        InputError: a missing file, an unknown name, no checksum or a wrong one, no network.
    """
    found = locate_initial(init)
    return _download(*found) if isinstance(found, tuple) else found


def locate_initial(init: str | None) -> Path | tuple[str, str] | None:
    """Where initial weights are, before anything is downloaded.

    Args:
        init: as of `fetch_initial`.

    Returns:
        The local file, or the address of another and at least the first 8 digits of its checksum;
        None if there are no weights.

    Raises:
        InputError: a missing file, an unknown name, no checksum.
    """
    if init is None or init == RANDOM:
        return None
    if init == REQUIRED:
        raise InputError(
            "segmentation.init: this segmentor starts from weights that its run must name (see the "
            "comment in the segmentor's file); set init to the file or address, or to random"
        )
    address, _, checksum = init.partition("#sha256=")
    if init.startswith("open-mmlab://"):
        name, known = init.removeprefix("open-mmlab://"), get_external_models()
        if name not in known:
            raise InputError(f"init: {init}: {unknown('name of OpenMMLab', name, known)}")
        address = known[name]
    elif init.startswith("torchvision://"):
        name = init.removeprefix("torchvision://")
        try:
            if "." in name:
                address = torchvision.models.get_weight(name).url
            else:  # MMEngine's way to say it
                address = torchvision.models.get_model_weights(name).IMAGENET1K_V1.url
        except (ValueError, TypeError, KeyError, AttributeError):
            raise InputError(
                f"init: {init}: torchvision has no such weights; an example is "
                "torchvision://ResNet101_Weights.IMAGENET1K_V1"
            ) from None
    elif "://" not in init:
        if not is_file(init):
            raise InputError(f"init: {missing(init)}; get it, or set init to random")
        return find(init)
    if not checksum and (found := re.search(r"-([0-9a-f]{8,})\.\w+$", address)):
        checksum = found[1]  # PyTorch's and OpenMMLab's files have it in their names
    if not re.fullmatch(r"[0-9a-f]{8,64}", checksum):
        raise InputError(
            f"init: {init}: an address needs its checksum; append #sha256= and the digits"
        )
    return address, checksum


def _download(address: str, checksum: str) -> Path:
    target = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlsplit(address).path).name
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():
        found = hashlib.sha256(target.read_bytes()).hexdigest()
        if not found.startswith(checksum):
            raise InputError(f"{target}: its sha256 is {found}, not {checksum}; delete the file")
        return target
    digest, length = hashlib.sha256(), 0
    try:
        request = Request(address, headers={"User-Agent": "clip-wsss"})
        with (
            atomic_path(target) as part,
            urlopen(request, timeout=60) as answer,
            part.open("wb") as file,
            tqdm(unit="B", unit_scale=True, desc=target.name, disable=None) as bar,
        ):
            while chunk := answer.read(2**20):
                length += len(chunk)
                if length > MOST:
                    raise InputError(
                        f"init: {address}: goes on after {MOST / 1e9:.0f} GB, which no weights "
                        "have; download it by hand and set init to the local file"
                    )
                digest.update(chunk)
                file.write(chunk)
                bar.update(len(chunk))
            if not digest.hexdigest().startswith(checksum):
                raise InputError(
                    f"init: {address}: its sha256 is {digest.hexdigest()}, not {checksum}; correct "
                    "the address or the checksum"
                )
    except (OSError, HTTPException) as error:
        raise InputError(
            f"init: {address} cannot be downloaded ({one_line(error)}); download it on another "
            "machine and set init to the local file"
        ) from None
    return target


def load_initial(model: nn.Module, path: Path) -> None:
    """Load a backbone, or a whole segmentor, into a model.

    The backbone must fit in every tensor; of the heads whatever fits is taken, since the
    classes may be others.

    Args:
        model: an MMSegmentation segmentor.
        path: a state dict in the names of torchvision, of MMSegmentation (a backbone's or a whole
            segmentor's), or of kazuto1011/deeplab-pytorch.

    Raises:
        InputError: the file is not a state dict, or does not fit the backbone.
    """
    state = read_state(path)
    if not any(name.startswith("backbone.") for name in state):
        state = {f"backbone.{_torchvision_name(name)}": value for name, value in state.items()}
    own = model.state_dict()
    for name, value in own.items():
        if name.startswith("backbone.") and not name.endswith("num_batches_tracked"):
            if name not in state:
                raise InputError(f"init: {path} does not fit the segmentor: it has no {name}")
            if state[name].shape != value.shape:
                raise InputError(
                    f"init: {path} does not fit the segmentor: {name} is "
                    f"{tuple(state[name].shape)}, {tuple(value.shape)} is needed"
                )
    fitting = {k: v for k, v in state.items() if k in own and v.shape == own[k].shape}
    if not fitting:
        raise InputError(
            f"init: {path} does not fit the segmentor: none of its tensors has a place there; "
            "leave init out, or name another file"
        )
    for name, value in fitting.items():
        if value.is_floating_point() != own[name].is_floating_point():
            raise InputError(
                f"init: {path}: {name} is {value.dtype} where {own[name].dtype} is wanted; save it "
                "as floating point"
            )
        if value.is_floating_point() and not value.isfinite().all():
            raise InputError(f"init: {path}: {name} holds NaN or infinity; get the file again")
    if not any(value.any() for value in fitting.values() if value.ndim > 1):
        raise InputError(f"init: {path}: every matrix is all zero; get the file again")
    model.load_state_dict(fitting, strict=False)


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint, which may lie below `state_dict` or `model`.

    Nothing that the file names is called: what is neither a tensor nor a plain value (the log
    buffers of MMEngine's checkpoints) is left out.

    Raises:
        InputError: the file is missing, damaged, or holds anything else.
    """
    if not Path(path).is_file():
        raise InputError(f"{path}: no such checkpoint")
    try:
        return state_dict(torch.load(path, map_location="cpu", weights_only=True), path, Tensor)
    except InputError:
        raise
    except Exception:  # pickle, zip and torch each have their own
        stored = look_into(path)  # says what is wrong with a file that cannot be read at all
    if not zipfile.is_zipfile(path):
        raise InputError(
            f"{path}: holds other objects beside tensors, in the format of PyTorch before 1.6; "
            "save its state_dict with a newer one"
        )
    try:
        with zipfile.ZipFile(path) as archive:
            return _loaded(archive, stored)
    except Exception as error:
        reason = one_line(error)
        raise InputError(f"{path}: not a checkpoint that can be read ({reason})") from None


_STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


def _loaded(archive: zipfile.ZipFile, stored: dict[str, Stored]) -> dict[str, Tensor]:
    """The values of tensors that were looked into; torch itself loads none beside other objects."""
    files = {Path(name).name: name for name in archive.namelist() if "/data/" in f"/{name}"}
    order = next((name for name in archive.namelist() if Path(name).name == "byteorder"), None)
    if order is not None and archive.read(order) != b"little":
        raise ValueError("its bytes are in the order of another machine")
    storages, found = {}, {}
    for name, one in stored.items():
        if one.key not in storages:
            data, kind = bytearray(archive.read(files[one.key])), _STORAGES[one.kind]
            storages[one.key] = (
                torch.frombuffer(data, dtype=kind) if data else torch.empty(0, dtype=kind)
            )
        found[name] = storages[one.key].as_strided(one.shape, one.stride, one.offset)
    return found


_UNITS = {"reduce": 1, "conv3x3": 2, "increase": 3}


def _torchvision_name(name: str) -> str:
    """The name that torchvision and MMSegmentation have for a tensor of kazuto1011's ResNet.

    layer1.conv1.conv.weight -> conv1.weight; layer2.block1.reduce.bn.bias -> layer1.0.bn1.bias;
    other names stay as they are.
    """
    name = re.sub(r"^(base|scale)\.", "", name)
    if stem := re.fullmatch(r"layer1\.conv1\.(conv|bn)\.(\w+)", name):
        return f"{stem[1]}1.{stem[2]}"
    unit = re.fullmatch(r"layer(\d)\.block(\d+)\.(\w+)\.(conv|bn)\.(\w+)", name)
    if not unit:
        return name
    layer, block, part, kind, value = unit.groups()
    place = f"layer{int(layer) - 1}.{int(block) - 1}"
    if part in ("shortcut", "proj"):
        return f"{place}.downsample.{0 if kind == 'conv' else 1}.{value}"
    return f"{place}.{kind}{_UNITS[part]}.{value}"
