"""Slots: families of methods whose members are found by name.

A method registers itself when its module is imported, so that a new one is a file of its own::

    @SELECTIONS.register("newest")
    class NewestSelection(Selection): ...

``docs/extending.md`` shows one new member of each family.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from semshare_core.errors import ConfigError
from semshare_core.process.lazy_import import import_alone
from semshare_core.suggestion import did_you_mean

C = TypeVar("C", bound=Callable[..., Any])


class Slot:
    """One family of methods.

    Args:
        setting: the setting that names a member, for error messages.
        modules: register the members that come with SemShare. They are imported when a name is asked for: settings lie
            below all methods, and are checked before any of them is needed.
    """

    def __init__(self, setting: str, modules: Sequence[str]) -> None:
        self.setting = setting
        self._modules = modules
        self._members: dict[str, Any] = {}

    def register(self, name: str) -> Callable[[C], C]:
        """Decorator: the class (of a preset: the function) becomes the member called ``name``."""

        def add(member: C) -> C:
            known = self._members.get(name, member)
            if (known.__module__, known.__qualname__) != (member.__module__, member.__qualname__):
                where = f"{known.__module__}.{known.__qualname__}"
                raise ConfigError(f"{self.setting}={name!r} is {where} already: choose another name.")
            self._members[name] = member
            return member

        return add

    def names(self) -> list[str]:
        """The names of all members that were imported, in alphabetical order."""
        self._import()
        return sorted(self._members)

    def get(self, name: str) -> Any:
        """The member called ``name``.

        Raises:
            ConfigError: there is none.
        """
        if isinstance(name, str) and name not in self._members:  # what is there needs no import
            self._import()
        if not isinstance(name, str) or name not in self._members:
            known = ", ".join(self.names())
            hint = did_you_mean([str(name)], self._members)
            raise ConfigError(f"{self.setting}={name!r} is not known: pass one of {known}.{hint}")
        return self._members[name]

    def name_of(self, member: Any) -> str:
        """The name under which ``member`` is registered.

        Raises:
            ConfigError: under none.
        """
        self._import()
        for name, known in self._members.items():
            if known is member:
                return name
        known_names = ", ".join(self.names())
        raise ConfigError(f"{self.setting}: {member.__name__} is not registered: pass one of {known_names}, or yours.")

    def _import(self) -> None:
        for module in self._modules:
            import_alone(module)


_BASELINES = ("semshare_core.baselines",)

MATCHERS = Slot("matching", ("semshare_core.match.matchers", *_BASELINES))
"""Classes of :class:`semshare_core.match.matchers.base.Matcher`."""

SELECTIONS = Slot("selection", ("semshare_core.select", *_BASELINES))
"""Classes of :class:`semshare_core.select.base.Selection`."""

LIVE_COMPRESSORS = Slot("compress", _BASELINES)
"""Classes of :class:`semshare_core.compress.live.base.LiveCompressor`."""

PRESETS = Slot("preset", _BASELINES)
"""Functions without arguments that give the settings of a published method, for :class:`semshare_core.ReusePolicy`."""

CODECS = Slot("codec", ("semshare_core.compress.codecs",))
"""Classes of :class:`semshare_core.compress.codecs.base.Codec`."""
