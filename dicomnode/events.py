"""The words of the log: every event and every key that a line may hold, each with its meaning and, for events, who acts.

**Way** `log.py` lets nothing pass that is not named here, so a value of a data set cannot reach a line by a new key or a
formatted text. docs and tests read the same tables.

**Limits** A key says what its value means, not that the value is true: the callers answer for that.
"""

from __future__ import annotations

from collections.abc import Mapping

#: Event → what happened; who acts, when somebody must.
EVENTS: Mapping[str, str] = {
    # -- processes
    "node_started": "The supervisor runs and starts its children.",
    "node_ready": "Every process of the node works; until then connections wait.",
    "node_stopped": "The supervisor and all its children have ended.",
    "child_started": "The supervisor started a process of this role.",
    "child_exited": "A process of this role ended; the supervisor starts it again. Administrator, when it repeats.",
    "child_stuck": "A process showed no progress in its time; it is killed and started again. Developer, when it repeats.",
    "acceptor_started": "The acceptor listens.",
    "acceptor_failed": "The acceptor cannot have its port, or take a connection; it is tried again. Administrator.",
    "acceptor_stopped": "The acceptor has ended its associations and stopped.",
    "worker_started": "A worker has its models and claims instances.",
    "model_opened": "A worker has opened a model, which answered its sample as its card says.",
    "worker_stopped": "A worker has ended its instance and stopped.",
    "judge_started": "The judge takes questions of the workers about text in pictures.",
    "judge_failed": "The language model, or the judge, gave no verdicts; all text that it was asked about is blanked. "
    "Administrator: `dicomnode check`.",
    "judge_ready": "The language model judges again.",
    "judge_stopped": "The judge has given its last answers and stopped.",
    "sender_started": "The sender runs a lane per destination.",
    "sender_stopped": "The sender has ended its C-STOREs and stopped.",
    "keeper_started": "The keeper takes in, reclaims, removes and tells.",
    "keeper_stopped": "The keeper has stopped.",
    "config_reloaded": "The configuration was read anew and every process runs by it.",
    "config_rejected": "A configuration cannot be used; a running node keeps the old one. Administrator.",
    # -- the door
    "association_accepted": "A peer opened an association.",
    "association_rejected": "A peer was rejected at the door; count: so many more were before it, and had no line, because one "
    "address has twenty of them in ten seconds. Administrator, when the peer is one of ours.",
    "association_released": "An association ended in order.",
    "association_aborted": "An association broke off; what was not acknowledged comes again from the peer.",
    "instance_committed": "An instance is safe on disk and was acknowledged.",
    "instance_refused": "A C-STORE was answered with a failure; nothing was kept. Peer, or administrator for 0xA700.",
    # -- the way of an instance
    "instance_taken": "A row was made for a file of the spool.",
    "instance_done": "An instance is worked and its deliveries stand in the queue.",
    "instance_deferred": "An instance is tried again later.",
    "instance_held": "An instance waits for a person. Reviewer.",
    "instance_quarantined": "An instance cannot be worked. Reviewer, or developer for stage_failed and died_thrice.",
    "output_held": "An output of an instance waits for a person; the others leave. Reviewer.",
    "output_dropped": "An output that is never made of such an object is given up by rule (work.documents).",
    "deadline_passed": "An instance got nothing done for work.deadline_s; its worker starts again. Developer, when it repeats.",
    "instance_duplicate": "An instance was worked before; nothing is made.",
    "finding_abnormal": "A model calls a finding abnormal.",
    "tag_disagrees": "Body Part Examined of an instance names another body part than its picture shows. Administrator of the "
    "device, when it repeats: `dicomnode report tags`.",
    # -- the way of a delivery
    "delivery_done": "A destination has taken an output.",
    "delivery_deferred": "A destination has not taken an output for now; it is tried again.",
    "delivery_held": "An output waits for a person. Reviewer, or administrator for a refusal by the peer.",
    "delivery_expired": "An output was not taken within its lifetime and is set aside. Administrator.",
    "destination_down": "A destination does not answer; it is probed by C-ECHO. Administrator, when it lasts.",
    "destination_up": "A destination answers again.",
    "destination_blocked": "A destination refuses this node as a whole; its lane stops. Administrator.",
    "associations_limited": "A destination refuses a further association; those that stand go on. Administrator, if it lasts.",
    "window_closed": "The send window of a destination has closed; only what is urgent leaves.",
    "window_opened": "The send window of a destination has opened.",
    # -- keeping
    "lease_reclaimed": "A row was taken back from a process that died.",
    "files_removed": "Files were removed after their retention.",
    "leftovers_removed": "Unfinished files of broken associations or dead processes were removed.",
    "audit_done": "Receipts, files and rows were compared at the start; count breaches. Administrator: dicomnode queue verify.",
    "daily_summary": "What came, went and waits, once a day.",
    "disk_low": "The disk is nearly full; associations or instances are refused. Administrator.",
    "holds_grown": "Held and quarantined files take more room than set. Reviewer.",
    "hook_run": "The command of the setting keep.hook ran.",
    "hook_failed": "The command of the setting keep.hook could not run or failed. Administrator.",
    "queue_changed": "A person retried, released, dropped or hastened something by `dicomnode queue`.",
    "store_failed": "The spool or the queue could not be written. Administrator.",
    # -- faults
    "defect": "Something failed that should not: an error outside the tree of errors.py. Developer.",
    "library_message": "A library wrote a message; its text may hold patient data and is not shown.",
    "unlisted_event": "A line whose event is not in this catalogue; its text is not shown. Developer.",
}

