//! All that is said to the database. `{s}` is the schema, `{now}` the database's clock in milliseconds since 1970: not the time at which the
//! transaction began, which may have waited since.

/// The statements, for one schema.
pub(super) struct Sql {
    schema: String,
}

impl Sql {
    /// `schema` consists of characters that need no escape.
    pub(super) const fn new(schema: String) -> Self {
        Self { schema }
    }

    pub(super) fn schema(&self) -> &str {
        &self.schema
    }

    /// The statement of that name.
    pub(super) fn get(&self, name: &str) -> String {
        let text = STATEMENTS.iter().find(|(known, _)| *known == name).map_or("", |(_, text)| text);
        text.replace("{s}", &format!("\"{}\"", self.schema))
            .replace("{now}", "(extract(epoch FROM clock_timestamp()) * 1000)::int8")
    }
}

/// `slot` is `due` in steps of 8 s, and the index of claims is over it: a lease that is prolonged some milliseconds later mostly stays in its slot, so
/// that the update touches no index (a HOT update). That takes room on the row's page: six tenths are left for the later versions of what begins there.
/// `finished_at` is set in final states, and only in them.
const TABLES: &str = r#"
CREATE TABLE {s}.format (
  one boolean PRIMARY KEY DEFAULT true CHECK (one),
  version int4 NOT NULL,
  compatible int4 NOT NULL
);
CREATE TABLE {s}.sagas (
  id text COLLATE "C" PRIMARY KEY,
  definition text COLLATE "C" NOT NULL,
  version int8 NOT NULL,
  state text COLLATE "C" NOT NULL,
  epoch int8 NOT NULL DEFAULT 1,
  node text COLLATE "C",
  due int8,
  slot int8 GENERATED ALWAYS AS (due >> 13) STORED,
  crashes int8 NOT NULL DEFAULT 0,
  note text,
  next int8 NOT NULL,
  mail_count int8 NOT NULL DEFAULT 0,
  mail_taken int8 NOT NULL DEFAULT 0,
  created_at int8 NOT NULL,
  changed_at int8 NOT NULL,
  finished_at int8
) WITH (fillfactor = 40);
CREATE INDEX sagas_slot ON {s}.sagas (slot) WHERE slot IS NOT NULL;
CREATE INDEX sagas_state ON {s}.sagas (state, id);
CREATE INDEX sagas_finished ON {s}.sagas (finished_at, id) WHERE finished_at IS NOT NULL;
CREATE TABLE {s}.journal (
  saga text COLLATE "C" NOT NULL,
  sequence int8 NOT NULL,
  record text NOT NULL,
  PRIMARY KEY (saga, sequence)
);
CREATE TABLE {s}.mail (
  saga text COLLATE "C" NOT NULL,
  number int8 NOT NULL,
  key text COLLATE "C" NOT NULL,
  body text NOT NULL,
  PRIMARY KEY (saga, number),
  UNIQUE (saga, key)
);
CREATE TABLE {s}.outbox (
  saga text COLLATE "C" NOT NULL,
  sequence int8 NOT NULL,
  place int8 NOT NULL,
  number int8 GENERATED ALWAYS AS IDENTITY,
  message text NOT NULL,
  PRIMARY KEY (saga, sequence, place)
);
CREATE INDEX outbox_number ON {s}.outbox (number);
"#;

/// What format 2 has and format 1 has not. It only adds: who knows format 1 works on beside it. What is in the outbox then is as old as the update.
const SINCE_2: &str = r#"
ALTER TABLE {s}.outbox ADD COLUMN at int8 NOT NULL DEFAULT {now}, ADD COLUMN life int8 NOT NULL DEFAULT 0;
CREATE TABLE {s}.relaying (
  saga text COLLATE "C" PRIMARY KEY,
  node text COLLATE "C",
  until int8 NOT NULL,
  failures int8 NOT NULL DEFAULT 0
);
CREATE TABLE {s}.streams (
  id text COLLATE "C" PRIMARY KEY,
  version int8 NOT NULL,
  changed_at int8 NOT NULL
) WITH (fillfactor = 70);
CREATE TABLE {s}.events (
  stream text COLLATE "C" NOT NULL,
  version int8 NOT NULL,
  at int8 NOT NULL,
  key text COLLATE "C" NOT NULL,
  note text NOT NULL,
  format int8 NOT NULL,
  body text NOT NULL,
  PRIMARY KEY (stream, version)
);
CREATE TABLE {s}.snapshots (
  stream text COLLATE "C" PRIMARY KEY,
  version int8 NOT NULL,
  format int8 NOT NULL,
  state text NOT NULL
)
"#;

