"""The YAML of a configuration, without what readers of a file would not expect."""

from __future__ import annotations

from typing import Any

import yaml

MOST_VALUES = 10_000
"""Values in a file at most."""


class EachKeyOnce(yaml.SafeLoader):
    """Reads YAML, but refuses a key that occurs twice in a mapping: the second one would replace the first.

    It also refuses aliases that multiply: ten lines can expand to a thousand million values.
    """

    def get_single_node(self) -> yaml.Node | None:
        node = super().get_single_node()
        if node is not None and _values_in(node, {}) > MOST_VALUES:
            raise yaml.MarkedYAMLError(f"more than {MOST_VALUES} values", problem_mark=node.start_mark)
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [str(key.value) for key, _ in node.value]
        if len(set(names)) < len(names):
            raise yaml.MarkedYAMLError("a key stands twice in the mapping", problem_mark=node.start_mark)
        return super().construct_mapping(node, deep)


def _values_in(node: yaml.Node, counted: dict[yaml.Node, int]) -> int:
    """The number of values that a node expands to. Aliases count each time."""
    if node not in counted:
        counted[node] = 1  # ends the recursion for an alias of itself
        parts = [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else node.value
        if isinstance(node, yaml.CollectionNode):
            counted[node] += sum(_values_in(part, counted) for part in parts)
    return counted[node]
