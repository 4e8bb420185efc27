"""Settings in: what the pool may hold and how much of a prompt may be reused."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializationInfo,
    StrictBool,
    ValidationError,
    field_serializer,
    field_validator,
    model_validator,
)

from semshare_core.errors import ConfigError
from semshare_core.process.paths import absolute
from semshare_core.slots import CODECS, LIVE_COMPRESSORS, MATCHERS, PRESETS, SELECTIONS
from semshare_core.suggestion import did_you_mean

Level = Literal["off", "exact", "high", "balanced", "fast"]
Schedule = Literal["constant", "decay"]

LEVELS: tuple[str, ...] = ("off", "exact", "high", "balanced", "fast")


class Settings(BaseModel):
    """Immutable settings whose mistakes surface as :class:`ConfigError`, naming the field and the remedy."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    def __init__(self, **data: Any) -> None:
        try:
            super().__init__(**data)
        except ValidationError as error:
            details = "; ".join(_mistake(item) for item in error.errors()).rstrip(".")
            unknown = [str(item["loc"][-1]) for item in error.errors() if item["type"] == "extra_forbidden"]
            hint = did_you_mean(unknown, type(self).model_fields)
            raise ConfigError(f"{type(self).__name__} cannot be built: {details}.{hint}") from error


def _mistake(item: Any) -> str:
    """One of pydantic's errors in words; ours are in words already."""
    own = item.get("ctx", {}).get("error")
    if isinstance(own, ConfigError):
        return str(own)
    return (
        f"{'.'.join(map(str, item['loc'])) or 'value'}={item['input']!r}: {item['msg'].removeprefix('Value error, ')}"
    )


class Heal(Settings):
    """How much time healing takes: it computes approximate rows of the pool afresh, in the background.

    Attributes:
        share: at most this share of the idle time is spent on it; the rest leaves the processor to other programs.
        max_tokens: longer prompts are not healed.
    """

    share: float = Field(default=0.9, gt=0, le=1)
    max_tokens: int = Field(default=32_768, ge=1)


class PoolConfig(Settings):
    """How many bytes of reference prompts are kept, where and for how long, and how candidates are found.

    Attributes:
        max_bytes: budget for keys and values on the model's device, in bytes. What is worth least leaves first:
            to host memory, to disk, or out of the pool.
        host_bytes: budget for keys and values in host memory, for models on an accelerator.
        path: folder in which the pool survives the process; None: it lives in memory only. A relative path, or one that
            begins with ``~``, becomes absolute here: a later ``os.chdir`` does not move the pool.
        codec: in which form rows are written to that folder (``semshare_core.compress.codecs``), a lossless one;
            ``none``: as they are.
        disk_bytes: budget for that folder. Everything is written there, so it should be larger than ``max_bytes``.
        read_only: serve from ``path``, which another process may own, and write nothing there.
        ttl_seconds: prompts are forgotten so long after they were stored, also while no call comes; None: when room is
            needed.
        namespace_bytes: budget of each single namespace, all tiers together; None: the tiers' budgets are shared.
        public_namespace: its prompts serve every namespace. Only ``engine.warm()`` writes there.
        min_tokens: shorter prompts are not stored; below a few dozen tokens a lookup costs more than it saves.
        block_tokens: a prompt that begins as another one does in fewer tokens shares no prefix with it.
        candidates: how many semantic neighbours FAISS returns for one lookup.
        heal: compute approximate rows afresh while no call waits, so that the prompts they belong to become lossless.
            ``True`` or ``Heal(...)``: it is done · ``False``: it is not.
    """

    max_bytes: int = Field(default=2 * 2**30, ge=0)
    host_bytes: int = Field(default=0, ge=0)
    path: Path | None = None
    codec: str = "none"
    disk_bytes: int = Field(default=16 * 2**30, ge=0)
    read_only: bool = False
    ttl_seconds: float | None = Field(default=None, gt=0)
    namespace_bytes: int | None = Field(default=None, ge=0)
    public_namespace: str | None = Field(default=None, min_length=1)
    min_tokens: int = Field(default=32, ge=1)
    block_tokens: int = Field(default=16, ge=1)
    candidates: int = Field(default=8, ge=1)
    heal: Heal | StrictBool = True

    @property
    def healing(self) -> Heal | None:
        """What ``heal`` says, as settings; None: nothing is healed."""
        if isinstance(self.heal, bool):
            return Heal() if self.heal else None
        return self.heal

    @field_validator("path", mode="before")
    @classmethod
    def _is_a_name(cls, path: Any) -> Any:
        if isinstance(path, str) and (not path.strip() or "\0" in path):
            raise ValueError("it names no folder: name one, or leave path out for a pool in memory")
        return path

    @field_validator("codec")
    @classmethod
    def _codec_is_known(cls, name: str) -> str:
        if not CODECS.get(name).lossless:
            raise ConfigError(
                f"codec={name!r} is lossy, and the pool serves its rows as lossless ones: choose a lossless codec."
            )
        return name

    @field_validator("path")
    @classmethod
    def _wherever_the_process_goes(cls, path: Path | None) -> Path | None:
        return None if path is None else absolute(path)

    @model_validator(mode="after")
    def _a_folder_has_a_path(self) -> PoolConfig:
        if self.read_only and self.path is None:
            raise ValueError("read_only=True reads from a folder: set path, too")
        if self.codec != "none" and self.path is None:
            raise ValueError(f"codec={self.codec!r} is for rows in a folder: set path, too")
        return self