/// A message that is there already is of an earlier saga of the id, which a node of format 1 has purged. Each of `$1` at most once. Rows are locked in the order of their ids, so that no two batches wait for each other.
const APPEND: &str = r#"
WITH wanted AS MATERIALIZED (
  SELECT * FROM unnest($1::text[], $2::int8[], $3::int8[], $4::int8[], $5::text[], $6::bool[], $7::int8[], $8::int8[], $9::text[], $10::int8[])
  WITH ORDINALITY AS w(id, epoch, expected, records, state, final, keep, due, note, mail_taken, place)
), locked AS MATERIALIZED (
  SELECT id, epoch, next, finished_at FROM {s}.sagas WHERE id = ANY($1::text[]) ORDER BY id FOR UPDATE
), fit AS MATERIALIZED (
  SELECT w.*, {now} AS now FROM wanted w JOIN locked l ON l.id = w.id
  WHERE l.epoch = w.epoch AND l.next = w.expected AND l.finished_at IS NULL
), changed AS (
  UPDATE {s}.sagas s SET
    next = f.expected + f.records, state = f.state, mail_taken = f.mail_taken, changed_at = f.now, crashes = 0,
    node = CASE WHEN f.final OR f.keep IS NULL THEN NULL ELSE s.node END,
    note = CASE WHEN f.keep IS NULL THEN f.note ELSE s.note END,
    due = CASE
      WHEN f.final THEN NULL
      WHEN f.keep IS NOT NULL THEN f.now + f.keep
      WHEN s.mail_count > f.mail_taken THEN f.now
      ELSE f.due
    END,
    finished_at = CASE WHEN f.final THEN f.now END
  FROM fit f WHERE s.id = f.id
), written AS (
  INSERT INTO {s}.journal (saga, sequence, record)
  SELECT f.id, r.sequence, r.record
  FROM unnest($11::int8[], $12::int8[], $13::text[]) AS r(place, sequence, record) JOIN fit f USING (place)
), kept AS (
  INSERT INTO {s}.outbox (saga, sequence, place, message, life)
  SELECT m.saga, m.sequence, m.index, m.message, m.life
  FROM unnest($14::int8[], $15::text[], $16::int8[], $17::int8[], $18::text[], $19::int8[]) AS m(place, saga, sequence, index, message, life)
  JOIN fit f USING (place)
  ORDER BY m.saga, m.sequence, m.index
  ON CONFLICT (saga, sequence, place) DO UPDATE SET message = excluded.message, life = excluded.life
)
SELECT l.id, l.epoch, l.next, f.id IS NOT NULL FROM locked l LEFT JOIN fit f ON f.id = l.id
"#;

const CREATE: &str = r#"
WITH wanted AS MATERIALIZED (
  SELECT w.*, {now} AS now FROM unnest($1::text[], $2::text[], $3::int8[], $4::text[], $5::int8[], $6::int8[])
  WITH ORDINALITY AS w(id, definition, version, node, lease, records, place)
), begun AS (
  INSERT INTO {s}.sagas (id, definition, version, state, node, due, next, created_at, changed_at)
  SELECT id, definition, version, $7, node, now + lease, records, now, now FROM wanted ORDER BY id COLLATE "C"
  ON CONFLICT (id) DO NOTHING
  RETURNING id
), written AS (
  INSERT INTO {s}.journal (saga, sequence, record)
  SELECT b.id, r.sequence, r.record
  FROM unnest($8::int8[], $9::int8[], $10::text[]) AS r(place, sequence, record)
  JOIN wanted w USING (place) JOIN begun b ON b.id = w.id
)
SELECT id FROM begun
"#;

