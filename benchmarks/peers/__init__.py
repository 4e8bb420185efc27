"""Other projects on the same prompts: each in a virtual environment of its own, asked through files.

The benchmark's process never imports a peer, and a peer's process never imports SemShare: `workers/` holds one script
a peer, which runs in the peer's environment and knows nothing of this package but its neighbour `answering.py`.
"""

from benchmarks.peers.catalogue import PEERS
from benchmarks.peers.errors import PeerFailed, PeerUnavailable
from benchmarks.peers.item import PeerItem, PeerResult, PeerSample, item_of
from benchmarks.peers.peer import Peer

__all__ = ["PEERS", "Peer", "PeerFailed", "PeerItem", "PeerResult", "PeerSample", "PeerUnavailable", "item_of"]
