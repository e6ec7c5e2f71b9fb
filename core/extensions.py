"""Tables of named parts, such as backbones or samplers, to which other packages may add.

A table says where each part is defined, and imports a part when it is first used: to list the
names costs nothing. A package that is installed beside this one adds a part of its own by an entry
point in the table's group, in every process that uses the table. In its `pyproject.toml`:

    [project.entry-points."cell_tune.samplers"]
    mine = "my_package.my_module:MySampler"
"""

import contextlib
from collections.abc import Iterator, Mapping
from functools import cached_property
from importlib import metadata
from pkgutil import resolve_name
from typing import Any, Generic, TypeVar

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from core.errors import CellTuneError, ExtensionError

Part = TypeVar("Part")


class Parts(Mapping[str, Part], Generic[Part]):
    """The parts of one kind by name: ours in the table's order, then others sorted by name.

    kind    what one part is, in words: `sampler`
    group   group of the entry points by which other packages add parts: `cell_tune.samplers`
    ours    where each of our parts is defined: `package.module:object`

    Raises ExtensionError where two parts have one name, and where a part of another package cannot
    be imported.
    """

    def __init__(self, kind: str, group: str, ours: Mapping[str, str]) -> None:
        self.kind, self.group = kind, group
        self._ours = ours
        self._loaded: dict[str, Part] = {}

    @cached_property
    def places(self) -> dict[str, str]:
        """The place where each part is defined, `package.module:object`, by the part's name."""
        places = dict(self._ours)
        for point in sorted(metadata.entry_points(group=self.group), key=lambda one: one.name):
            if point.name in places and places[point.name] != point.value:
                raise ExtensionError(
                    f"two parts are the {self.kind} {point.name!r}: {places[point.name]} and "
                    f"{point.value}; rename the latter's entry point, or uninstall its package"
                )
            places[point.name] = point.value
        return places

    def __getitem__(self, name: str) -> Part:
        if name not in self._loaded:
            place = self.places[name]
            try:
                self._loaded[name] = resolve_name(place)
            except Exception as error:
                if name in self._ours:
                    raise
                raise ExtensionError(
                    f"the {self.kind} {name!r} cannot be imported from {place} "
                    f"({type(error).__name__}: {error}); mend its package, or uninstall it"
                ) from error
        return self._loaded[name]

    @contextlib.contextmanager
    def calling(self, name: str) -> Iterator[None]:
        """Turn what a part of another package raises inside into ExtensionError."""
        try:
            yield
        except CellTuneError:
            raise
        except Exception as error:
            if name in self._ours:
                raise
            raise ExtensionError(
                f"the {self.kind} {name!r} of {self.places[name]} failed"
                f" ({type(error).__name__}: {error}); mend its package, or choose another"
            ) from error

    def __iter__(self) -> Iterator[str]:
        return iter(self.places)

    def __len__(self) -> int:
        return len(self.places)


class NameIn:
    """The type of a setting whose value is a name in a table: `Annotated[str, NameIn(TABLE)]`."""

    def __init__(self, table: Mapping[str, Any]) -> None:
        self._table = table

    def __get_pydantic_core_schema__(self, _: Any, __: GetCoreSchemaHandler) -> CoreSchema:
        """The schema that pydantic asks for: a literal of the table's names."""
        return core_schema.literal_schema(list(self._table))