const CLAIM_DUE: &str = r#"
WITH clock AS MATERIALIZED (SELECT {now} AS now), picked AS MATERIALIZED (
  SELECT id, due FROM {s}.sagas s
  WHERE slot <= (SELECT now >> 13 FROM clock) AND due <= (SELECT now FROM clock) AND id <> ALL($4::text[])
    AND (
      due <= (SELECT now FROM clock) - $3::int8
      OR EXISTS (SELECT FROM unnest($1::text[], $2::int8[]) AS k(name, version) WHERE k.name = s.definition AND k.version = s.version)
    )
  ORDER BY slot, due, id LIMIT $5::int8 FOR UPDATE SKIP LOCKED
)
UPDATE {s}.sagas s SET
  epoch = s.epoch + 1, crashes = s.crashes + (s.node IS NOT NULL)::int, node = $6, due = (SELECT now FROM clock) + $7::int8
FROM picked p WHERE s.id = p.id
RETURNING s.id, p.due
"#;

/// Waits for who has the row: it is not passed over, since nobody else would be asked instead.
const CLAIM_ONE: &str = r#"
WITH clock AS MATERIALIZED (SELECT {now} AS now), picked AS MATERIALIZED (
  SELECT id, due FROM {s}.sagas
  WHERE id = $1 AND finished_at IS NULL AND (node IS NULL OR due <= (SELECT now FROM clock))
  FOR UPDATE
)
UPDATE {s}.sagas s SET
  epoch = s.epoch + 1, crashes = s.crashes + (s.node IS NOT NULL)::int, node = $2, due = (SELECT now FROM clock) + $3::int8
FROM picked p WHERE s.id = p.id
RETURNING s.id, p.due
"#;

const RENEW: &str = r#"
WITH locked AS MATERIALIZED (
  SELECT s.id FROM {s}.sagas s JOIN unnest($1::text[], $2::int8[]) AS w(id, epoch) ON s.id = w.id AND s.epoch = w.epoch
  WHERE s.node IS NOT NULL ORDER BY s.id FOR UPDATE OF s
)
UPDATE {s}.sagas s SET due = {now} + $3::int8 FROM locked l WHERE s.id = l.id
RETURNING s.id, s.mail_count > s.mail_taken
"#;

const RELEASE: &str = r#"
UPDATE {s}.sagas SET
  node = NULL, note = $4, state = CASE WHEN $5 THEN $6 ELSE state END,
  due = CASE WHEN mail_count > mail_taken THEN {now} ELSE $3::int8 END
WHERE id = $1 AND epoch = $2 AND node IS NOT NULL
"#;

const SEND: &str = r#"
WITH locked AS MATERIALIZED (
  SELECT id, mail_count, finished_at FROM {s}.sagas WHERE id = $1 FOR UPDATE
), posted AS (
  INSERT INTO {s}.mail (saga, number, key, body)
  SELECT id, mail_count, $2, $3 FROM locked WHERE finished_at IS NULL AND mail_count < $4
  ON CONFLICT (saga, key) DO NOTHING
  RETURNING saga
), woken AS (
  UPDATE {s}.sagas s SET mail_count = s.mail_count + 1, due = CASE WHEN s.node IS NULL THEN {now} ELSE s.due END
  FROM posted p WHERE s.id = p.saga
)
SELECT finished_at IS NOT NULL, EXISTS (SELECT FROM posted),
  mail_count >= $4 AND NOT EXISTS (SELECT FROM {s}.mail WHERE saga = $1 AND key = $2)
FROM locked
"#;

const PURGE: &str = r#"
WITH cut AS MATERIALIZED (
  SELECT finished_at, id FROM {s}.sagas WHERE finished_at IS NOT NULL
  ORDER BY finished_at DESC, id DESC OFFSET $1::int8 LIMIT 1
), gone AS MATERIALIZED (
  SELECT id FROM {s}.sagas s
  WHERE finished_at IS NOT NULL
    AND ((finished_at, id) <= (SELECT c.finished_at, c.id FROM cut c) OR finished_at < $2::int8)
    AND NOT EXISTS (SELECT FROM {s}.outbox o WHERE o.saga = s.id)
  ORDER BY finished_at, id LIMIT 1000 FOR UPDATE SKIP LOCKED
), records AS (
  DELETE FROM {s}.journal j USING gone WHERE j.saga = gone.id
), mails AS (
  DELETE FROM {s}.mail m USING gone WHERE m.saga = gone.id
)
DELETE FROM {s}.sagas s USING gone WHERE s.id = gone.id RETURNING s.id
"#;

