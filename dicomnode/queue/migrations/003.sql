-- Version 3: the ledger, what a person calls urgent, and the token of the Accession Number. Never edit this file once a
-- release has it.

-- The Accession Number stands nowhere; this is its keyed token, empty where there is none.
ALTER TABLE instances ADD COLUMN accession_token TEXT NOT NULL DEFAULT '';
-- Process id of the acceptor that received it, 0 where nobody knows.
ALTER TABLE instances ADD COLUMN acceptor_pid INTEGER NOT NULL DEFAULT 0;
-- 1: a person said that it goes first, and so do its deliveries.
ALTER TABLE instances ADD COLUMN urgent INTEGER NOT NULL DEFAULT 0 CHECK (urgent IN (0, 1));

CREATE INDEX instances_by_accession ON instances (accession_token, instance_id) WHERE accession_token <> '';
CREATE INDEX instances_by_study ON instances (study_instance_uid, instance_id);
CREATE INDEX instances_urgent ON instances (instance_id) WHERE urgent = 1 AND state IN ('waiting', 'deferred');

-- A person may also call something urgent.
CREATE TABLE acts_of_people (
    act_id INTEGER PRIMARY KEY,
    instance_id TEXT NOT NULL,
    at INTEGER NOT NULL,
    who TEXT NOT NULL,
    what TEXT NOT NULL CHECK (what IN ('retry', 'release', 'drop', 'urgent')),
    rows INTEGER NOT NULL
);
INSERT INTO acts_of_people SELECT * FROM acts;
DROP TABLE acts;
ALTER TABLE acts_of_people RENAME TO acts;
CREATE INDEX acts_by_instance ON acts (instance_id);

-- Who did something: "boot id:pid:start ticks" of a process, or "person " and the account.
CREATE TABLE actors (
    actor_id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE
);

-- What happened to each instance and delivery, written by the triggers below and nowhere else, so that no code forgets it.
-- Old and new are states; new is also "given back" (by the process that held it), "removed" (the file), "replaced" (a held
-- output, by the next work), "deleted" (the row, to be read anew) and "urgent". What comes again and again in the same way,
-- as a claim and a deferral do, is one row with its times. Rows go when their instance is forgotten.
CREATE TABLE history (
    instance_id TEXT NOT NULL,
    event INTEGER NOT NULL,
    at INTEGER NOT NULL,
    last_at INTEGER NOT NULL,
    times INTEGER NOT NULL DEFAULT 1,
    -- 0: of the instance itself
    delivery_id INTEGER NOT NULL,
    kind TEXT NOT NULL,
    destination TEXT NOT NULL,
    old TEXT NOT NULL,
    new TEXT NOT NULL,
    reason TEXT NOT NULL,
    status INTEGER,
    actor_id INTEGER NOT NULL,
    PRIMARY KEY (instance_id, event)
) WITHOUT ROWID;

CREATE VIEW happenings AS SELECT instance_id, at, delivery_id, kind, destination, old, new, reason, status FROM history;

-- dicomnode_actor() is given by each connection of the node; nothing else can change rows, for nobody would know who it was.
CREATE TRIGGER happenings_kept INSTEAD OF INSERT ON happenings
BEGIN
    INSERT INTO actors (name)
    SELECT dicomnode_actor() WHERE NOT EXISTS (SELECT 1 FROM actors WHERE name = dicomnode_actor());
    INSERT INTO history (
        instance_id, event, at, last_at, delivery_id, kind, destination, old, new, reason, status, actor_id)
    SELECT
        NEW.instance_id,
        coalesce(
            (SELECT event FROM (
                SELECT event, old, new, reason, status, actor_id FROM history
                WHERE instance_id = NEW.instance_id AND delivery_id = NEW.delivery_id ORDER BY event DESC LIMIT 2)
            WHERE old = NEW.old AND new = NEW.new AND reason = NEW.reason AND status IS NEW.status AND actor_id = a.actor_id),
            (SELECT max(event) + 1 FROM history WHERE instance_id = NEW.instance_id),
            1),
        NEW.at, NEW.at, NEW.delivery_id, NEW.kind, NEW.destination, NEW.old, NEW.new, NEW.reason, NEW.status, a.actor_id
    FROM actors AS a WHERE a.name = dicomnode_actor()
    ON CONFLICT (instance_id, event) DO UPDATE SET times = times + 1, last_at = excluded.at;
END;

CREATE TRIGGER instances_began AFTER INSERT ON instances
BEGIN
    INSERT INTO happenings VALUES (NEW.instance_id, NEW.since, 0, '', '', '', NEW.state, NEW.reason, NULL);
END;

-- A claim keeps since when it was claimed; what changes without a new time is timed by the clock.
CREATE TRIGGER instances_changed AFTER UPDATE OF state ON instances WHEN NEW.state <> OLD.state
BEGIN
    INSERT INTO happenings VALUES (
        NEW.instance_id,
        CASE WHEN NEW.since <> OLD.since THEN NEW.since ELSE CAST((julianday('now') - 2440587.5) * 86400000000 AS INTEGER) END,
        0, '', '', OLD.state,
        CASE WHEN OLD.state = 'active' AND NEW.state = 'waiting' AND NEW.attempt < OLD.attempt THEN 'given back'
            ELSE NEW.state END,
        NEW.reason, NULL);
END;

CREATE TRIGGER instances_file_removed AFTER UPDATE OF file_gone ON instances WHEN NEW.file_gone > OLD.file_gone
BEGIN
    INSERT INTO happenings VALUES (
        NEW.instance_id, CAST((julianday('now') - 2440587.5) * 86400000000 AS INTEGER), 0, '', '', NEW.state, 'removed', '', NULL);
END;

CREATE TRIGGER instances_made_urgent AFTER UPDATE OF urgent ON instances WHEN NEW.urgent > OLD.urgent
BEGIN
    INSERT INTO happenings VALUES (
        NEW.instance_id, CAST((julianday('now') - 2440587.5) * 86400000000 AS INTEGER), 0, '', '', NEW.state, 'urgent', '', NULL);
END;

CREATE TRIGGER instances_deleted AFTER DELETE ON instances
BEGIN
    INSERT INTO happenings VALUES (
        OLD.instance_id, CAST((julianday('now') - 2440587.5) * 86400000000 AS INTEGER), 0, '', '', OLD.state, 'deleted', '', NULL);
END;

CREATE TRIGGER deliveries_began AFTER INSERT ON deliveries
BEGIN
    INSERT INTO happenings VALUES (
        NEW.instance_id, NEW.since, NEW.delivery_id, NEW.kind, NEW.destination, '', NEW.state, NEW.reason, NULL);
END;

-- A claim says nothing of reason and status: what stands there is of the try before it.
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

-- Not when the instance itself is deleted, whose row is gone by then.
CREATE TRIGGER deliveries_deleted AFTER DELETE ON deliveries
WHEN EXISTS (SELECT 1 FROM instances WHERE instance_id = OLD.instance_id)
BEGIN
    INSERT INTO happenings VALUES (
        OLD.instance_id, CAST((julianday('now') - 2440587.5) * 86400000000 AS INTEGER),
        OLD.delivery_id, OLD.kind, OLD.destination, OLD.state, 'replaced', '', NULL);
END;

-- Every instance on exactly one side of the account; one that is done is delivered when all of its deliveries have ended.
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
