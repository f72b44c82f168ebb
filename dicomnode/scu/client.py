"""The client side of commands: send files once, ask a peer what it takes.

**Way** `send_files` sends Part 10 files over one association and gives a `Verdict` each; `echo` measures a C-ECHO and tries
the SOP Classes that results and images come in, each with each transfer syntax.

**Fails** Both raise what `Link.open` raises when there is no association. A file that is none gives a refused `Verdict`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydicom import uid

from dicomnode import contexts
from dicomnode.errors import NoPresentationContext, Undecodable
from dicomnode.header import header
from dicomnode.records import Verdict
from dicomnode.scu.handshake import MAX_CONTEXTS, Context
from dicomnode.scu.link import Link
from dicomnode.settings import Peer

#: What `echo` asks for: the SR classes in the order in which settings name them, SC, then images.
SR_CLASSES: Mapping[str, str] = {
    "comprehensive-3d": str(uid.Comprehensive3DSRStorage), "comprehensive": str(uid.ComprehensiveSRStorage),
    "enhanced": str(uid.EnhancedSRStorage), "basic-text": str(uid.BasicTextSRStorage),
}
_IMAGES = tuple(map(str, (
    uid.SecondaryCaptureImageStorage, uid.ComputedRadiographyImageStorage, uid.DigitalXRayImageStorageForPresentation,
    uid.CTImageStorage, uid.MRImageStorage, uid.UltrasoundImageStorage, uid.DigitalMammographyXRayImageStorageForPresentation,
)))
_IMAGE_SYNTAXES = (
    contexts.EXPLICIT, contexts.IMPLICIT, *map(str, (
        uid.RLELossless, uid.JPEGLosslessSV1, uid.JPEGLSLossless, uid.JPEG2000Lossless, uid.JPEGBaseline8Bit,
    )),
)


@dataclass(frozen=True, slots=True)
class EchoReport:
    """What a peer answered."""

    #: Wall time of association request and C-ECHO, milliseconds.
    association_ms: float
    echo_ms: float
    #: C-ECHO was answered with success; False where the peer does not take Verification.
    echo: bool
    #: SOP Class UID → transfer syntax UIDs that the peer accepts; empty where it takes none.
    accepted: Mapping[str, tuple[str, ...]]

    @property
    def sr_classes(self) -> tuple[str, ...]:
        """SR classes that the peer takes, by the names that ``sr_class`` has in settings, best first."""
        return tuple(name for name, sop_class in SR_CLASSES.items() if self.accepted.get(sop_class))


def echo(calling_ae: str, peer: Peer, timeout_s: float = 30) -> EchoReport:
    """Ask a peer by C-ECHO and by presentation contexts; raises when there is no association."""
    wanted: list[Context] = [(contexts.VERIFICATION, contexts.IMPLICIT)]
    wanted += [(sop_class, syntax) for sop_class in SR_CLASSES.values() for syntax in (contexts.EXPLICIT, contexts.IMPLICIT)]
    wanted += [(sop_class, syntax) for sop_class in _IMAGES for syntax in _IMAGE_SYNTAXES]
    started = time.perf_counter()
    try:
        link = Link.open(peer, calling_ae, wanted, timeout_s)
    except NoPresentationContext:
        return EchoReport(_since(started), 0.0, False, {name: () for name, _ in wanted})
    association_ms = _since(started)
    started = time.perf_counter()
    answered = link.echo()
    echo_ms = _since(started)
    link.close()
    accepted: dict[str, tuple[str, ...]] = {sop_class: () for sop_class, _ in wanted[1:]}
    for sop_class, syntax in wanted[1:]:
        if (sop_class, syntax) in link.accepted:
            accepted[sop_class] = (*accepted[sop_class], syntax)
    return EchoReport(association_ms, echo_ms, answered, accepted)


def send_files(
    paths: Sequence[Path], peer: Peer, calling_ae: str, *, timeout_s: float = 60,
    progress: Callable[[Path, Verdict], None] = lambda _path, _verdict: None,
) -> list[Verdict]:
    """Send files to a peer once each, over as few associations as their contexts need; no retries.

    Raises
    ------
    PeerUnavailable, AssociationRejectedTransient, AssociationRejected
        There is no association, so nothing more was sent.
    """
    needed = {path: _context(path) for path in paths}
    wanted = sorted({context for context in needed.values() if context is not None})
    verdicts: dict[Path, Verdict] = {}
    for start in range(0, len(wanted), MAX_CONTEXTS):
        group = set(wanted[start:start + MAX_CONTEXTS])
        link: Link | None = None
        for path in (path for path in paths if needed[path] in group):
            try:
                if link is None or not link.alive:
                    link = Link.open(peer, calling_ae, group, timeout_s)
                context = needed[path]
                if context is None or context not in link.accepted:
                    verdict = Verdict("refused", NoPresentationContext.code)
                else:
                    verdict = link.send(path, context, path.stat().st_size)
            except NoPresentationContext as error:
                verdict = Verdict("refused", error.code)
            verdicts[path] = verdict
            progress(path, verdict)
        if link is not None:
            link.close()
    for path in paths:
        if path not in verdicts:
            verdicts[path] = Verdict("refused", Undecodable.code)
            progress(path, verdicts[path])
    return [verdicts[path] for path in paths]


def _context(path: Path) -> Context | None:
    try:
        with path.open("rb") as stream:
            if stream.read(132)[128:] != b"DICM":
                return None
            instance = header(stream, instance_id="", location="", node_id="")
    except (OSError, Undecodable):
        return None
    return instance.sop_class_uid, instance.transfer_syntax_uid


def _since(started: float) -> float:
    return round((time.perf_counter() - started) * 1000, 1)