const LIST: &str = "SELECT id, definition, version, state, epoch, next, created_at, changed_at, node, due FROM {s}.sagas
WHERE id > $1 AND ($2::text IS NULL OR definition = $2) ORDER BY id LIMIT $3::int8";

const LIST_STATE: &str = "SELECT id, definition, version, state, epoch, next, created_at, changed_at, node, due FROM {s}.sagas
WHERE state = $4 AND id > $1 AND ($2::text IS NULL OR definition = $2) ORDER BY id LIMIT $3::int8";

const LIST_NEWEST: &str = "SELECT id, definition, version, state, epoch, next, created_at, changed_at, node, due FROM {s}.sagas
WHERE id < $1 AND ($2::text IS NULL OR definition = $2) ORDER BY id DESC LIMIT $3::int8";

const LIST_NEWEST_STATE: &str = "SELECT id, definition, version, state, epoch, next, created_at, changed_at, node, due FROM {s}.sagas
WHERE state = $4 AND id < $1 AND ($2::text IS NULL OR definition = $2) ORDER BY id DESC LIMIT $3::int8";

/// Goes from saga to saga by the key of the table, so it costs as many look-ups as there are sagas, and not messages. Of two that want the same saga at once the
/// second waits, and then sees that it has come too late. What waits is read by another statement, which sees what became of it until then.
const RELAY: &str = r#"
WITH RECURSIVE clock AS MATERIALIZED (SELECT {now} AS now), every AS (
  (SELECT saga FROM {s}.outbox WHERE saga > $1 ORDER BY saga LIMIT 1)
  UNION ALL
  SELECT n.saga FROM every e, LATERAL (SELECT o.saga FROM {s}.outbox o WHERE o.saga > e.saga ORDER BY o.saga LIMIT 1) n
), free AS MATERIALIZED (
  SELECT saga FROM every e
  WHERE NOT EXISTS (SELECT FROM {s}.relaying r WHERE r.saga = e.saga AND r.until > (SELECT now FROM clock)) LIMIT $2::int8
)
INSERT INTO {s}.relaying AS r (saga, node, until)
SELECT saga, $3, (SELECT now FROM clock) + $4::int8 FROM free ORDER BY saga
ON CONFLICT (saga) DO UPDATE SET node = excluded.node, until = excluded.until WHERE r.until <= (SELECT now FROM clock)
RETURNING saga, failures
"#;

const OUTBOX: &str = r#"
SELECT m.saga, m.sequence, m.place, m.message, m.life FROM unnest($1::text[]) AS w(saga), LATERAL (
  SELECT o.saga, o.sequence, o.place, o.message, o.life FROM {s}.outbox o WHERE o.saga = w.saga ORDER BY o.sequence, o.place LIMIT $2::int8
) m ORDER BY m.saga, m.sequence, m.place
"#;

const RELAYED: &str = r#"
WITH done AS MATERIALIZED (
  SELECT * FROM unnest($1::text[], $2::text[], $3::int8[], $4::int8[]) AS d(saga, node, pause, failures)
), locked AS MATERIALIZED (
  SELECT r.saga, d.pause, d.failures FROM {s}.relaying r JOIN done d ON r.saga = d.saga AND r.node = d.node ORDER BY r.saga FOR UPDATE OF r
), gone AS (
  DELETE FROM {s}.outbox o USING unnest($5::text[], $6::int8[], $7::int8[], $8::int8[]) AS w(saga, sequence, place, life)
  WHERE o.saga = w.saga AND o.sequence = w.sequence AND o.place = w.place AND o.life = w.life
), freed AS (
  DELETE FROM {s}.relaying r USING locked l WHERE r.saga = l.saga AND l.pause IS NULL
)
UPDATE {s}.relaying r SET node = NULL, until = {now} + l.pause, failures = l.failures
FROM locked l WHERE r.saga = l.saga AND l.pause IS NOT NULL
"#;

