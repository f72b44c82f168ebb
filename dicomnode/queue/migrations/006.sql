-- Version 6: certificates of redacted images. Never edit this file once a release has it.

-- What was blanked in an image that was made, and digests of what was not: JSON, see docs/certificate.md. No text of the pixels.
-- One for each object, in the transaction that ends its work; gone with its instance.
CREATE TABLE certificates (
    instance_id TEXT NOT NULL REFERENCES instances (instance_id) ON DELETE CASCADE,
    -- of the object that was made
    sop_instance_uid TEXT NOT NULL,
    generation INTEGER NOT NULL,
    at INTEGER NOT NULL,
    certificate TEXT NOT NULL,
    PRIMARY KEY (instance_id, sop_instance_uid)
) WITHOUT ROWID;
