"""Who may ask, and whose prompts serve: keys, and the namespaces that follow from them."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from semshare_core.engine import DEFAULT_NAMESPACE
from semshare_core.errors import ConfigError
from semshare_integrations.serving.errors import RequestError

KEYS_VARIABLE = "SEMSHARE_API_KEYS"
OPERATOR_VARIABLE = "SEMSHARE_OPERATOR_KEY"
PUBLIC_NAMESPACE = "public"

_SHORTEST = 16


@dataclass(frozen=True)
class Caller:
    """Who sent a request.

    Attributes:
        digest: of the key; None: the server has no keys.
        operator: whether the caller may see the whole pool and fill the public namespace.
    """

    digest: bytes | None = field(repr=False)
    operator: bool

    @property
    def name(self) -> str:
        """Names the caller in the log, without telling the key."""
        return "anyone" if self.digest is None else _derived(self.digest, "name")[:8]

    def namespace(self, salt: str | None) -> str:
        """The namespace of the caller's prompts. ``salt`` divides a caller's namespace, and never reaches another's.

        It follows from the key alone, so that a pool on disk serves again after a restart.
        """
        if self.digest is None and salt is None:
            return DEFAULT_NAMESPACE
        kind = "namespace" if salt is None else f"namespace {salt}"
        return f"caller-{_derived(self.digest or b'no key', kind)}"


class Keys:
    """The keys of a server, as digests.

    Args:
        keys: each has its own namespaces. None at all: everybody may ask, and all are the operator.
        operator: the operator's key, which may do all that other keys may, too.

    Raises:
        ConfigError: a key is too short, has white space, or stands twice.
    """

    def __init__(self, keys: Iterable[str] = (), operator: str | None = None) -> None:
        callers = [*keys, *([] if operator is None else [operator])]
        for key in callers:
            if len(key) < _SHORTEST or not key.isascii() or not key.isprintable() or " " in key:
                raise ConfigError(
                    f"an API key has {len(key)} characters: it must have at least {_SHORTEST}, in ASCII and without "
                    "white space. `openssl rand -hex 24` makes one."
                )
        if len(set(callers)) < len(callers):
            raise ConfigError("an API key stands twice among the keys: each caller, and the operator, needs its own.")
        self._digests = [_digest(key) for key in callers]
        self._operator = None if operator is None else self._digests[-1]

    @classmethod
    def read(cls, path: Path | None, environment: Mapping[str, str]) -> Keys:
        """Keys from a file, one a line, or from the environment, with commas between them.

        Raises:
            ConfigError: the file cannot be read, it or a variable that is set has no key, or a key is malformed.
        """
        keys = _listed(KEYS_VARIABLE, environment)
        operator = _listed(OPERATOR_VARIABLE, environment)
        if path is not None:
            try:
                lines = path.read_text(encoding="utf-8").splitlines()
            except (OSError, UnicodeDecodeError) as error:
                raise ConfigError(f"the file of API keys {path} cannot be read: {error}.") from error
            in_file = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
            if not in_file:
                raise ConfigError(f"the file of API keys {path} has no key: write one a line.")
            keys += in_file
        if len(operator) > 1:
            raise ConfigError(f"{OPERATOR_VARIABLE} has a comma: there is one operator's key.")
        return cls(keys, operator[0] if operator else None)

    @property
    def open(self) -> bool:
        """Whether everybody may ask."""
        return not self._digests

    @property
    def public_namespace(self) -> str | None:
        """The namespace that the operator fills for all. It is None if there is no operator."""
        return None if self._operator is None else PUBLIC_NAMESPACE

    def named(self, name: str, salt: str | None) -> str | None:
        """The namespace of the caller with this name in the log; None: nobody has it."""
        callers = [Caller(digest, operator=False) for digest in self._digests] or [Caller(None, operator=True)]
        return next((caller.namespace(salt) for caller in callers if caller.name == name), None)

    def caller(self, key: str | None) -> Caller:
        """Who has the key.

        Raises:
            RequestError: it is missing or wrong.
        """
        if self.open:
            return Caller(None, operator=True)
        if not key:
            raise RequestError(
                "You didn't provide an API key. Send it in the header Authorization: Bearer YOUR_KEY.",
                401,
                headers={"WWW-Authenticate": "Bearer"},
            )
        digest = _digest(key)
        known = [each for each in self._digests if hmac.compare_digest(each, digest)]  # all of them, in any case
        if not known:
            raise RequestError(
                "Incorrect API key provided. Ask whoever runs this server for one.",
                401,
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )
        return Caller(digest, operator=self._operator is not None and hmac.compare_digest(digest, self._operator))


def _listed(variable: str, environment: Mapping[str, str]) -> list[str]:
    """The keys in a variable. One that is set and has none would leave open what was meant to be shut."""
    if variable not in environment:
        return []
    keys = [key.strip() for key in environment[variable].split(",") if key.strip()]
    if not keys:
        raise ConfigError(f"{variable} is set, and has no key: give one, or unset it (`unset {variable}`).")
    return keys


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


def _derived(secret: bytes, what: str) -> str:
    return hmac.new(secret, f"semshare {what}".encode(), hashlib.sha256).hexdigest()[:40]