class ReusePolicy(Settings):
    """What may be reused and how much is recomputed.

    A ``level`` leaves the amount to the governor; ``recompute_ratio`` fixes it instead.

    Attributes:
        level: ``off`` · ``exact`` (lossless: prefix only) · ``high`` · ``balanced`` · ``fast``; ``None`` together with
            a ratio of ``None`` means ``balanced``.
        recompute_ratio: ceiling of (tokens computed / prompt tokens), averaged over layers, first layer included.
            Tokens that no reference serves, and the question, are computed even when they exceed it.
        schedule: ``constant``: the same set in every selective layer; ``decay``: shrinks by ``decay`` per layer.
        decay: factor of the ``decay`` schedule (0.85 per layer is a guess of the paper's unpublished values).
        selection: which tokens are recomputed: ``combined``: ours · ``deviation``: CacheBlend's · ``paper``:
            SemShareKV's · or one that you registered (``docs/extending.md``).
        matching: ``ordered``: prefix, identical runs, order-aware fuzzy · ``runs``: prefix and identical runs only ·
            ``lsh``: prefix, then SemShareKV's fuzzy matching for everything else · or one that you registered.
        min_similarity: prompts less similar than this (cosine of prompt embeddings, mapped to [0, 1]) never serve
            fuzzy tokens; identical runs need no such evidence. The paper: 0.8.
        min_run: shortest identical run, in tokens, that counts as exact.
        halo: tokens recomputed after each changed (non-exact) token.
        seam_halo: tokens recomputed after each seam, a place where the text continues but its source does not.
        fresh_tail: at least so many last prompt tokens are always computed.
        max_references: references that may serve one prompt.
        compress: what is kept of the rows for decoding: ``None``: all · ``"retention"`` or ``Retention(...)``:
            SemShareKV's · or a compressor that you registered.
        canary: share of calls that are compared with a full prefill afterwards, in the background; what is found is in
            the report and in ``engine.canary``.
        seed: of methods that draw at random and, in an engine's policy, of which calls the canary takes.
    """

    level: Level | None = None
    recompute_ratio: float | None = Field(default=None, ge=0, le=1)
    schedule: Schedule = "constant"
    decay: float = Field(default=0.85, gt=0, le=1)
    selection: str = "combined"
    matching: str = "ordered"
    min_similarity: float = Field(default=0.8, ge=0, le=1)
    min_run: int = Field(default=6, ge=2)
    halo: int = Field(default=2, ge=0)
    seam_halo: int = Field(default=4, ge=0)
    fresh_tail: int = Field(default=16, ge=1)
    max_references: int = Field(default=8, ge=1)
    compress: Settings | None = None
    canary: float = Field(default=0.0, ge=0, le=1)
    seed: int = 0

    @field_validator("selection")
    @classmethod
    def _selection_is_known(cls, name: str) -> str:
        SELECTIONS.get(name)
        return name

    @field_validator("matching")
    @classmethod
    def _matcher_is_known(cls, name: str) -> str:
        MATCHERS.get(name)
        return name

    @field_validator("compress", mode="before")
    @classmethod
    def _compressor_by_name(cls, value: Any) -> Any:
        """A name, or a name with settings as :meth:`_named` writes them, becomes the compressor."""
        if isinstance(value, str):
            return LIVE_COMPRESSORS.get(value)()
        if isinstance(value, Mapping) and "name" in value:
            settings = dict(value)
            return LIVE_COMPRESSORS.get(settings.pop("name"))(**settings)
        if value is not None:
            LIVE_COMPRESSORS.name_of(type(value))
        return value

    @field_serializer("compress")
    def _named(self, compressor: Settings | None, info: SerializationInfo) -> dict[str, Any] | None:
        if compressor is None:
            return None
        return {"name": LIVE_COMPRESSORS.name_of(type(compressor))} | compressor.model_dump(mode=info.mode)

    @classmethod
    def paper(cls, recompute_ratio: float | None = None, **changes: Any) -> ReusePolicy:
        """SemShareKV as published (arXiv 2509.24832): one reference, LSH matching, decaying recomputation, retention.

        Differences that the missing full text forces on us are listed in ``docs/paper.md``.
        """
        return cls(**(PRESETS.get("paper")() | {"recompute_ratio": recompute_ratio} | changes))

    @classmethod
    def cacheblend(cls, recompute_ratio: float = 0.15, **changes: Any) -> ReusePolicy:
        """CacheBlend (arXiv 2405.16444): identical runs, first-layer key deviation, one constant set of 15 %."""
        return cls(**(PRESETS.get("cacheblend")() | {"recompute_ratio": recompute_ratio} | changes))


def resolve_policy(reuse: str | ReusePolicy | None, default: ReusePolicy, name: str = "reuse") -> ReusePolicy:
    """Turn what a caller passed as ``reuse=`` (or ``name``) into a policy; ``None`` means the default."""
    if reuse is None:
        return default
    if isinstance(reuse, ReusePolicy):
        return reuse
    if isinstance(reuse, str) and reuse in LEVELS:
        return default.model_copy(update={"level": reuse, "recompute_ratio": None})
    raise ConfigError(f"{name}={reuse!r} is not known: pass one of {', '.join(LEVELS)}, or a ReusePolicy.")
