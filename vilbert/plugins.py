"""Look up a component by name: built in, provided by an installed package, or given as `package.module:attribute`.

Packages provide components through entry points (https://packaging.python.org/en/latest/specifications/entry-points/).
A component is imported only when it is loaded by name.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # slow to import, and `vilbert --help` does not need it
    from importlib.metadata import EntryPoint


class PluginError(ValueError):
    """A component that does not exist or cannot be imported. The message names the package and says what to do."""


@dataclass(frozen=True, kw_only=True)
class Registry:
    """The components of one kind, by name."""

    kind: str
    """The word for a component in messages, for example "detector"."""
    group: str
    """The entry-point group, for example `vilbert.detectors`."""
    built_in: Mapping[str, str]
    """Mapping from the names of this package's components to `module:attribute`."""
    references: bool = False
    """Whether a name may also be a reference of the form `package.module:attribute`."""

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self.is_known(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def names(self) -> list[str]:
        """Return the names of all components, built-in ones first, without importing them."""
        return [*self.built_in, *self.installed()]

    def installed(self) -> dict[str, EntryPoint]:
        """Return the entry points of other packages by name, except those that reuse a built-in name."""
        found = reversed(list(all_entry_points().select(group=self.group)))  # the first on sys.path wins
        return {entry.name: entry for entry in found if entry.name not in self.built_in}

    def is_known(self, name: str) -> bool:
        """Return whether a component has this name. Its module may still fail to import."""
        return name in self.built_in or name in self.installed()

    def load(self, name: str) -> Any:
        """Import and return a component.

        Raises:
            PluginError: No component has this name, or its module cannot be imported.
        """
        if name in self.built_in:
            return _resolve(self.built_in[name])
        if entry := self.installed().get(name):
            return self._import(entry.value, f"{self.kind} {name!r} of package {_package(entry)}")
        if self.references and ":" in name:
            return self._import(name, f"{self.kind} {name!r}")
        raise PluginError(self.unknown(name))

    def unknown(self, name: str) -> str:
        """Return the error message for an unknown name, with the closest name and all available names."""
        question = did_you_mean(name, self.names()) or "."
        reference = f". A package's own: package.module:name, or the entry-point group {self.group}"
        return (
            f"no {self.kind} {name!r}{question} There are: {', '.join(self.names())}"
            f"{reference if self.references else ''}"
        )

    def source(self, name: str) -> dict[str, str] | None:
        """Return the distribution that provides a component, for fingerprints, or None for a built-in component.

        A module that belongs to no distribution is identified by the SHA-256 of its source file.
        """
        if name in self.built_in:
            return None
        entry = self.installed().get(name)
        if entry is not None and entry.dist is not None:
            return {"distribution": entry.dist.name, "version": entry.dist.version}
        return _source_of_module((entry.value if entry else name).partition(":")[0])

    def _import(self, reference: str, what: str) -> Any:
        try:
            return _resolve(reference)
        except Exception as error:  # importing a third-party package can raise anything
            raise PluginError(f"{what}: {reference} cannot be imported: {type(error).__name__}: {error}") from error


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return "; did you mean NAME?" for the known name closest to `name`, or an empty string if none is close."""
    import difflib

    nearest = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {nearest[0]}?" if nearest else ""


@cache
def all_entry_points() -> Any:
    """Return the entry points of all installed packages. Their metadata is read once per process."""
    from importlib.metadata import entry_points

    return entry_points()


def _package(entry: EntryPoint) -> str:
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist is not None else entry.value.partition(".")[0]


def _resolve(reference: str) -> Any:
    module, _, attribute = reference.partition(":")
    if not module or not attribute:
        raise ValueError("expected package.module:attribute")
    found: Any = importlib.import_module(module)
    for part in attribute.split("."):
        found = getattr(found, part)
    return found


def _source_of_module(module: str) -> dict[str, str]:
    import hashlib
    from importlib.metadata import packages_distributions, version

    distributions = packages_distributions().get(module.partition(".")[0], [])
    if distributions:
        return {"distribution": distributions[0], "version": version(distributions[0])}
    file = getattr(sys.modules.get(module) or importlib.import_module(module), "__file__", None)
    digest = hashlib.sha256(Path(file).read_bytes()).hexdigest() if file else ""
    return {"module": module, "module_sha256": digest}
