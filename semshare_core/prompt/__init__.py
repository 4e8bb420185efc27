"""From text or messages to token ids, and back."""
