/**
 * What godwit has in a database of PostgreSQL: the schema `godwit`, with the store's tables; one row `state`, the number of the last
 * commit, and which coordinator holds the database; `log`, which keys each of the last commits changed, for working copies elsewhere.
 * A commit is one call of `apply`: one round trip, one transaction.
 */
import { applied, definition, TABLES } from './tables.ts'

/** Version 13 has gen_random_uuid() and FETCH … WITH TIES. */
export const OLDEST_SERVER = 130_000

/** After these seconds without a sign of its coordinator, another one may have the database. */
export const HOLD_SECONDS = 10

/** So long another writer that was behind comes first (ms): one that takes a little longer than others is not behind for ever. */
export const TURN_MS = 100

/** Who has the turn need not last. */
const LAX = `WITH lax AS (SELECT set_config('synchronous_commit', 'off', true))`

/** Commits in `log`; a copy that is older is read anew. */
const LOGGED = 5000

/**
 * `base`: the commit that the changes were made on. `writer`: a name of this store, as long as it is open. `holds`: the epoch of the coordinator's hold; null: another writer.
 * done; behind: `base` is not the last commit; fenced: another coordinator has taken the database.
 */
const APPLY = `
CREATE OR REPLACE FUNCTION godwit.apply(base bigint, writer text, holds bigint, ident text, touched json, changes jsonb)
RETURNS text LANGUAGE plpgsql SET search_path = godwit, pg_temp AS $apply$
DECLARE
  last record;
BEGIN
  FOR waited IN 1..${TURN_MS / 5} LOOP
    SELECT turn, turn_until INTO last FROM state;
    EXIT WHEN last.turn IS NULL OR last.turn = writer OR last.turn_until < clock_timestamp();
    PERFORM pg_sleep(0.005);
  END LOOP;
  SELECT seq, epoch INTO last FROM state FOR UPDATE;
  IF holds IS NOT NULL AND holds <> last.epoch THEN RETURN 'fenced'; END IF;
  IF last.seq <> base THEN
    UPDATE state SET turn = writer, turn_until = clock_timestamp() + interval '${TURN_MS} ms'
      WHERE turn IS NULL OR turn_until < clock_timestamp();
    RETURN 'behind';
  END IF;
${TABLES.map(applied).join('')}
  UPDATE state SET seq = base + 1, ident = apply.ident, turn = NULLIF(turn, writer),
    beat = CASE WHEN holds IS NULL THEN beat ELSE clock_timestamp() END;
  INSERT INTO log VALUES (base + 1, apply.ident, touched);
  RETURN 'done';
END
$apply$`

/** Each brings the database from the version of its index to the next. One that is there is not changed any more. */
export const MIGRATIONS: readonly (readonly string[])[] = [
  [
    'CREATE SCHEMA IF NOT EXISTS godwit',
    ...TABLES.map(definition),
    `CREATE TABLE godwit.state (
      one boolean PRIMARY KEY DEFAULT true CHECK (one), database uuid NOT NULL DEFAULT gen_random_uuid(), version int NOT NULL,
      zone text, seq bigint NOT NULL DEFAULT 0, ident text NOT NULL DEFAULT '', epoch bigint NOT NULL DEFAULT 0,
      holder text, host text, beat timestamptz, turn text, turn_until timestamptz, probes bigint NOT NULL DEFAULT 0)`,
    'CREATE TABLE godwit.log (seq bigint PRIMARY KEY, ident text NOT NULL, touched json)',
    'INSERT INTO godwit.state (version) VALUES (0)',
    APPLY,
  ],
]

export const SQL = {
  hasSchema: `SELECT to_regclass('godwit.state') IS NOT NULL AS there`,
  /** Two programs that make the schema at a time take turns. */
  migrating: 'SELECT pg_advisory_xact_lock(7307199749733967220)',
  version: 'SELECT version FROM godwit.state',
  setVersion: 'UPDATE godwit.state SET version = $1',
  /** The first that uses the database says whose it is. */
  belongs: 'UPDATE godwit.state SET zone = COALESCE(zone, $1) RETURNING zone, database, seq::text, ident',
  server: `SELECT current_setting('server_version') AS version, current_setting('server_version_num')::int AS number,
    pg_is_in_recovery() AS standby`,
  /** Counts up whenever a standby is promoted. Not callable on a standby. */
  timeline: `SELECT ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int AS timeline`,
  hold: `UPDATE godwit.state SET epoch = epoch + 1, holder = $1, host = $2, beat = clock_timestamp()
    WHERE holder IS NULL OR holder = $1 OR beat < clock_timestamp() - interval '${HOLD_SECONDS} seconds' RETURNING epoch::text`,
  /** Coordinators that share the database have one epoch: it changes when one has it alone. */
  holdShared: `UPDATE godwit.state SET epoch = epoch + CASE WHEN holder = $1 THEN 0 ELSE 1 END, holder = $1, host = $2,
    beat = clock_timestamp()
    WHERE holder IS NULL OR holder = $1 OR beat < clock_timestamp() - interval '${HOLD_SECONDS} seconds' RETURNING epoch::text`,
  heldBy: `SELECT host, EXTRACT(epoch FROM clock_timestamp() - beat)::int AS ago FROM godwit.state`,
  /** A write, which a synchronous standby has to confirm; at the end of what was committed before. */
  probe: 'UPDATE godwit.state SET probes = probes + 1 RETURNING seq::text, ident, database',
  beat: 'UPDATE godwit.state SET beat = clock_timestamp() WHERE epoch = $1 RETURNING seq::text',
  release: 'UPDATE godwit.state SET holder = NULL, beat = NULL WHERE epoch = $1',
  /** No row: it is another writer's. */
  takeTurn: `${LAX} UPDATE godwit.state SET turn = $1, turn_until = clock_timestamp() + interval '${TURN_MS} ms' FROM lax
    WHERE turn IS NULL OR turn = $1 OR turn_until < clock_timestamp() RETURNING seq::text`,
  endTurn: `${LAX} UPDATE godwit.state SET turn = NULL FROM lax WHERE turn = $1`,
  last: 'SELECT seq::text, ident, database FROM godwit.state',
  identAt: 'SELECT ident FROM godwit.log WHERE seq = $1',
  touchedSince: 'SELECT touched FROM godwit.log WHERE seq > $1',
  trim: `DELETE FROM godwit.log WHERE seq < (SELECT seq FROM godwit.state) - ${LOGGED}`,
  apply: 'SELECT godwit.apply($1, $2, $3, $4, $5, $6) AS outcome',
} as const
