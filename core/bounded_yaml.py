"""YAML read in bounded time and memory, however its aliases and merge keys multiply."""

import itertools
from typing import Any, NoReturn

import yaml

MAX_VALUES = 200_000
"""Largest number of keys and values in a document, repeats by aliases included; reading so many
takes some seconds and 200 MB."""
MAX_CHARACTERS = 10_000
"""Largest length of a value, in characters: the time to read a number grows with the square of its
digits."""


def load_yaml(text: str) -> object:
    """Read a document.

    Raises yaml.YAMLError, and ValueError, TypeError or AttributeError for odd values.
    """
    return yaml.load(text, _Loader)


class _Loader(yaml.SafeLoader):
    """A loader that refuses equal keys, and documents of more than MAX_VALUES with their repeats.

    The plain loader keeps the last of two equal keys without a message. It also lets anchors
    multiply: twenty lines, each of which merges the one before twice (`<<: [*a, *a]`), make a
    million entries.
    """

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._values = 0
        self._sizes: dict[yaml.Node, int] = {}
        """Number of keys and values in each completed node, what aliases repeat included."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Compose one value, and count it with all that an alias repeats."""
        is_alias = self.check_event(yaml.AliasEvent)
        node: yaml.Node | None = super().compose_node(parent, index)
        if node is None:
            return None
        if is_alias and node not in self._sizes:
            self._refuse(node, "an alias must not name a value that contains it; write it out")
        if not is_alias:
            inside = (
                itertools.chain(*node.value) if isinstance(node, yaml.MappingNode) else node.value
            )
            self._sizes[node] = (
                1
                if isinstance(node, yaml.ScalarNode)
                else 1 + sum(map(self._sizes.__getitem__, inside))
            )
        if isinstance(node, yaml.ScalarNode) and len(node.value) > MAX_CHARACTERS:
            self._refuse(
                node,
                f"a value must have at most {MAX_CHARACTERS:,} characters, and has"
                f" {len(node.value):,}",
            )
        self._values += self._sizes[node] if is_alias else 1
        if self._values > MAX_VALUES:
            self._refuse(
                node,
                f"there must be at most {MAX_VALUES:,} values, what aliases repeat included, and"
                " are more",
            )
        return node

    def _refuse(self, node: yaml.Node, problem: str) -> NoReturn:
        raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)

    def compose_mapping_node(self, anchor: dict[Any, yaml.Node]) -> yaml.MappingNode:
        """Compose a mapping, and refuse one that holds a key twice."""
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    problem = f"the key {key.value!r:.80} is there twice; keep one"
                    self._refuse(key, problem)
                seen.add(key.value)
        return node
