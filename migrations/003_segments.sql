-- Behind a stream's table, the log, its events in the order of entities: segments of rows that came one after another, sorted by key
-- and time and packed by column in groups (docs/FORMATS.md). All of it is derived from the stream's table.

CREATE TABLE weir_segments (
    number INTEGER PRIMARY KEY,
    stream TEXT NOT NULL,
    last_sequence INTEGER NOT NULL, -- rows of the table up to here are in segments
    first_time INTEGER NOT NULL,    -- the least event time
    last_time INTEGER NOT NULL,
    rows INTEGER NOT NULL,
    fields TEXT NOT NULL,           -- JSON: the columns of its row groups behind the first four
    orders TEXT NOT NULL,           -- JSON: view to the number of the order by its key; views with the same keys share one
    identities BLOB                 -- a Bloom filter; null for streams without ids
) STRICT;
CREATE INDEX weir_segments_stream ON weir_segments (stream, number);

CREATE TABLE weir_row_groups (
    segment INTEGER NOT NULL,
    "order" INTEGER NOT NULL,
    first_key TEXT NOT NULL,
    first_time INTEGER NOT NULL,
    number INTEGER NOT NULL,
    last_key TEXT NOT NULL,
    last_time INTEGER NOT NULL,
    rows BLOB NOT NULL,
    PRIMARY KEY (segment, "order", first_key, first_time, number)
) STRICT, WITHOUT ROWID;
