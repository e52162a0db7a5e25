"""In words, what one run's settings change against another's."""

from typing import Any

from clip_wsss.config import GROUPS
from clip_wsss.runs import Run, resolve

# Settings that rank templates say nothing where a template is named outright.
_RANKING = ("templates", "score", "spread")

Entries = dict[str, dict[str, Any] | None]  # group -> {"cell": ..., "settings": {...}}


def entries(config: dict, run: Run) -> Entries:
    """Return cell and settings of every group of a run; None for a stage that it does not have."""
    cells = {group: run.cell(group) for group in GROUPS}
    return {
        group: cell and {"cell": cell, "settings": resolve(config, group, cell)}
        for group, cell in cells.items()
    }


def changes(old: Entries, new: Entries) -> list[str]:
    """List what differs, `target: logit -> softmax` each, in the order of the settings.

    Settings of an option that one of the two does not use are passed over: with `affinity: none`
    against `caa` the words are `affinity: none -> caa`, without CAA's own settings. A key of
    several groups is named with its group.
    """
    words = []
    for group in GROUPS:
        before, after = old[group], new[group]
        if before is None or after is None:
            if before is not after:
                names = [one["cell"] if one else "none" for one in (before, after)]
                words.append(f"{group}: {names[0]} -> {names[1]}")
            continue
        before, after = before["settings"], after["settings"]
        flat_before, flat_after = _used(before, after), _used(after, before)
        for key in {**flat_before, **flat_after}:
            if flat_before.get(key) != flat_after.get(key):
                name = f"{group} {key}" if _ambiguous(key, group, old, new) else key
                words.append(f"{name}: {_word(flat_before, key)} -> {_word(flat_after, key)}")
    return words


def flat_changes(old: dict, new: dict) -> list[str]:
    """List every setting that differs, with its whole dotted key."""
    before, after = _flat(old), _flat(new)
    return [
        f"{key}: {_word(before, key)} -> {_word(after, key)}"
        for key in {**before, **after}
        if before.get(key) != after.get(key)
    ]


def _ambiguous(key: str, group: str, *runs: Entries) -> bool:
    others = [run[other] for run in runs for other in GROUPS if other != group]
    return any(entry and key in entry["settings"] for entry in others)


def _used(entry: dict, other: dict) -> dict[str, Any]:
    """Flatten an entry to dotted keys, without the settings of options that are not in common."""
    unused = {
        key
        for key, value in entry.items()
        if isinstance(value, dict)
        and (_chosen(entry, key) or _chosen(other, key))
        and not (_chosen(entry, key) and _chosen(other, key))
    }
    ranked = entry.get("template") == other.get("template") == "sharpest"
    if "template" in entry and not ranked:
        unused |= set(_RANKING)
    return _flat({key: value for key, value in entry.items() if key not in unused})


def _chosen(entry: dict, option: str) -> bool:
    """Whether a setting of the entry, such as `affinity`, has the option's name as its value."""
    return any(value == option for value in entry.values() if isinstance(value, str))


def _flat(entry: dict, prefix: str = "") -> dict[str, Any]:
    flat = {}
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
    if isinstance(value, list):
        return f"{len(value)} templates" if key == "template" else ", ".join(map(str, value))
    return str(value)
