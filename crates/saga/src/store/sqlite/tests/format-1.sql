-- A store as the first release wrote it. Never change it: a later format gets a file of its own beside this one.
PRAGMA auto_vacuum = INCREMENTAL;
PRAGMA journal_mode = WAL;
BEGIN;
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE saga (
    number INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    definition TEXT NOT NULL,
    version INTEGER NOT NULL,
    state TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    node TEXT,
    due INTEGER,
    crashes INTEGER NOT NULL DEFAULT 0,
    note TEXT,
    next INTEGER NOT NULL,
    mail_count INTEGER NOT NULL DEFAULT 0,
    mail_taken INTEGER NOT NULL DEFAULT 0,
    created_at INTEGER NOT NULL,
    changed_at INTEGER NOT NULL,
    finished_at INTEGER
) STRICT;
CREATE INDEX saga_due ON saga (due) WHERE due IS NOT NULL;
CREATE INDEX saga_finished ON saga (finished_at) WHERE finished_at IS NOT NULL;
CREATE INDEX saga_state ON saga (state, id);
CREATE TABLE journal (
    saga INTEGER NOT NULL,
    sequence INTEGER NOT NULL,
    record TEXT NOT NULL,
    PRIMARY KEY (saga, sequence)
) STRICT, WITHOUT ROWID;
CREATE TABLE mail (
    saga INTEGER NOT NULL,
    number INTEGER NOT NULL,
    key TEXT NOT NULL,
    body TEXT NOT NULL,
    PRIMARY KEY (saga, number),
    UNIQUE (saga, key)
) STRICT, WITHOUT ROWID;
CREATE TABLE outbox (
    saga TEXT NOT NULL,
    sequence INTEGER NOT NULL,
    place INTEGER NOT NULL,
    message TEXT NOT NULL,
    PRIMARY KEY (saga, sequence, place)
) STRICT, WITHOUT ROWID;
CREATE TABLE relay (
    only INTEGER PRIMARY KEY CHECK (only = 1),
    node TEXT NOT NULL,
    until INTEGER NOT NULL
) STRICT;
PRAGMA application_id = 1198871393;
PRAGMA user_version = 1;
INSERT INTO meta VALUES ('format', '1'), ('made_by', '0.1.0');
INSERT INTO saga VALUES (1, 'order-1', 'test', 1, 'running', 2, 'node', 1700000000000, 0, '"noted"', 2, 1, 0, 1690000000000, 1690000000001, NULL);
INSERT INTO saga VALUES (2, 'order-2', 'test', 1, 'completed', 1, NULL, NULL, 0, NULL, 1, 0, 0, 1690000000000, 1690000000002, 1690000000002);
INSERT INTO journal VALUES (1, 0, '{"format":1,"sequence":0,"epoch":1,"at":1000,"event":{"done":{"step":0,"output":"xxx"}}}');
INSERT INTO journal VALUES (1, 1, '{"format":1,"sequence":1,"epoch":2,"at":1000,"event":{"done":{"step":0,"output":"xxxxxxxxxx"}}}');
INSERT INTO journal VALUES (2, 0, '{"format":1,"sequence":0,"epoch":1,"at":1000,"event":{"done":{"step":0,"output":"xxx"}}}');
INSERT INTO mail VALUES (1, 0, 'key', '"\u0000"');
INSERT INTO outbox VALUES ('order-1', 1, 0, '{"topic":"orders","body":7}');
INSERT INTO relay VALUES (1, 'node', 1690000000000);
COMMIT;
