"""Tiny tokenizers with the control tokens and chat templates of families of models, and one that spells as Llama 2's.

One token a byte, as in ``tiny_models``; what is added are the tokens that the families' templates write.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import LogitsProcessor, PreTrainedTokenizerFast

from tiny_models import CONTEXT, END, PAD, START, tiny_tokenizer

_CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' }}"
    "{% if message.role == 'assistant' and '</think>' in message.content %}"
    "{{ message.content.split('</think>')[-1].lstrip('\n') if not loop.last else message.content }}"
    "{% else %}{{ message.content }}{% endif %}"
    "{% for call in message.tool_calls %}{{ '<tool_call>' + call | tojson + '</tool_call>' }}{% endfor %}"
    "{{ '<|im_end|>\n' }}{% endfor %}{% if tools %}{{ tools | tojson }}{% endif %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_HEADERS = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
_GEMMA = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<start_of_turn>' + ('model' if message.role == 'assistant' else message.role) + '\n' }}"
    "{% if message.content is string %}{{ message.content | trim }}{% else %}"
    "{% for item in message.content %}{{ item.text | trim }}{% endfor %}{% endif %}{{ '<end_of_turn>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
_INST = (
    "{{ bos_token }}{% for message in messages %}{% if message.role == 'assistant' %}"
    "{{ ' ' + message.content + eos_token }}{% else %}{{ '[INST] ' + message.content + ' [/INST]' }}{% endif %}"
    "{% endfor %}"
)

_STYLES: dict[str, tuple[str, list[str], list[str]]] = {  # template, special tokens, other added tokens
    "chatml": (_CHATML, ["<|im_start|>", "<|im_end|>"], ["<tool_call>", "</tool_call>", "<think>", "</think>"]),
    "headers": (_HEADERS, ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"], []),
    "gemma": (_GEMMA, ["<start_of_turn>", "<end_of_turn>"], ["<table>", "\n\n"]),
    "inst": (_INST, ["[INST]", "[/INST]"], []),
}
STYLES = list(_STYLES)


def chat_tokenizer(style: str) -> PreTrainedTokenizerFast:
    """The tiny tokenizer in the ``style`` of a family: its template and what that writes as tokens."""
    template, special, others = _STYLES[style]
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"extra_special_tokens": special})
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in others])
    tokenizer.chat_template = template
    return tokenizer


def sentencepiece_tokenizer(prepend: str = "first") -> PreTrainedTokenizerFast:
    """Spells as Llama 2's: a space before every text, bytes for what has no token; 259 tokens, as ``tiny_model`` has.

    ``prepend``: whether the text behind an added token gets a space, too (``always``) or not (``first``).
    """
    letters = ["▁", "\n", *(chr(code) for code in range(ord("!"), ord("~") + 1))]
    words = [f"▁{letter}" for letter in "abcdefghijklmnopqrstuvwxyzYNTSHA"]
    tokens = [*letters, *words, *(f"<0x{byte:02X}>" for byte in range(0x80, 0x100))]
    core = Tokenizer(
        models.BPE(
            vocab={token: index for index, token in enumerate(tokens)},
            merges=[("▁", word[1]) for word in words],
            byte_fallback=True,
            fuse_unk=True,
        )
    )
    core.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme=prepend, split=False)
    core.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    core.add_special_tokens([AddedToken(token, normalized=False) for token in (END, START, PAD)])
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token=END,
        bos_token=START,
        pad_token=PAD,
        chat_template=_INST.replace("[INST]", START).replace("[/INST]", END),
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )


class Says(LogitsProcessor):
    """The model says ``ids``, whatever it computed."""

    def __init__(self, ids: list[int]) -> None:
        self._left: Iterator[int] = iter(ids)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        forced = torch.full_like(scores, -torch.inf)
        forced[:, next(self._left)] = 0
        return forced
