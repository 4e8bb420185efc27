"""An engine that answers in milliseconds: a random Llama of four small layers behind the demo model's tokenizer.

For what is counted and compared, never for quality or speed.
"""

from __future__ import annotations

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from semshare_core import PoolConfig, SemShareEngine

WIDTH, LAYERS, HEADS, KV_HEADS, HEAD_DIM = 64, 4, 4, 2, 16
BYTES_PER_TOKEN = LAYERS * 2 * KV_HEADS * HEAD_DIM * 4


def tiny_engine(tokenizer: PreTrainedTokenizerBase, pool: PoolConfig) -> SemShareEngine:
    """The same weights every time."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        max_position_embeddings=4096,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
        initializer_range=0.2,  # with the usual 0.02 every position predicts the same, and a wrong row would go unseen
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlamaForCausalLM(config).eval()
    return SemShareEngine(model, tokenizer, pool=pool)
