"""Entries of `models` looked at before the first map is made."""

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

from clip_wsss.core.errors import InputError
from clip_wsss.models.tower import check_block, check_layers

# Where attention is asked for, of which entry of `models`, and its layers, or blocks.
Asked = tuple[str, str, int, list[int] | None]
# Where texts are asked for, of which entry of `models`, their templates, and the words in them.
Prompts = tuple[str, str, list[str], list[str]]


def check_models(
    models: Mapping[str, dict[str, Any]],
    attention: Sequence[Asked] = (),
    prompts: Sequence[Prompts] = (),
) -> list[str]:
    """Look whether towers can be loaded; weights that would be downloaded are known by their names.

    Args:
        models: entries of the config, by name.
        attention: what is asked of their blocks.
        prompts: what they will have to encode.

    Returns:
        A line for each that cannot: names that its library does not know, a network of another
        kind, a file that is damaged or does not fit, a text that it cannot encode; and for each
        that asks for more blocks than its tower has.
    """
    problems, blocks = [], {}
    for name, model in models.items():
        try:
            if model["library"] == "timm":
                # By its name, as in `open_tower`.
                load = import_module("clip_wsss.models.timm_tower").load_timm
                blocks[name] = load(model, download=False).layers
            else:
                from clip_wsss.models.clip import check_clip

                texts = {
                    where: [text.replace("{}", word) for text in templates for word in words]
                    for where, own, templates, words in prompts
                    if own == name
                }
                blocks[name] = check_clip(model, texts)
        except InputError as error:
            problems.append(f"models.{name}: {str(error).removeprefix('models: ')}")
    for where, name, layers, named in attention:
        try:
            if (own := blocks.get(name)) is not None:
                if named is None:
                    check_layers(layers, own)
                for block in named or ():
                    check_block(block, own)
        except InputError as error:
            problems.append(f"{where}: {error} (models.{name})")
    return problems
