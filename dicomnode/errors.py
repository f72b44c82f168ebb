"""The error tree: the question each branch answers is *does trying again help, and who acts?*

::

    DicomNodeError
      ConfigError            administrator; refuse to start (exit 78), or keep the old configuration
        BadSetting · MissingModel · DigestMismatch · BadCard · NoSuchPeer · BadRule · ProgramMissing
      Refused                the peer; answered at the door, nothing kept
        OutOfResources 0xA700 · DatasetMismatch 0xA900 · CannotUnderstand 0xC000
      Transient              nobody yet; deferred with backoff
        PeerUnavailable · AssociationRejectedTransient · NoStatus · PeerOutOfResources · SpoolFull · StoreFailed ·
        LeaseLost · SiblingActive · QueueUnavailable (QueueDamaged) · CannotListen
      Permanent              a person; an instance goes to quarantine, an output or delivery to hold
        Undecodable · UnsupportedTransferSyntax · StageFailed · RedactionUncertain (TextLeft) ·
        NoPicture · PixelsDiffer · ContentDiffers · BodyPartUncertain · TagDisagrees · DiedThrice · NoPresentationContext ·
        RefusedByPeer · AssociationRejected · ReleaseRefused · FileMissing
      Expired                a person; the lifetime of a delivery was reached
      HeaderDiffers          nobody; a note on a row, never raised
      NotFound               the caller of a command named something that is not there

**Way** Every leaf carries ``code`` (the closed set of reasons that logs and rows use), ``retry``, ``status`` (the DIMSE
status that the door answers, or None) and ``actor``. A message may name settings, files of ours and tags; it never holds
a value out of a data set: messages travel to logs and rows, patient data must not.

**Fails** Anything that is not of this tree is a defect: logged with its traceback, the instance quarantined.

**Standard** PS3.4 Table B.2-1 and PS3.7 Annex C for the statuses.
"""

from __future__ import annotations

from typing import ClassVar, Literal

#: Exit codes of commands; 78 is EX_CONFIG of sysexits.h, as systemd knows it.
EXIT_FAILURE = 1
EXIT_CONFIG = 78

Actor = Literal["administrator", "peer", "nobody", "reviewer", "developer"]


class DicomNodeError(Exception):
    """Something of dicomnode went wrong in a way that the node knows how to answer."""

    code: ClassVar[str] = "error"
    retry: ClassVar[bool] = False
    status: ClassVar[int | None] = None
    actor: ClassVar[Actor] = "developer"


class ConfigError(DicomNodeError):
    """The configuration cannot be used; the message names file and key."""

    code = "config_error"
    actor: ClassVar[Actor] = "administrator"


class BadSetting(ConfigError):
    """A setting is unknown, missing or out of its range."""

    code = "bad_setting"


class MissingModel(ConfigError):
    """A model that a route names has no folder, card or ONNX file."""

    code = "missing_model"


class DigestMismatch(ConfigError):
    """A model file is not the one that its card describes."""

    code = "digest_mismatch"


class BadCard(ConfigError):
    """A model card is incomplete or contradicts its model."""

    code = "bad_card"


class NoSuchPeer(ConfigError):
    """A route or command names a peer that has no file under peers/."""

    code = "no_such_peer"


class BadRule(ConfigError):
    """A routing rule can never work as written."""

    code = "bad_rule"


class ProgramMissing(ConfigError):
    """A program that the node needs (tesseract) is not installed."""

    code = "program_missing"


class Refused(DicomNodeError):
    """The door answers the peer with a failure status and keeps nothing."""

    code = "refused"
    status = 0xC000
    actor: ClassVar[Actor] = "peer"


class OutOfResources(Refused):
    """The spool cannot take the instance now (PS3.4 B.2.3: A7xx, Refused: Out of Resources)."""

    code = "out_of_resources"
    status = 0xA700
    actor: ClassVar[Actor] = "administrator"


class DatasetMismatch(Refused):
    """The data set is of another SOP Class or Instance than the command says (A9xx)."""

    code = "dataset_mismatch"
    status = 0xA900


class CannotUnderstand(Refused):
    """The data set cannot be read up to its SOP Instance UID (Cxxx)."""

    code = "cannot_understand"
    status = 0xC000


class Transient(DicomNodeError):
    """Trying again later helps; the row is deferred with backoff."""

    code = "transient"
    retry = True
    actor: ClassVar[Actor] = "nobody"


class PeerUnavailable(Transient):
    """The destination does not answer at its address."""

    code = "peer_unavailable"


class AssociationRejectedTransient(Transient):
    """The destination rejected the association for now (PS3.8 9.3.4, result 2)."""

    code = "association_rejected_transient"


class NoStatus(Transient):
    """The association ended without a C-STORE response: the outcome is unknown, so the C-STORE is repeated."""

    code = "no_status"


class PeerOutOfResources(Transient):
    """The destination answered that it lacks resources (A7xx, 0x0213)."""

    code = "peer_out_of_resources"


