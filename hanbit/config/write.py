"""A recipe as a file again: `config.resolved.yaml` of a run folder, and what `hanbit config show` prints."""

import io
from collections.abc import Iterator

from ruamel.yaml import YAML
from ruamel.yaml.nodes import ScalarNode
from ruamel.yaml.representer import SafeRepresenter

from hanbit.config.recipe import Recipe


class _Representer(SafeRepresenter):
    """Text with invisible characters goes between quotation marks: ruamel's plain style loses some (U+0085)."""

    def represent_str(self, data: str) -> ScalarNode:
        style = None if data.isprintable() else '"'
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=style)


_Representer.add_representer(str, _Representer.represent_str)


def to_yaml(recipe: Recipe) -> str:
    """The recipe in full, every default written out; loading it gives the equal recipe."""
    writer = YAML(typ="safe", pure=True)
    writer.Representer = _Representer
    writer.default_flow_style = False
    writer.allow_unicode = True
    writer.width = 10_000  # a folded text is the same text, but harder to search for
    writer.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    stream = io.StringIO()
    writer.dump(recipe.model_dump(mode="json"), stream)
    return stream.getvalue()


def flat(recipe: Recipe) -> dict[str, str]:
    """Every value as text, by its dotted key."""
    return dict(_flat(recipe.model_dump(mode="json"), ""))


def _flat(value: object, key: str) -> Iterator[tuple[str, str]]:
    if not isinstance(value, dict):
        yield key, str(value)
        return
    for name, part in value.items():
        yield from _flat(part, f"{key}.{name}" if key else name)
