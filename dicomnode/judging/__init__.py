"""The judge: a process of its own that asks the hospital's language model about text in pictures which nobody knows.

**Way** A worker has a `SocketAppeal` and no network. It hands all unknown texts of an instance to the judge over a Unix socket
in the state directory (`wire.py`); the judge (`server.py`) puts them to an OpenAI-compatible endpoint (`endpoint.py`) as
numbered data (`prompt.py`) and hands back one verdict for each.

**Fails** Closed: whatever goes wrong on this way, and whatever answer is not exactly what was asked for, means ``phi``.

**Limits** Nothing is kept: no cache, no line with a text. The socket is open to the node's own account alone.
"""

from dicomnode.judging.client import SocketAppeal, appeal_of
from dicomnode.judging.endpoint import Endpoint, NoVerdict
from dicomnode.judging.server import run_judge

__all__ = ["Endpoint", "NoVerdict", "SocketAppeal", "appeal_of", "run_judge"]