#: Key → what its value means.
KEYS: Mapping[str, str] = {
    # -- fixed head
    "timestamp": "Time of the line, UTC, ISO 8601.",
    "level": "critical: the node stops; error: a person must act; warning: a person should look; info; debug.",
    "event": "What happened, a name of the catalogue.",
    "process": "Program that writes: serve, accept, judge, work, send, keep or a command.",
    "pid": "Its process id.",
    # -- who and what
    "instance_id": "The node's own name of an instance, the thread through all processes.",
    "association_id": "The node's own name of an association.",
    "peer": "Name of the configured peer.",
    "calling_ae": "Calling AE title.",
    "called_ae": "Called AE title.",
    "address": "Network address of the peer.",
    "port": "TCP port.",
    "sop_class": "SOP Class, name or UID.",
    "sop_instance_uid": "SOP Instance UID of the source, a keyed token unless log.uids is plain.",
    "result_uid": "SOP Instance UID of an output, a keyed token unless log.uids is plain.",
    "modality": "Modality (0008,0060).",
    "transfer_syntax": "Transfer Syntax UID or name.",
    "size_bytes": "Size of the data set or file.",
    # -- work
    "stage": "Stage of the pipeline.",
    "model": "Model by name.",
    "model_version": "Its version.",
    "provider": "Where the session runs, as onnxruntime reports it.",
    "body_part": "Body part, a word of the router or of the header reader, or uncertain.",
    "doubt": "Why picture or header decided no body part, a word of a closed set.",
    "tag": "What Body Part Examined says, a word of a closed set.",
    "device": "The sending device: a keyed token of its manufacturer, model, station and serial number.",
    "probability": "Of the body part or finding, 0 to 1.",
    "rule": "Routing rule that won.",
    "outputs": "Number of outputs made.",
    "findings": "Number of findings.",
    "regions": "Number of rectangles blanked.",
    "held": "Number of outputs held.",
    "attempt": "Which try this was, from 1.",
    "generation": "Which rework on purpose this was, from 0.",
    "spool_ms": "From the first byte to the acknowledgement, milliseconds.",
    "wait_ms": "In the queue, milliseconds.",
    "work_ms": "In the pipeline or one stage, milliseconds.",
    "send_ms": "In C-STORE, milliseconds.",
    # -- delivery
    "destination": "Name of the peer that an output goes to.",
    "kind": "Kind of output or row.",
    "next_attempt_at": "When it is tried again.",
    "dimse_status": "DIMSE status as text, 0xA700; none where no response came.",
    "reason": "Code of an error of errors.py, or a word of a closed set.",
    "state": "State of a row or destination.",
    # -- counts
    "count": "How many.",
    "bytes": "How many bytes.",
    "free_bytes": "Free bytes on the disk of the state directory.",
    "intake_bytes": "Of these, what new instances may take: without the room kept for holds.",
    "received": "Instances received.",
    "refused": "Instances refused.",
    "delivered": "Outputs delivered.",
    "waiting": "Instances or outputs that wait.",
    "quarantined": "Instances in quarantine.",
    "deaths": "Processes that died on this row.",
    # -- processes and people
    "version": "Version of dicomnode.",
    "config_digest": "SHA-256 over the configuration files.",
    "workers": "Number of worker processes.",
    "role": "Role of a child process.",
    "child_pid": "Process id of a child process.",
    "seconds": "How long, seconds.",
    "exit_code": "Exit code of a process, negative for a signal.",
    "user": "System account of the person who acted.",
    "act": "What the person did: retry, release, drop, urgent.",
    "hook": "Event that the hook was run for.",
    "setting": "Name of a setting.",
    "message": "Text of a configuration error: names file and key, never anything of a data set.",
    # -- faults
    "actor": "Who should act: administrator, peer, nobody, reviewer, developer.",
    "error_type": "Class of a foreign error; its text is never shown.",
    "traceback": "Its frames as file:line:function, outermost first.",
    "logger": "Library logger that wrote a message.",
    "source": "Where in the library, file:line.",
    "digest": "Keyed digest of its text, to tell messages apart.",
    "dropped": "Keys or values that the gate took out of this line. Developer.",
}
