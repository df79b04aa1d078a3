/** Addresses of databases in the settings of the overlay's servers. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { GodwitError } from '../../../src/core/errors.ts'
import { checkStoreUrl, parseStoreUrl } from '../../../src/overlay/store/postgres/settings.ts'

test('a database is named by user, hosts in their order, and name', () => {
  assert.deepEqual(parseStoreUrl('postgres://godwit@db1.example.org,[2001:db8::1]:5433,192.0.2.1/state'), {
    user: 'godwit',
    database: 'state',
    hosts: [
      { host: 'db1.example.org', port: 5432 },
      { host: '2001:db8::1', port: 5433 },
      { host: '192.0.2.1', port: 5432 },
    ],
  })
  assert.deepEqual(parseStoreUrl('postgresql://a%20b@%2Frun%2Fpostgresql:5433/c%2Fd'), {
    user: 'a b',
    database: 'c/d',
    hosts: [{ host: '/run/postgresql', port: 5433 }],
  })
})

test('what names none is refused, and a password in it is not repeated', () => {
  const wrong = [
    '',
    'mysql://a@b/c',
    'postgres://db/godwit',
    'postgres://a@/c',
    'postgres://a@b',
    'postgres://a@b,/c',
    'postgres://a@b:70000/c',
    'postgres://a@b:0/c',
    'postgres://a@b/c?sslmode=disable',
    'postgres://a@b%ZZ/c',
  ]
  for (const each of wrong) {
    assert.equal(parseStoreUrl(each), undefined, each)
    assert.throws(() => checkStoreUrl(each), /not the address/, each)
  }
  assert.throws(
    () => checkStoreUrl('postgres://godwit:hunter2@db/godwit'),
    (error: GodwitError) => {
      assert.match(error.hint ?? '', /--password-file/)
      assert.doesNotMatch(`${error.message} ${error.hint}`, /hunter2/)
      return true
    },
  )
})
