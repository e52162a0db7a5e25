"""All sentences that a config's entries of `texts` make, for a file of `text_features`.

python -m clip_wsss.runs.sentences config/voc12.yaml > sentences.txt
"""

from __future__ import annotations

import sys
from pathlib import Path

from clip_wsss.core.errors import InputError, failed
from clip_wsss.data.vocabulary import read_vocabulary
from clip_wsss.prompts.texts import read_templates
from clip_wsss.runs.config import read_config
from clip_wsss.runs.settings import Config


def sentences(config: Config) -> list[str]:
    """Each sentence once, sorted: every template with every name and background word.

    Raises:
        InputError: a list of templates cannot be read.
    """
    vocabulary, found = read_vocabulary(config.dataset.vocabulary), set()
    for entry in config.texts.values():
        if isinstance(entry.template, list):
            templates = list(entry.template)
        elif isinstance(entry.template, str) and entry.template != "sharpest":
            templates = [entry.template]
        else:
            templates = read_templates(Path(entry.templates))
        lists = dict.fromkeys((entry.names, entry.ranked_names or entry.names))
        words = [name for one in lists for name in vocabulary.texts(one).values()]
        words += vocabulary.background(entry.background)
        found |= {template.replace("{}", word) for template in templates for word in words}
    return sorted(found)


def main() -> int:
    """Print them, one a line."""
    try:
        print("\n".join(sentences(read_config(sys.argv[1]))))
    except InputError as error:
        return failed(error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
