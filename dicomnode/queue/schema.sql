-- Version 1 of the queue. Never edit this file once a release has it: changes go to migrations/002.sql and on.
-- Times are microseconds since 1970 in UTC, an owner is "boot id:pid:start ticks". No column takes text of a person.

CREATE TABLE transitions (
    kind TEXT NOT NULL CHECK (kind IN ('instance', 'delivery')),
    old TEXT NOT NULL,
    new TEXT NOT NULL,
    why TEXT NOT NULL,
    PRIMARY KEY (kind, old, new)
) WITHOUT ROWID;

INSERT INTO transitions (kind, old, new, why) VALUES
    ('instance', 'waiting', 'active', 'claimed'),
    ('instance', 'deferred', 'active', 'claimed when due'),
    ('instance', 'active', 'done', 'worked'),
    ('instance', 'active', 'deferred', 'to be tried again'),
    ('instance', 'active', 'hold', 'a person must look'),
    ('instance', 'active', 'quarantine', 'cannot be worked, or third death'),
    ('instance', 'active', 'duplicate', 'same pixels worked before'),
    ('instance', 'active', 'waiting', 'its process died'),
    ('instance', 'deferred', 'waiting', 'retried by a person'),
    ('instance', 'hold', 'waiting', 'retried or released by a person'),
    ('instance', 'quarantine', 'waiting', 'retried by a person'),
    ('instance', 'done', 'waiting', 'retried or released by a person: next generation'),
    ('instance', 'waiting', 'dropped', 'given up by a person'),
    ('instance', 'active', 'dropped', 'given up by a person'),
    ('instance', 'deferred', 'dropped', 'given up by a person'),
    ('instance', 'hold', 'dropped', 'given up by a person'),
    ('instance', 'quarantine', 'dropped', 'given up by a person'),
    ('delivery', 'ready', 'active', 'claimed'),
    ('delivery', 'deferred', 'active', 'claimed when due'),
    ('delivery', 'active', 'delivered', 'taken by the destination'),
    ('delivery', 'active', 'deferred', 'to be tried again'),
    ('delivery', 'active', 'hold', 'refused for good, or third death'),
    ('delivery', 'active', 'ready', 'given back, or its process died'),
    ('delivery', 'ready', 'expired', 'lifetime reached'),
    ('delivery', 'deferred', 'expired', 'lifetime reached'),
    ('delivery', 'deferred', 'ready', 'retried by a person'),
    ('delivery', 'hold', 'ready', 'retried or released by a person'),
    ('delivery', 'expired', 'ready', 'retried by a person'),
    ('delivery', 'ready', 'dropped', 'given up by a person'),
    ('delivery', 'active', 'dropped', 'given up by a person'),
    ('delivery', 'deferred', 'dropped', 'given up by a person'),
    ('delivery', 'hold', 'dropped', 'given up by a person'),
    ('delivery', 'expired', 'dropped', 'given up by a person');

CREATE TABLE instances (
    instance_id TEXT PRIMARY KEY,
    state TEXT NOT NULL CHECK (
        state IN ('waiting', 'active', 'deferred', 'done', 'hold', 'quarantine', 'duplicate', 'own', 'dropped')
    ),
    reason TEXT NOT NULL DEFAULT '',
    since INTEGER NOT NULL,
    due_at INTEGER,
    owner TEXT,
    attempt INTEGER NOT NULL DEFAULT 0,
    deaths INTEGER NOT NULL DEFAULT 0,
    generation INTEGER NOT NULL DEFAULT 0,
    waived INTEGER NOT NULL DEFAULT 0,
    accepted INTEGER NOT NULL DEFAULT 0,
    -- outputs that are to be made, a list of [kind, destination]; empty is all
    asked TEXT NOT NULL DEFAULT '',
    -- the file; an empty sha256 means that its header could not be read
    location TEXT NOT NULL,
    file_gone INTEGER NOT NULL DEFAULT 0,
    size_bytes INTEGER NOT NULL,
    sha256 TEXT NOT NULL DEFAULT '',
    sop_class_uid TEXT NOT NULL DEFAULT '',
    sop_instance_uid TEXT NOT NULL DEFAULT '',
    series_instance_uid TEXT NOT NULL DEFAULT '',
    study_instance_uid TEXT NOT NULL DEFAULT '',
    transfer_syntax_uid TEXT NOT NULL DEFAULT '',
    modality TEXT NOT NULL DEFAULT '',
    calling_ae TEXT NOT NULL DEFAULT '',
    called_ae TEXT NOT NULL DEFAULT '',
    address TEXT NOT NULL DEFAULT '',
    received_at INTEGER NOT NULL,
    own_result INTEGER NOT NULL DEFAULT 0,
    -- the result; made counts the deliveries that there must be
    made INTEGER NOT NULL DEFAULT 0,
    body_part TEXT NOT NULL DEFAULT '',
    probability REAL NOT NULL DEFAULT 0,
    rule TEXT NOT NULL DEFAULT '',
    model TEXT NOT NULL DEFAULT '',
    finding TEXT NOT NULL DEFAULT '',
    finding_probability REAL NOT NULL DEFAULT 0,
    abnormal INTEGER NOT NULL DEFAULT 0,
    told INTEGER NOT NULL DEFAULT 0,
    regions INTEGER NOT NULL DEFAULT 0,
    pixel_digest TEXT NOT NULL DEFAULT '',
    stage_ms TEXT NOT NULL DEFAULT '{}',
    CHECK ((state = 'active') = (owner IS NOT NULL)),
    CHECK ((state = 'deferred') = (due_at IS NOT NULL)),
    CHECK (own_result = (state = 'own'))
);

