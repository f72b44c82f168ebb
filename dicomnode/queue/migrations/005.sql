-- Version 5: what picture and Body Part Examined said of each instance, and how often they agreed. Never edit this file once a
-- release has it.

-- Why the body part was uncertain, empty where it was not; what Body Part Examined said; whether that agreed with a picture
-- that was certain. Words of closed sets. The device is a keyed token of what the header says of it.
ALTER TABLE instances ADD COLUMN doubt TEXT NOT NULL DEFAULT '';
ALTER TABLE instances ADD COLUMN picture TEXT NOT NULL DEFAULT '';
ALTER TABLE instances ADD COLUMN tag TEXT NOT NULL DEFAULT '';
ALTER TABLE instances ADD COLUMN agreement TEXT NOT NULL DEFAULT '';
ALTER TABLE instances ADD COLUMN device TEXT NOT NULL DEFAULT '';
-- 1: a person has looked at what it shows; no policy of a rule holds its outputs any more.
ALTER TABLE instances ADD COLUMN settled INTEGER NOT NULL DEFAULT 0 CHECK (settled IN (0, 1));

-- How often a device called a body part what, by day of reception; outlives the instances that were counted. Each instance is
-- counted once, in the transaction that first ends its work. Days are counted since 1970 in UTC.
CREATE TABLE tags (
    day INTEGER NOT NULL,
    calling_ae TEXT NOT NULL,
    device TEXT NOT NULL,
    picture TEXT NOT NULL,
    tag TEXT NOT NULL,
    agreement TEXT NOT NULL CHECK (agreement IN ('agrees', 'disagrees', 'absent', 'not_comparable')),
    count INTEGER NOT NULL,
    -- The newest of these instances, for who wants to look at one.
    instance_id TEXT NOT NULL,
    PRIMARY KEY (day, calling_ae, device, picture, tag, agreement)
) WITHOUT ROWID;
