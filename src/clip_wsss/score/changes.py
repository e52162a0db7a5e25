"""In words, what one run's settings change against another's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from clip_wsss.runs.config import GROUPS
from clip_wsss.runs.graph import Graph
from clip_wsss.runs.nodes import Node
from clip_wsss.runs.provenance import portable
from clip_wsss.runs.settings import UNSAID, Cam, Masks, Segmentation, Settings, Texts
from clip_wsss.runs.table import Run

Entries = dict[str, dict[str, Any] | None]


def entries(graph: Graph, run: Run) -> Entries:
    """What a run is made with, stage by stage; None for a stage that it does not have.

    Returns:
        group -> label (of its folder), settings (those that it uses) and identity (what its key
        is made of, so that a changed file is seen). No name of an entry and no path outside the
        project is in it.
    """
    settings, path = graph.settings[run.name], graph.paths[run.name]
    found: Entries = {}
    for group in GROUPS:
        node, chosen = path.get(group), getattr(settings, group)
        found[group] = None
        if node is not None:
            used = _used(graph, chosen, node)
            found[group] = portable(
                {"label": node.label, "settings": used, "identity": node.identity}
            )
    return found


def changes(old: Entries, new: Entries, groups: Sequence[str] = GROUPS) -> list[str]:
    """List what differs, `target: logit -> softmax` each, in the order of the settings.

    A stage that only one of the two has is named with what it is, `masks: none -> crf`; settings
    that only one of the two uses are passed over, as those of a CRF that the other does not run.
    A key of several groups is named with its group.
    """
    words = []
    for group in groups:
        before, after = old[group], new[group]
        if before is None or after is None:
            labels = ["none" if one is None else one["label"] for one in (before, after)]
            # Plain inference goes without saying where a segmentation comes or goes.
            comes = (old["segmentation"] is None) is not (new["segmentation"] is None)
            if before is not after and not (group == "inference" and comes and "plain" in labels):
                words.append(f"{group}: {labels[0]} -> {labels[1]}")
            continue
        if before["identity"] == after["identity"]:
            continue
        others = _keys(old, group) | _keys(new, group)
        flat_before, flat_after = _flat(before["settings"]), _flat(after["settings"])
        common = {
            key: f"{group} {key}" if key in others else key
            for key in flat_before
            if key in flat_after
        }
        if all(one.get("ranked_names") == one.get("names") for one in (flat_before, flat_after)):
            common.pop("ranked_names", None)  # each ranks with its own names
        # Where the settings are the same it is the content of a file that they name.
        own = _differences(flat_before, flat_after, common) + _comes(before, after)
        words += own or flat_changes({group: before["identity"]}, {group: after["identity"]})
    return words


def _comes(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """What only one of two trainings says, and the other one does without."""
    found = []
    for key, unsaid in UNSAID.items():
        pair = [one["settings"].get(key, unsaid) for one in (before, after)]
        if unsaid in pair or key == "teacher":  # of whose parts only one may have some
            words = [_in_a_word(one) for one in pair]
            found += flat_changes({key: words[0]}, {key: words[1]})
    return found


def _in_a_word(said: Any) -> Any:
    """Settings of a text head by its background, those of a teacher by its parts."""
    if not isinstance(said, dict):
        return said
    parts = ", ".join(key for key, value in said.items() if isinstance(value, dict))
    return said.get("background", parts)


def flat_changes(old: dict, new: dict) -> list[str]:
    """List every setting that differs, with its whole dotted key."""
    before, after = _flat(old), _flat(new)
    return _differences(before, after, {key: key for key in {**before, **after}})


def _used(graph: Graph, settings: Settings, node: Node) -> dict[str, Any]:
    """The settings that decide something, with what the names in them stand for."""
    used = settings.model_dump()
    if isinstance(settings, Texts):
        template = node.identity["template"]
        if template != "sharpest":  # a template that is named outright is not ranked
            template = template[0] if len(template) == 1 else template
            used = {key: used[key] for key in ("names", "background")}
        else:
            used["ranked_names"] = used["ranked_names"] or used["names"]
        used = {"template": template, **{k: v for k, v in used.items() if k != "template"}}
    if isinstance(settings, Cam):
        used["model"] = graph.config.models[settings.model].model_dump()
    if isinstance(settings, Masks):
        used = {key: used[key] for key in ("source", *used)}
        makes = {"maps": {"refinement", settings.refinement.rpartition(":")[2], "background_power",
                         "scores"},
                 "import": {"folder", "confidences"}}.get(settings.source, set())  # fmt: skip
        makes = {"source", *makes}
        used = {key: value for key, value in used.items() if key in makes}
    if isinstance(settings, Segmentation):
        used["mu"] = settings.threshold
        if settings.loss == "cross-entropy" or settings.labels == "online":
            del used["mu"]
        if settings.labels == "masks":
            del used["online"]
        for key, unsaid in UNSAID.items():
            if used[key] == unsaid:
                del used[key]
    return used


def _keys(run: Entries, without: str) -> set[str]:
    """Keys of all settings of a run but for those of one group."""
    others = (run[group] for group in GROUPS if group != without)
    return {key for one in others if one is not None for key in _flat(one["settings"])}


def _differences(before: dict, after: dict, names: dict[str, str]) -> list[str]:
    return [
        f"{name}: {_word(before, key)} -> {_word(after, key)}"
        for key, name in names.items()
        if before.get(key) != after.get(key)
    ]


def _flat(entry: dict, prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in entry.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def _word(flat: dict, key: str) -> str:
    value = flat.get(key)
    if isinstance(value, bool) or value is None:
        return str(value).lower() if value is not None else "none"
    if isinstance(value, float):
        return f"{value:g}"
    if value == []:
        return "none"
    if isinstance(value, list):
        return f"{len(value)} templates" if key == "template" else ", ".join(map(_item, value))
    return str(value)


def _item(value: Any) -> str:
    """A value of a list; settings in it as a cell would say them."""
    if not isinstance(value, dict):
        return str(value)
    return " ".join(f"{key}={_word(value, key)}" for key in value if value[key] is not None)
