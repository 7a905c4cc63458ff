-- Watermarks, closed windows with their revisions, and records for output topics.

-- How far each source is complete; null before its first event.
ALTER TABLE weir_sources ADD COLUMN watermark INTEGER;

CREATE TABLE weir_watermarks (
    stream TEXT PRIMARY KEY,
    watermark INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

DROP TABLE weir_closed_windows;
CREATE TABLE weir_closed_windows (
    view TEXT NOT NULL,
    "window" TEXT NOT NULL,      -- 'tumbling(3600000000)'
    entity_key TEXT NOT NULL,
    window_start INTEGER NOT NULL,
    window_end INTEGER NOT NULL, -- a session's: its last event and the gap
    revision INTEGER NOT NULL,
    "values" TEXT,               -- JSON: feature to value; null where the session became part of another
    PRIMARY KEY (view, "window", entity_key, window_end, window_start, revision)
) STRICT, WITHOUT ROWID;

-- The windows that are open or may be revised.
CREATE TABLE weir_windows (
    view TEXT NOT NULL,
    "window" TEXT NOT NULL,
    entity_key TEXT NOT NULL,
    window_start INTEGER NOT NULL,
    window_end INTEGER NOT NULL,
    due INTEGER NOT NULL,        -- the watermark at which it closes
    is_open INTEGER NOT NULL,
    revision INTEGER NOT NULL,
    PRIMARY KEY (view, "window", entity_key, window_start)
) STRICT, WITHOUT ROWID;
CREATE INDEX weir_windows_end ON weir_windows (view, "window", entity_key, window_end);
CREATE INDEX weir_windows_due ON weir_windows (view, "window", due) WHERE is_open = 1;

-- Records on their way to topics. A record is deleted once the topic has it.
DROP TABLE weir_outbox;
CREATE TABLE weir_output (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    topic TEXT NOT NULL,
    key TEXT NOT NULL,
    value TEXT NOT NULL
) STRICT;

-- How a dead letter's bytes are written, so that it can be tried again: 'json', 'csv' with its header, or 'message', which the
-- event decodes by itself.
ALTER TABLE weir_dead_letters ADD COLUMN encoding TEXT NOT NULL DEFAULT 'json';
ALTER TABLE weir_dead_letters ADD COLUMN header BLOB;
ALTER TABLE weir_dead_letters ADD COLUMN retries INTEGER NOT NULL DEFAULT 0;

-- What tells this store from others, and from its copies: names its transactions in output topics.
INSERT INTO weir_meta (key, value) VALUES ('store', lower(hex(randomblob(16))));
