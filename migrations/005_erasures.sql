-- Entities that were erased: their events from before stay out. Of an entity only a keyed hash stays (the key is in the file
-- erasure.key beside the history).

CREATE TABLE weir_erasures (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    entity TEXT NOT NULL,
    key_hash BLOB NOT NULL,         -- HMAC-SHA256
    state TEXT NOT NULL,            -- 'erasing': gone from the history's tables; 'unnamed': gone everywhere but from free space; 'done'
    work TEXT,                      -- JSON: what has to be done while it is 'erasing'; names the entity
    last_sequence INTEGER NOT NULL, -- no later event has this number, though it may be gone
    letters INTEGER NOT NULL,       -- dead letters before this number are older than the erasure
    receipt TEXT NOT NULL           -- JSON
) STRICT;

-- How far each source was read at the erasure.
CREATE TABLE weir_erasure_positions (
    erasure INTEGER NOT NULL REFERENCES weir_erasures (number),
    source INTEGER NOT NULL REFERENCES weir_sources (id),
    position INTEGER NOT NULL,
    PRIMARY KEY (erasure, source)
) STRICT, WITHOUT ROWID;

-- Up to which event time events of sources that were not known then are older than the erasure.
CREATE TABLE weir_erasure_times (
    erasure INTEGER NOT NULL REFERENCES weir_erasures (number),
    stream TEXT NOT NULL,
    latest_event_time INTEGER NOT NULL,
    PRIMARY KEY (erasure, stream)
) STRICT, WITHOUT ROWID;
