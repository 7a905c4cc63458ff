-- How far back the events of a stream with a time to live are kept.

CREATE TABLE weir_retention (
    stream TEXT PRIMARY KEY,
    kept_from INTEGER NOT NULL,     -- microseconds: events before it no longer count, and leave
    last_sequence INTEGER NOT NULL, -- no later event has this number, though it may be gone
    last_segment INTEGER NOT NULL,  -- no later segment has this number: who reads beside the writer knows them by it
    sweeps INTEGER NOT NULL         -- how often events left segments: who remembers those looks again
) STRICT, WITHOUT ROWID;