CREATE INDEX instances_by_state ON instances (state, instance_id);
CREATE INDEX instances_by_uid ON instances (sop_instance_uid, instance_id);
CREATE INDEX instances_by_owner ON instances (owner) WHERE owner IS NOT NULL;
CREATE INDEX instances_with_file ON instances (location) WHERE file_gone = 0;
CREATE INDEX instances_without_file ON instances (since) WHERE file_gone = 1;
CREATE INDEX instances_to_tell ON instances (instance_id) WHERE abnormal = 1 AND told = 0;

CREATE TRIGGER instances_transition BEFORE UPDATE OF state ON instances
WHEN NEW.state <> OLD.state
    AND NOT EXISTS (SELECT 1 FROM transitions WHERE kind = 'instance' AND old = OLD.state AND new = NEW.state)
BEGIN
    SELECT RAISE(ABORT, 'an instance cannot change between these states');
END;

CREATE TRIGGER instances_birth BEFORE INSERT ON instances
WHEN NEW.state NOT IN ('waiting', 'quarantine', 'duplicate', 'own')
BEGIN
    SELECT RAISE(ABORT, 'an instance cannot begin in this state');
END;

CREATE TABLE deliveries (
    delivery_id INTEGER PRIMARY KEY AUTOINCREMENT,
    instance_id TEXT NOT NULL REFERENCES instances (instance_id) ON DELETE CASCADE,
    generation INTEGER NOT NULL,
    kind TEXT NOT NULL CHECK (kind IN ('sr', 'sc', 'deidentified', 'original')),
    destination TEXT NOT NULL,
    state TEXT NOT NULL CHECK (
        state IN ('ready', 'active', 'deferred', 'delivered', 'hold', 'expired', 'dropped')
    ),
    reason TEXT NOT NULL DEFAULT '',
    status INTEGER,
    since INTEGER NOT NULL,
    due_at INTEGER,
    owner TEXT,
    attempt INTEGER NOT NULL DEFAULT 0,
    deaths INTEGER NOT NULL DEFAULT 0,
    created_at INTEGER NOT NULL,
    -- the lifetime counts from here: creation, or the retry by a person
    life_from INTEGER NOT NULL,
    -- an empty location means that the output was held before it was made
    location TEXT NOT NULL DEFAULT '',
    file_gone INTEGER NOT NULL DEFAULT 0,
    sop_class_uid TEXT NOT NULL DEFAULT '',
    sop_instance_uid TEXT NOT NULL DEFAULT '',
    transfer_syntax_uid TEXT NOT NULL DEFAULT '',
    identity TEXT NOT NULL DEFAULT '' CHECK (identity IN ('', 'kept', 'removed')),
    CHECK ((state = 'active') = (owner IS NOT NULL)),
    CHECK ((state = 'deferred') = (due_at IS NOT NULL)),
    CHECK (location <> '' OR state IN ('hold', 'dropped'))
);

-- A result is delivered once to each destination, unless a person dropped it; an original keeps its UID, so there each
-- instance and generation counts.
CREATE UNIQUE INDEX deliveries_once ON deliveries (
    sop_instance_uid, destination, CASE kind WHEN 'original' THEN instance_id || '/' || generation ELSE '' END
) WHERE location <> '' AND state <> 'dropped';
CREATE INDEX deliveries_by_instance ON deliveries (instance_id);
CREATE INDEX deliveries_by_state ON deliveries (state, destination, delivery_id);
CREATE INDEX deliveries_by_owner ON deliveries (owner) WHERE owner IS NOT NULL;
CREATE INDEX deliveries_with_file ON deliveries (location) WHERE file_gone = 0;

CREATE TRIGGER deliveries_transition BEFORE UPDATE OF state ON deliveries
WHEN NEW.state <> OLD.state
    AND NOT EXISTS (SELECT 1 FROM transitions WHERE kind = 'delivery' AND old = OLD.state AND new = NEW.state)
BEGIN
    SELECT RAISE(ABORT, 'a delivery cannot change between these states');
END;

CREATE TRIGGER deliveries_birth BEFORE INSERT ON deliveries
WHEN NEW.state NOT IN ('ready', 'hold')
BEGIN
    SELECT RAISE(ABORT, 'a delivery cannot begin in this state');
END;

CREATE TABLE destinations (
    name TEXT PRIMARY KEY,
    state TEXT NOT NULL CHECK (state IN ('up', 'down', 'blocked')),
    reason TEXT NOT NULL DEFAULT '',
    since INTEGER NOT NULL
) WITHOUT ROWID;

-- What people did. Outlives the rows it is about until these are forgotten.
CREATE TABLE acts (
    act_id INTEGER PRIMARY KEY,
    instance_id TEXT NOT NULL,
    at INTEGER NOT NULL,
    who TEXT NOT NULL,
    what TEXT NOT NULL CHECK (what IN ('retry', 'release', 'drop')),
    rows INTEGER NOT NULL
);

CREATE INDEX acts_by_instance ON acts (instance_id);
