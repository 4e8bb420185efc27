"""Why there is no figure of a peer."""

from __future__ import annotations


class PeerUnavailable(RuntimeError):
    """A peer is not installed, or cannot be on this machine; the message is the reason, fit to stand in a table."""


class PeerFailed(RuntimeError):
    """A peer ran and gave not one usable answer; the message holds the first reason."""
