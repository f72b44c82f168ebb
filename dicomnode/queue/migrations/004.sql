-- Version 4: what each of several models found, and two more kinds of output. Never edit this file once a release has it.

-- What each model that was asked found: a list of {model, version, finding, probability, abnormal}.
ALTER TABLE instances ADD COLUMN findings TEXT NOT NULL DEFAULT '[]';

-- SQLite changes no CHECK: the table is made anew, with its rows, indices, triggers and the view that reads it.
DROP VIEW accounts;

CREATE TABLE deliveries_of_more_kinds (
    delivery_id INTEGER PRIMARY KEY AUTOINCREMENT,
    instance_id TEXT NOT NULL REFERENCES instances (instance_id) ON DELETE CASCADE,
    generation INTEGER NOT NULL,
    kind TEXT NOT NULL CHECK (kind IN ('sr', 'sc', 'sc-map', 'seg', 'deidentified', 'original')),
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
    urgent INTEGER NOT NULL DEFAULT 0 CHECK (urgent IN (0, 1)),
    turn INTEGER NOT NULL DEFAULT 0,
    CHECK ((state = 'active') = (owner IS NOT NULL)),
    CHECK ((state = 'deferred') = (due_at IS NOT NULL)),
    CHECK (location <> '' OR state IN ('hold', 'dropped'))
);

INSERT INTO deliveries_of_more_kinds SELECT * FROM deliveries;
-- The numbers go on where they were, also behind rows that are gone.
UPDATE sqlite_sequence SET seq = (SELECT seq FROM sqlite_sequence WHERE name = 'deliveries')
WHERE name = 'deliveries_of_more_kinds';
INSERT INTO sqlite_sequence (name, seq)
SELECT 'deliveries_of_more_kinds', seq FROM sqlite_sequence
WHERE name = 'deliveries' AND NOT EXISTS (SELECT 1 FROM sqlite_sequence WHERE name = 'deliveries_of_more_kinds');
DROP TABLE deliveries;
ALTER TABLE deliveries_of_more_kinds RENAME TO deliveries;

CREATE UNIQUE INDEX deliveries_once ON deliveries (
    sop_instance_uid, destination, CASE kind WHEN 'original' THEN instance_id || '/' || generation ELSE '' END
) WHERE location <> '' AND state <> 'dropped';
CREATE INDEX deliveries_by_instance ON deliveries (instance_id);
CREATE INDEX deliveries_by_owner ON deliveries (owner) WHERE owner IS NOT NULL;
CREATE INDEX deliveries_with_file ON deliveries (location) WHERE file_gone = 0;
CREATE INDEX deliveries_by_state ON deliveries (state, destination, urgent, delivery_id);
CREATE INDEX deliveries_due ON deliveries (destination, urgent, due_at) WHERE state = 'deferred';

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

CREATE TRIGGER deliveries_began AFTER INSERT ON deliveries
BEGIN
    INSERT INTO happenings VALUES (
        NEW.instance_id, NEW.since, NEW.delivery_id, NEW.kind, NEW.destination, '', NEW.state, NEW.reason, NULL);
END;

CREATE TRIGGER deliveries_changed AFTER UPDATE OF state ON deliveries WHEN NEW.state <> OLD.state
BEGIN
    INSERT INTO happenings VALUES (
        NEW.instance_id,
        CASE WHEN NEW.since <> OLD.since THEN NEW.since ELSE CAST((julianday('now') - 2440587.5) * 86400000000 AS INTEGER) END,
        NEW.delivery_id, NEW.kind, NEW.destination, OLD.state,
        CASE WHEN OLD.state = 'active' AND NEW.state = 'ready' AND NEW.attempt < OLD.attempt THEN 'given back'
            ELSE NEW.state END,
        CASE WHEN NEW.state = 'active' OR NEW.attempt < OLD.attempt THEN '' ELSE NEW.reason END,
        CASE WHEN NEW.state IN ('delivered', 'deferred', 'hold') AND OLD.state = 'active' AND NEW.reason <> 'died_thrice'
            OR NEW.state = 'ready' AND NEW.reason <> '' AND NEW.attempt = OLD.attempt THEN NEW.status END);
END;

CREATE TRIGGER deliveries_file_removed AFTER UPDATE OF file_gone ON deliveries WHEN NEW.file_gone > OLD.file_gone
BEGIN
    INSERT INTO happenings VALUES (
        NEW.instance_id, CAST((julianday('now') - 2440587.5) * 86400000000 AS INTEGER),
        NEW.delivery_id, NEW.kind, NEW.destination, NEW.state, 'removed', '', NULL);
END;

CREATE TRIGGER deliveries_made_urgent AFTER UPDATE OF urgent ON deliveries WHEN NEW.urgent > OLD.urgent
BEGIN
    INSERT INTO happenings VALUES (
        NEW.instance_id, CAST((julianday('now') - 2440587.5) * 86400000000 AS INTEGER),
        NEW.delivery_id, NEW.kind, NEW.destination, NEW.state, 'urgent', '', NULL);
END;

CREATE TRIGGER deliveries_deleted AFTER DELETE ON deliveries
WHEN EXISTS (SELECT 1 FROM instances WHERE instance_id = OLD.instance_id)
BEGIN
    INSERT INTO happenings VALUES (
        OLD.instance_id, CAST((julianday('now') - 2440587.5) * 86400000000 AS INTEGER),
        OLD.delivery_id, OLD.kind, OLD.destination, OLD.state, 'replaced', '', NULL);
END;

CREATE VIEW accounts AS
SELECT instance_id, CASE
    WHEN state IN ('waiting', 'active', 'deferred') THEN 'waiting'
    WHEN state = 'hold' THEN 'held'
    WHEN state = 'quarantine' THEN 'quarantined'
    WHEN state <> 'done' THEN state
    WHEN EXISTS (
        SELECT 1 FROM deliveries AS d WHERE d.instance_id = i.instance_id AND d.state IN ('hold', 'expired')) THEN 'held'
    WHEN EXISTS (
        SELECT 1 FROM deliveries AS d WHERE d.instance_id = i.instance_id AND d.state IN ('ready', 'active', 'deferred'))
        THEN 'waiting'
    ELSE 'delivered' END AS account
FROM instances AS i;
