"""YAML as people write it: recipes, plans of comparisons, YOLO's descriptions of data."""

from collections import Counter
from typing import Any

import yaml

from .errors import InputError


class _Loader(yaml.SafeLoader):
    """Safe YAML in which a key stands once, and a date is text: `output_dir: 2026-11-28` is a folder's name."""

    yaml_implicit_resolvers = {
        first: [entry for entry in found if entry[0] != "tag:yaml.org,2002:timestamp"]
        for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Refuses what PyYAML keeps the last of."""
        if isinstance(node, yaml.MappingNode):
            written = Counter((key.tag, key.value) for key, _ in node.value if isinstance(key, yaml.ScalarNode))
            for (_, key), times in written.items():
                if times > 1:
                    raise yaml.YAMLError(f"{key!r} is given {times} times")
        return super().construct_mapping(node, deep)


class _TextLoader(_Loader):
    """The same with every value as it stands there: of `[no, 007, 0x1f]` YAML would make False, 7 and 31."""

    yaml_implicit_resolvers = {"<": _Loader.yaml_implicit_resolvers["<"]}  # what merges mappings


def load_yaml(text: str, told: str, as_texts: bool = False) -> Any:
    """What a text of YAML holds, with `as_texts` all values as they are written, none of them as a number, a flag or
    None. An InputError, which calls it as `told` does ("plan my-plan.yaml"), where it is no YAML, or a mapping gives a
    key twice."""
    try:
        return yaml.load(text, _TextLoader if as_texts else _Loader)
    except RecursionError:
        raise InputError(f"{told} is nested too deeply") from None
    except Exception as error:  # PyYAML's constructors raise what Python does for dates, numbers and tags
        raise InputError(f"{told} is no valid YAML: {' '.join(str(error).split())[:200]}") from error
