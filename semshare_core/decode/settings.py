"""What becomes of each field of transformers' ``GenerationConfig``: honoured, overridden or refused, and why.

A field may come with a request, or stand in the model's own generation config. Nobody wrote that config for this
engine, so a value that is refused in a request is overridden there, with a warning if this changes answers.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, Literal

from transformers import GenerationConfig, PreTrainedModel

from semshare_core.errors import ConfigError, GenerationWarning
from semshare_core.suggestion import did_you_mean

Treatment = Literal["argument", "honoured", "sampling", "overridden", "refused"]


@dataclass(frozen=True)
class Setting:
    """One field.

    Attributes:
        treatment: ``argument``: SemShare has an argument for it · ``honoured``: as in transformers ·
            ``sampling``: the same at a temperature above 0, nothing at 0 · ``overridden``: it changes no answer, and
            becomes ``instead`` · ``refused``: an error in a request; in a model's own config it becomes ``instead``.
        why: a sentence for errors, warnings and readers.
        instead: what the field becomes if it is overridden.
        warns: whether answers change if a model's own config is overridden.
    """

    treatment: Treatment
    why: str
    instead: Any = None
    warns: bool = False

    def asks(self, value: Any) -> bool:
        """Whether ``value`` means anything else than that the field is not set."""
        return value is not None and value is not False and value != self.instead


_BEAMS = "one answer is decoded at a time, greedily or by sampling"
_HUB = "transformers moved it to code on the hub, which is not loaded; answers are greedy or sampled"
_ASSISTED = "transformers' assisted decoding begins with an empty cache, and ours is filled"
_OWN_CACHE = "the engine brings its own cache"
_ONE_SEQUENCE = "it is for beam search, and changes nothing for one answer"
_ASSISTANT = "it is for assisted decoding, which does not take place"
_SAMPLED = "it narrows what is sampled from; a greedy answer is the likeliest token of all in any case"


def _all(names: str, setting: Setting) -> dict[str, Setting]:
    return dict.fromkeys(names.split(), setting)


SETTINGS: dict[str, Setting] = {
    "max_new_tokens": Setting("argument", "set by the argument max_new_tokens"),
    "temperature": Setting("argument", "set by the argument temperature: 0 is greedy"),
    "do_sample": Setting("argument", "set by the argument temperature: 0 is greedy, above 0 samples"),
    **_all("top_k top_p min_p top_h typical_p epsilon_cutoff eta_cutoff", Setting("sampling", _SAMPLED)),
    **_all(
        "repetition_penalty encoder_repetition_penalty no_repeat_ngram_size encoder_no_repeat_ngram_size bad_words_ids "
        "renormalize_logits forced_bos_token_id forced_eos_token_id exponential_decay_length_penalty suppress_tokens "
        "begin_suppress_tokens sequence_bias watermarking_config",
        Setting("honoured", "it changes which tokens may be chosen, as in transformers"),
    ),
    "guidance_scale": Setting("honoured", "each step costs a second pass, of the answer alone; nothing interrupts it"),
    **_all("min_length min_new_tokens", Setting("honoured", "no end before; min_length counts the prompt, too")),
    "max_time": Setting("honoured", "seconds of decoding, after which the answer ends, as if it were too long"),
    **_all("eos_token_id pad_token_id bos_token_id", Setting("honoured", "tokens with a meaning of their own")),
    "prefill_chunk_size": Setting("honoured", "what decoding begins with is computed in parts of so many tokens"),
    **_all("compile_config disable_compile", Setting("honoured", "only caches of a fixed size are compiled for")),
    "decoder_start_token_id": Setting("honoured", "it is for models with an encoder, and changes nothing for others"),
    **_all("_from_model_config transformers_version", Setting("honoured", "where the config comes from")),
    "use_cache": Setting("overridden", _OWN_CACHE, instead=True),
    **_all(
        "output_attentions output_hidden_states output_scores output_logits return_dict_in_generate",
        Setting("overridden", "it adds to what generate() returns, which nobody reads", instead=False),
    ),
    "early_stopping": Setting("overridden", _ONE_SEQUENCE, instead=False),
    "length_penalty": Setting("overridden", _ONE_SEQUENCE, instead=1.0),
    "diversity_penalty": Setting("overridden", _ONE_SEQUENCE, instead=0.0),
    "low_memory": Setting("overridden", "it is for contrastive search, which does not take place"),
    "is_assistant": Setting("overridden", _ASSISTANT, instead=False),
    **_all(
        "num_assistant_tokens num_assistant_tokens_schedule assistant_confidence_threshold max_matching_ngram_size "
        "assistant_lookbehind target_lookbehind assistant_ensemble_weight",
        Setting("overridden", _ASSISTANT),
    ),
    **_all("cache_config max_cache_len", Setting("overridden", _OWN_CACHE)),
    "continuous_batching_config": Setting("overridden", "it is for transformers' generate_batch()"),
    "cache_implementation": Setting("refused", _OWN_CACHE),
    "max_length": Setting("refused", "use max_new_tokens"),
    "remove_invalid_values": Setting(
        "refused", "logits that are not numbers end the call, and their rows are not kept", instead=False
    ),
    "stop_strings": Setting("refused", "use stop=[...]"),  # a model's own are honoured: they join ``stop``
    **_all("num_beams num_beam_groups", Setting("refused", _BEAMS, instead=1, warns=True)),
    "num_return_sequences": Setting("refused", f"{_BEAMS}; call again with another seed", instead=1, warns=True),
    **_all("constraints force_words_ids dola_layers", Setting("refused", _HUB, warns=True)),
    "penalty_alpha": Setting("refused", _HUB, instead=0.0, warns=True),
    "token_healing": Setting(
        "refused", "it changes the prompt; cut off the prompt's last token", instead=False, warns=True
    ),
    **_all("prompt_lookup_num_tokens assistant_early_exit speculation_type", Setting("refused", _ASSISTED)),
    "use_mtp": Setting("refused", _ASSISTED, instead=False),
}

_NO_FIELDS = {"assistant_model": Setting("refused", _ASSISTED)}  # what transformers' generate() takes beside its config


class SettledConfig(GenerationConfig):
    """A config made of the model's own. None stays None in it: transformers would fill it from the model's config."""

    def update(self, defaults_only: bool = False, allow_custom_entries: bool = False, **values: Any) -> dict[str, Any]:
        if defaults_only and allow_custom_entries:  # generate() fills what is open from model.generation_config
            return {}
        return dict(super().update(defaults_only=defaults_only, allow_custom_entries=allow_custom_entries, **values))


_OF_A_CALL = ("max_new_tokens", "temperature", "stop", "seed", "reuse", "namespace", "store", "timeout")


def check_settings(settings: dict[str, Any]) -> None:
    """Raises :class:`ConfigError` if the settings of a request hold what is unknown or refused."""
    fields = SETTINGS.keys() & GenerationConfig().to_dict().keys()
    unknown = sorted(settings.keys() - fields - _NO_FIELDS.keys())
    if unknown:
        hint = did_you_mean(unknown, {*fields, *_OF_A_CALL})
        raise ConfigError(f"unknown generation settings: {', '.join(unknown)}.{hint}")
    for name, setting in (SETTINGS | _NO_FIELDS).items():
        if setting.treatment == "refused" and setting.asks(value := settings.get(name)):
            raise ConfigError(f"{name}={value!r} is not supported: {setting.why}.")


def settled_config(model: PreTrainedModel, settings: dict[str, Any], *, samples: bool) -> SettledConfig:
    """The model's own config with ``settings`` of a call on top, as the table says.

    Raises:
        ConfigError: transformers refuses a value.
    """
    instead = {
        name: setting.instead
        for name, setting in SETTINGS.items()
        if setting.treatment in ("overridden", "refused") or (setting.treatment == "sampling" and not samples)
    }
    try:
        config = SettledConfig.from_dict(model.generation_config.to_dict())
        config.update(**{name: value for name, value in settings.items() if name not in instead}, **instead)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"transformers refuses a generation setting: {error}") from error
    return config


def warn_of_overridden(model: PreTrainedModel) -> None:
    """Warn of settings in the model's own config that are overridden although this changes answers."""
    own = model.generation_config
    for name, setting in SETTINGS.items():
        if setting.warns and setting.asks(value := getattr(own, name, None)):
            warnings.warn(
                f"the model's generation config asks for {name}={value!r}, which is passed over: {setting.why}.",
                GenerationWarning,
                stacklevel=3,
            )
