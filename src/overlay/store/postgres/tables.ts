/**
 * Tables of the store as PostgreSQL and the working copy both have them, and the SQL that is derived from them: rows cross as JSON,
 * blobs as PostgreSQL writes them (`\x` and hexadecimal). A column is added here, in SQLite's schema (store.ts) and in a migration
 * (schema.ts).
 */

type Type = 'text' | 'bytea' | 'bigint'

export interface Table {
  readonly name: string
  readonly columns: Readonly<Record<string, Type>>
  /** By which changes are noted: the primary key, or the first column of it. */
  readonly key: string
  /** Several rows have one key; they are written together. */
  readonly grouped?: true
}

export const TABLES: readonly Table[] = [
  { name: 'meta', key: 'key', columns: { key: 'text', value: 'bigint' } },
  {
    name: 'accounts',
    key: 'name',
    columns: {
      ...{ name: 'text', salt: 'bytea', hash: 'bytea', disabled: 'bigint', created: 'bigint' },
      id: 'text',
    },
  },
  {
    name: 'nodes',
    key: 'name',
    columns: {
      ...{ name: 'text', account: 'text', public_key: 'bytea', key_id: 'bytea', key: 'bytea' },
      ...{ number: 'bigint', lease: 'bytea', expires: 'bigint' },
    },
  },
  { name: 'access', key: 'node', grouped: true, columns: { node: 'text', pattern: 'text' } },
  { name: 'pushes', key: 'node', columns: { node: 'text', address: 'text' } },
  { name: 'notified', key: 'node', columns: { node: 'text' } },
  { name: 'servers', key: 'name', columns: { name: 'text', roles: 'text', key: 'bytea', host: 'text' } },
  { name: 'changes', key: 'seq', columns: { seq: 'bigint', node: 'text' } },
  { name: 'distributed', key: 'node', columns: { node: 'text', source: 'text', seq: 'bigint' } },
  {
    name: 'zones',
    key: 'name',
    columns: { name: 'text', coordinator: 'bytea', zone: 'bytea', seen: 'bigint' },
  },
]

export const quoted = (names: readonly string[]): string => names.map((name) => `"${name}"`).join(', ')

/** SQLite: rows of a table as a JSON array of objects. `where`: a condition. */
export function rowsAsJson({ name, columns }: Table, where: string): string {
  const fields = Object.entries(columns).map(
    ([column, type]) => `'${column}', ${type === 'bytea' ? `'\\x' || hex("${column}")` : `"${column}"`}`,
  )
  return `SELECT json_group_array(json_object(${fields.join(', ')})) AS rows FROM main."${name}" WHERE ${where}`
}

/** SQLite: inserts the rows of a JSON array, as PostgreSQL writes them. */
export function insertJson({ name, columns }: Table): string {
  const values = Object.entries(columns).map(([column, type]) => {
    const value = `json_extract(value, '$.${column}')`
    return type === 'bytea' ? `unhex(substr(${value}, 3))` : value
  })
  return `INSERT INTO main."${name}" (${quoted(Object.keys(columns))}) SELECT ${values.join(', ')} FROM json_each(?)`
}

/** SQLite: deletes the rows with the keys of a JSON array. */
export function deleteKeys({ name, key }: Table): string {
  return `DELETE FROM main."${name}" WHERE "${key}" IN (SELECT value FROM json_each(?))`
}

/** SQLite: notes in temp.touched which keys this connection changes, cascades too. */
export function touchTriggers({ name, key }: Table, table: number): string[] {
  const note = (row: string) => `INSERT INTO touched VALUES (${table}, ${row}."${key}")`
  return [
    `CREATE TEMP TRIGGER touch_${name}_insert AFTER INSERT ON main."${name}" BEGIN ${note('NEW')}; END`,
    `CREATE TEMP TRIGGER touch_${name}_update AFTER UPDATE ON main."${name}" BEGIN ${note('OLD')}; ${note('NEW')}; END`,
    `CREATE TEMP TRIGGER touch_${name}_delete AFTER DELETE ON main."${name}" BEGIN ${note('OLD')}; END`,
  ]
}

/** PostgreSQL: the table. Unique columns are checked at the end of a transaction, which may hand a value on. */
export function definition({ name, columns, key, grouped }: Table): string {
  const unique = name === 'nodes' ? ['number', 'key_id'] : []
  const primary = grouped === true ? Object.keys(columns) : [key]
  return `CREATE TABLE godwit."${name}" (${[
    ...Object.entries(columns).map(([column, type]) => `"${column}" ${type}`),
    `PRIMARY KEY (${quoted(primary)})`,
    ...unique.map((column) => `UNIQUE ("${column}") DEFERRABLE INITIALLY DEFERRED`),
  ].join(', ')})`
}

/** PostgreSQL: in the function `apply`, writes `changes->TABLE`: the keys in `cut` have no rows any more, those in `put` have these. */
export function applied({ name, columns, key, grouped }: Table): string {
  const others = Object.keys(columns).filter((column) => column !== key)
  const sets = others.map((column) => `"${column}" = EXCLUDED."${column}"`)
  const conflict =
    grouped === true || sets.length === 0 ? 'DO NOTHING' : `("${key}") DO UPDATE SET ${sets.join(', ')}`
  const of = `changes->'${name}'`
  return `
  IF ${of} IS NOT NULL THEN
    DELETE FROM "${name}" WHERE "${key}" IN
      (SELECT each::${columns[key]} FROM jsonb_array_elements_text(${of}->'cut') AS cut (each));
    INSERT INTO "${name}" (${quoted(Object.keys(columns))})
      SELECT ${quoted(Object.keys(columns))} FROM jsonb_populate_recordset(NULL::"${name}", ${of}->'put')
      ON CONFLICT ${conflict};
  END IF;`
}

/** PostgreSQL: rows with the keys of the JSON array $1, as JSON. */
export function rowsOfKeys({ name, columns, key }: Table): string {
  return `SELECT COALESCE(json_agg(row_to_json(t)), '[]')::text AS rows FROM
    (SELECT ${quoted(Object.keys(columns))} FROM godwit."${name}" WHERE "${key}" IN
      (SELECT each::${columns[key]} FROM json_array_elements_text($1::json) AS touched (each))) AS t`
}

/** PostgreSQL: rows after the key $1 (null: from the first), at least $2 of them, as JSON, and the last key. */
export function pageOfRows({ name, columns, key }: Table): string {
  return `WITH page AS (SELECT ${quoted(Object.keys(columns))} FROM godwit."${name}"
      WHERE $1::text IS NULL OR "${key}" > $1::text::${columns[key]} ORDER BY "${key}" FETCH FIRST $2 ROWS WITH TIES)
    SELECT COALESCE(json_agg(row_to_json(page)), '[]')::text AS rows, MAX("${key}")::text AS last FROM page`
}
