"""A tiny data set with image-level labels, and rows that train on it with labels made online."""

import random

import numpy as np
import torch
import yaml
from clip_cases import make_openai_state_dict, small_config, write_model
from mmengine import Config
from mmengine.runner import Runner
from mmseg.registry import DATASETS
from segmentation_case import SEGMENTORS, Case

from clip_wsss.core.files import sha256
from clip_wsss.core.methods import with_methods
from clip_wsss.labels.online import OnlineSettings, resolved
from clip_wsss.labels.weclip import LabelSettings
from clip_wsss.segmentation import transforms, warmup_poly
from clip_wsss.segmentation.hooks import latest_checkpoint
from clip_wsss.segmentation.segmentor import build_model, read_segmentor
from clip_wsss.segmentation.train import train
from clip_wsss.segmentation.weclip import data
from clip_wsss.segmentation.weclip import segmentor as weclip_segmentor

REGISTERED = (transforms, warmup_poly, data, weclip_segmentor)
ENTRY = {"loss": "balanced", "mu": 0.0}


class OnlineCase(Case):
    """`Case` with image-level labels, a small random CLIP and text features."""

    def __init__(self, root):
        super().__init__(root, images=6)
        rows = [f"{name},{('cat', 'dog')[i % 2]}" for i, name in enumerate(self.ids)]
        rows[0] = f"{self.ids[0]},cat;dog"
        (root / "labels.csv").write_text("\n".join(["image,labels", *rows]) + "\n")
        self.dataset |= {"labels": str(root / "labels.csv")}
        config = small_config(patch=8, side=4)
        self.clip = write_model(root, config, make_openai_state_dict(config))
        generator = np.random.default_rng(0)
        texts = [generator.normal(size=(n, 24)).astype(np.float32) for n in (2, 3)]
        texts = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in texts]
        np.savez(root / "texts.npz", foreground=texts[0], background=texts[1])

    def online(self, **changes) -> Config:
        segmentor = read_segmentor(SEGMENTORS / "online/weclip-vitb16.yaml")
        segmentor.model.backbone = self.clip
        segmentor.model.data_preprocessor["size"] = (32, 32)
        segmentor.model.decode_head |= {"channels": 16, "layers": 1, "heads": 2}
        segmentor.model.texts = str(self.root / "texts.npz")
        segmentor.model.labels = {"dynamic_start": 2, "par": {"dilations": [1, 2]}, **changes}
        segmentor.train_pipeline[2]["size"] = 32
        segmentor.train_pipeline[3]["crop_size"] = 32
        return segmentor

    def model(self, **changes):
        torch.manual_seed(0)
        return build_model(self.online(**changes), ENTRY, 3, "weclip")

    def samples(self, seed: int = 0):
        pipeline = [*self.online().train_pipeline, {"type": "PackSegInputs"}]
        return DATASETS.build(
            {
                "type": "ImageLabelDataset",
                "settings": self.dataset,
                "split": "val",
                "seed": seed,
                "pipeline": pipeline,
            }
        )

    def fit(self, work, iterations: int, resume: bool = False, batch: int = 4):
        """Train as `clip_wsss.segmentation.train` does."""
        segmentor = self.online()
        runner = Runner(
            model=self.model(),
            work_dir=str(work),
            train_dataloader={
                "dataset": self.samples(),
                "sampler": {"type": "CountingSampler"},
                "batch_size": batch,
                "num_workers": 0,
            },
            train_cfg={"type": "ResumableLoop", "max_iters": iterations},
            optim_wrapper=segmentor.optim_wrapper,
            param_scheduler=[{"end": 6, "accumulate": 1, **segmentor.param_scheduler[0]}],
            default_hooks={
                "checkpoint": {"type": "CheckpointHook", "by_epoch": False, "interval": 3},
                **dict.fromkeys(("timer", "logger", "sampler_seed", "runtime_info")),
            },
            custom_hooks=[{"type": "SeedHook", "seed": 0}, {"type": "PlainCheckpointHook"}],
            load_from=str(latest_checkpoint(work)) if resume else None,
            resume=resume,
            randomness={"seed": 0, "deterministic": True},
            log_level="ERROR",
            default_scope="mmseg",
            experiment_name=str(random.random()),
        )
        runner.train()
        return {name: value.clone() for name, value in runner.model.state_dict().items()}


DEMO = SEGMENTORS.parents[1] / "src/clip_wsss/demo/clip"
WORDS = {"templates": ["a photo of a {}."], "names": ["cat", "dog"], "words": ["sky", "grass"]}


def online(**settings) -> OnlineSettings:
    """Settings of labels made online, with those of the maker that they name."""
    return with_methods(OnlineSettings, settings)(**settings)


def row_of(
    case: OnlineCase,
    own: OnlineSettings | None = None,
    affinity: dict | None = None,
    **labels,
) -> dict:
    """An entry as the graph makes it, on the demo's CLIP: 6 updates, a checkpoint every 2."""
    content = yaml.safe_load((SEGMENTORS / "online/weclip-demo.yaml").read_text())
    content["model"]["data_preprocessor"]["size"] = [32, 32]
    content["model"]["decode_head"] |= {"channels": 16, "layers": 1, "heads": 2}
    if labels:
        content["model"]["labels"] = labels
    content["train_pipeline"] = [
        {"type": "RandomCrop", "crop_size": 32},
        {"type": "RandomFlip", "prob": 0.5},
    ]
    content["train_dataloader"] = {"batch_size": 2}
    content["checkpoint_interval"] = 2
    path = case.root / f"{'own' if labels else 'weclip'}.yaml"
    path.write_text(yaml.safe_dump(content))
    affinity = affinity or LabelSettings().model_dump() | {"layers": 2}
    masks = {"background_power": 1.0, "refinement": "par", "par": {"dilations": [1, 2]}}
    clip = {
        "architecture": str(DEMO / "model.json"),
        "weights": str(DEMO / "demo-clip.safetensors"),
        "round_weights": "none",
        "precision": "float32",
        "position_embedding": {"resize": "bilinear", "round": "none"},
    }
    own = own or online(dynamic_start=2, validation_every=0)
    row = {"clip": clip, "texts": WORDS, "split": "val"}
    return case.entry | {
        "segmentor": str(path),
        "loss": "balanced",
        "mu": 0.0,
        "labels": "online",
        "online": row
        | resolved(own, {"cam": {"target": "softmax"}, "affinity": affinity, "masks": masks}),
    }


def train_row(case: OnlineCase, out, entry: dict, **changes) -> str:
    """Train on the CPU; the checkpoint's hash."""
    places = {"work_dir": out / "work", "checkpoint": out / "c.pth", "log": out / "log.csv"}
    train(entry, case.dataset, [], 0, **places, device="cpu", **changes)
    return sha256(out / "c.pth")
