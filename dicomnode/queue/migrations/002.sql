-- Version 2: urgent deliveries go first. Never edit this file once a release has it.

-- 1: goes before others of its destination, also outside of the destination's send windows.
ALTER TABLE deliveries ADD COLUMN urgent INTEGER NOT NULL DEFAULT 0 CHECK (urgent IN (0, 1));
-- The turn within the batch that was claimed together: of what a dead process held, the first one was in hand.
ALTER TABLE deliveries ADD COLUMN turn INTEGER NOT NULL DEFAULT 0;

DROP INDEX deliveries_by_state;
CREATE INDEX deliveries_by_state ON deliveries (state, destination, urgent, delivery_id);
CREATE INDEX deliveries_due ON deliveries (destination, urgent, due_at) WHERE state = 'deferred';

-- How many urgent deliveries of a destination were claimed since the last ordinary one, so that its turn comes.
CREATE TABLE turns (
    destination TEXT PRIMARY KEY,
    urgent_run INTEGER NOT NULL
) WITHOUT ROWID;
