-- The history: what was accepted, what was refused and why, and how far every source was read.
-- Each stream has a table of its own name beside these; it is made from the stream's definition.

CREATE TABLE weir_meta (
    key TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- The definitions that the stores were built with.
CREATE TABLE weir_definitions (
    kind TEXT NOT NULL,          -- 'stream', 'view' or 'service'
    name TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    definition TEXT NOT NULL,
    recorded_at INTEGER NOT NULL, -- microseconds since the epoch
    PRIMARY KEY (kind, name)
) STRICT, WITHOUT ROWID;

-- A position means: everything before it that concerns the history is in the history.
CREATE TABLE weir_sources (
    id INTEGER PRIMARY KEY,
    kind TEXT NOT NULL,          -- 'file', 'kafka' or 'push'
    name TEXT NOT NULL,          -- path, topic or 'push'
    partition INTEGER NOT NULL,
    stream TEXT NOT NULL,
    position INTEGER NOT NULL,   -- the next offset to read
    detail BLOB,                 -- a file's fingerprint
    UNIQUE (kind, name, partition, stream)
) STRICT;

CREATE TABLE weir_dead_letters (
    number INTEGER PRIMARY KEY,
    stream TEXT NOT NULL,
    kind TEXT NOT NULL,          -- 'malformed', 'conflicting duplicate', 'too late', 'ahead of time'
    reason TEXT NOT NULL,
    source INTEGER NOT NULL REFERENCES weir_sources (id),
    "offset" INTEGER NOT NULL,
    ingest_time INTEGER NOT NULL,
    raw BLOB NOT NULL
) STRICT;

-- Further copies of events that were accepted before.
CREATE TABLE weir_counters (
    stream TEXT NOT NULL,
    name TEXT NOT NULL,
    value INTEGER NOT NULL,
    PRIMARY KEY (stream, name)
) STRICT, WITHOUT ROWID;

CREATE TABLE weir_closed_windows (
    view TEXT NOT NULL,
    entity_key TEXT NOT NULL,
    window_start INTEGER NOT NULL,
    window_end INTEGER NOT NULL,
    revision INTEGER NOT NULL,
    "values" TEXT NOT NULL,      -- JSON: feature to value
    PRIMARY KEY (view, entity_key, window_end, window_start, revision)
) STRICT, WITHOUT ROWID;

-- How far each shard's outbox was taken into the history.
CREATE TABLE weir_outbox (
    shard INTEGER PRIMARY KEY,
    number INTEGER NOT NULL
) STRICT;

CREATE TABLE weir_requests (
    number INTEGER PRIMARY KEY,
    service TEXT NOT NULL,
    asked_at INTEGER NOT NULL,
    as_of INTEGER NOT NULL,
    request TEXT NOT NULL,
    session TEXT,
    answer TEXT NOT NULL,
    positions TEXT NOT NULL
) STRICT;

CREATE TABLE weir_exports (
    number INTEGER PRIMARY KEY,
    service TEXT NOT NULL,
    path TEXT NOT NULL,
    rows INTEGER NOT NULL,
    sha256 TEXT NOT NULL,
    exported_at INTEGER NOT NULL
) STRICT;