const PENDING: &str = "SELECT (SELECT count(*) FROM {s}.outbox), {now} - (SELECT at FROM {s}.outbox ORDER BY number LIMIT 1),
(SELECT count(*) FROM {s}.relaying WHERE failures > 0)";

/// The row of the stream is locked by whoever extends it; who comes second waits, finds another version, and adds nothing.
const EXTEND: &str = r#"
WITH head AS (
  INSERT INTO {s}.streams AS s (id, version, changed_at)
  SELECT $1, $3, {now} WHERE $2::int8 = 0 OR EXISTS (SELECT FROM {s}.streams WHERE id = $1)
  ON CONFLICT (id) DO UPDATE SET version = excluded.version, changed_at = excluded.changed_at WHERE s.version = $2
  RETURNING changed_at
), written AS (
  INSERT INTO {s}.events (stream, version, at, key, note, format, body)
  SELECT $1, $2 + e.place, h.changed_at, $4, $5, $6, e.body
  FROM unnest($7::text[]) WITH ORDINALITY AS e(body, place), head h
)
SELECT changed_at FROM head
"#;

const STATEMENTS: &[(&str, &str)] = &[
    ("create schema", "CREATE SCHEMA {s}"),
    ("create tables", TABLES),
    ("add of format 2", SINCE_2),
    ("set format", "INSERT INTO {s}.format (version, compatible) VALUES ($1, $2)"),
    ("raise format", "UPDATE {s}.format SET version = $1"),
    ("format", "SELECT version, compatible FROM {s}.format"),
    ("now", "SELECT {now}"),
    ("create", CREATE),
    ("append", APPEND),
    ("claim due", CLAIM_DUE),
    ("claim one", CLAIM_ONE),
    ("renew", RENEW),
    ("release", RELEASE),
    ("send", SEND),
    (
        "mail",
        "SELECT number, key, body FROM {s}.mail WHERE saga = $1 AND number >= $2 ORDER BY number",
    ),
    (
        "sagas",
        "SELECT id, epoch, node, crashes, note, mail_taken FROM {s}.sagas WHERE id = ANY($1::text[])",
    ),
    (
        "records",
        "SELECT saga, record FROM {s}.journal WHERE saga = ANY($1::text[]) ORDER BY saga, sequence",
    ),
    (
        "mails",
        "SELECT m.saga, m.number, m.key, m.body FROM {s}.mail m JOIN {s}.sagas s ON s.id = m.saga
         WHERE m.saga = ANY($1::text[]) AND m.number >= s.mail_taken ORDER BY m.saga, m.number",
    ),
    ("list", LIST),
    ("list state", LIST_STATE),
    ("list newest", LIST_NEWEST),
    ("list newest state", LIST_NEWEST_STATE),
    ("count", "SELECT state, count(*) FROM {s}.sagas GROUP BY state"),
    ("purge", PURGE),
    ("relay", RELAY),
    ("outbox", OUTBOX),
    ("relayed", RELAYED),
    ("pending", PENDING),
    ("extend", EXTEND),
    (
        "stream",
        "SELECT s.version, EXISTS (SELECT FROM {s}.events e WHERE e.stream = s.id AND e.version = $2 AND e.key = $3)
         FROM {s}.streams s WHERE s.id = $1",
    ),
    (
        "events",
        "SELECT version, at, note, format, body FROM {s}.events WHERE stream = $1 AND version > $2 ORDER BY version LIMIT $3::int8",
    ),
    (
        "keep snapshot",
        "INSERT INTO {s}.snapshots AS s VALUES ($1, $2, $3, $4) ON CONFLICT (stream) DO UPDATE
         SET version = excluded.version, format = excluded.format, state = excluded.state WHERE s.version <= excluded.version",
    ),
    ("snapshot", "SELECT version, format, state FROM {s}.snapshots WHERE stream = $1"),
    (
        "streams",
        "SELECT id, version, changed_at FROM {s}.streams WHERE id > $1 AND id < $2 ORDER BY id LIMIT $3::int8",
    ),
];