class SpoolFull(Transient):
    """The node has no room to write a result; the instance waits."""

    code = "spool_full"
    actor: ClassVar[Actor] = "administrator"


class StoreFailed(Transient):
    """A file of the node cannot be read or written now: no permission, too many open files, a failing disk."""

    code = "store_failed"
    actor: ClassVar[Actor] = "administrator"


class LeaseLost(Transient):
    """The claim on a row went to another process before this one finished; this one's result is dropped."""

    code = "lease_lost"


class SiblingActive(Transient):
    """An earlier instance with the same SOP Instance UID is still being worked."""

    code = "sibling_active"


class QueueUnavailable(Transient):
    """The queue cannot be asked now: it is locked, unreachable or damaged."""

    code = "queue_unavailable"
    actor: ClassVar[Actor] = "administrator"


class QueueDamaged(QueueUnavailable):
    """The file of the queue is no sound database; it can be made anew from the spool."""

    code = "queue_damaged"


class CannotListen(Transient):
    """The port cannot be listened on now: another program has it, or the system lacks something; the acceptor tries again."""

    code = "cannot_listen"
    actor: ClassVar[Actor] = "administrator"


class Permanent(DicomNodeError):
    """Trying again does not help; a person decides."""

    code = "permanent"
    actor: ClassVar[Actor] = "reviewer"


class Undecodable(Permanent):
    """The data set or its pixels cannot be decoded; undecodable is never clean."""

    code = "undecodable"


class UnsupportedTransferSyntax(Permanent):
    """No decoder for this transfer syntax is installed."""

    code = "unsupported_transfer_syntax"
    actor: ClassVar[Actor] = "administrator"


class StageFailed(Permanent):
    """A stage raised something that it should not have; the traceback is in the log."""

    code = "stage_failed"
    actor: ClassVar[Actor] = "developer"


class RedactionUncertain(Permanent):
    """Text in the pixels cannot be judged; held for review and never released by a retry."""

    code = "redaction_uncertain"


class TextLeft(RedactionUncertain):
    """After blanking, a second look at the pixels still found text that identifies; held for review like all uncertainty."""

    code = "text_left_after_blanking"


class NoPicture(Permanent):
    """A report, waveform or other object without pictures is wanted without identity, which nothing here can give it."""

    code = "no_picture"


class PixelsDiffer(Permanent):
    """A SOP Instance UID came again with other pixels; both are kept and a person decides."""

    code = "pixels_differ"


class ContentDiffers(Permanent):
    """A SOP Instance UID came again with other bytes and no pixels to compare; both are kept and a person decides."""

    code = "content_differs"


class BodyPartUncertain(Permanent):
    """Neither picture nor header tells the body part, and the rule wants a person to decide; never released by a retry."""

    code = "body_part_uncertain"


class TagDisagrees(Permanent):
    """Body Part Examined names another body part than the picture shows, and the rule wants a person to decide."""

    code = "tag_disagrees"


class DiedThrice(Permanent):
    """Three processes died while they worked on this instance."""

    code = "died_thrice"
    actor: ClassVar[Actor] = "developer"


class NoPresentationContext(Permanent):
    """The destination accepts no presentation context for this output."""

    code = "no_presentation_context"
    actor: ClassVar[Actor] = "administrator"


class RefusedByPeer(Permanent):
    """The destination answered with a failure that repeating does not change (A9xx, Cxxx, 0x0117, 0x0122)."""

    code = "refused_by_peer"
    actor: ClassVar[Actor] = "administrator"


class AssociationRejected(Permanent):
    """The destination rejected the association for good (PS3.8 9.3.4, result 1) or refused us (0x0124)."""

    code = "association_rejected"
    actor: ClassVar[Actor] = "administrator"


class ReleaseRefused(Permanent):
    """The release check found that this output must not leave for this peer."""

    code = "release_refused"


class FileMissing(Permanent):
    """A row names a file that is not in the spool."""

    code = "file_missing"
    actor: ClassVar[Actor] = "administrator"


class Expired(DicomNodeError):
    """A delivery reached the end of its lifetime without being taken."""

    code = "expired"
    actor: ClassVar[Actor] = "administrator"


class HeaderDiffers(DicomNodeError):
    """A SOP Instance UID came again with the same pixels under another header; only its original is passed on."""

    code = "header_differs"
    actor: ClassVar[Actor] = "nobody"


class NotFound(DicomNodeError):
    """A command named an instance, delivery or file that the node does not have."""

    code = "not_found"
    actor: ClassVar[Actor] = "administrator"


def leaves() -> dict[str, type[DicomNodeError]]:
    """Every error class by its ``code``, branches included."""
    found: dict[str, type[DicomNodeError]] = {}
    todo: list[type[DicomNodeError]] = [DicomNodeError]
    while todo:
        error = todo.pop()
        found[error.code] = error
        todo.extend(error.__subclasses__())
    return found
