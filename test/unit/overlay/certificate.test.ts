/** Certificates that clients have pinned: never made anew in silence, and damaged ones are named. */
import assert from 'node:assert/strict'
import { copyFileSync, mkdtempSync, readFileSync, rmSync, statSync, truncateSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import type { GodwitError } from '../../../src/core/errors.ts'
import { usesPrograms } from '../../../src/linux/packages.ts'
import { checkCertificate, ensureCertificate, readCertificate } from '../../../src/mechanism/certificate.ts'

usesPrograms('openssl')

const folder = mkdtempSync(join(tmpdir(), 'godwit-certificate-'))
after(() => rmSync(folder, { recursive: true }))
const [cert, key] = [join(folder, 'crt'), join(folder, 'key')]

function made(): void {
  for (const each of [cert, key]) rmSync(each, { force: true })
  ensureCertificate(cert, key, 'localhost')
}

function fails(code: string, message: RegExp): void {
  assert.throws(
    () => {
      ensureCertificate(cert, key, 'localhost')
      checkCertificate(readCertificate(cert, key, 'test'), cert, key)
    },
    (error: GodwitError) => {
      assert.equal(error.code, code)
      assert.match(error.message, message)
      assert.match(error.hint!, /back; or remove both/)
      return true
    },
  )
}

test('a certificate is made once; half of it is not made anew, and what a power cut leaves of it is named', () => {
  made()
  const first = readFileSync(cert, 'utf8')
  assert.equal(statSync(key).mode & 0o777, 0o600)
  ensureCertificate(cert, key, 'localhost')
  assert.equal(readFileSync(cert, 'utf8'), first)
  checkCertificate(readCertificate(cert, key, 'test'), cert, key)
  for (const [lost, left] of [
    [cert, key],
    [key, cert],
  ] as const) {
    made()
    const kept = readFileSync(left, 'utf8')
    rmSync(lost)
    fails('CERTIFICATE_MISSING', /^there is .*, and no /)
    assert.equal(readFileSync(left, 'utf8'), kept)
  }
  for (const file of [cert, key])
    for (const part of [0, 0.5, 0.95]) {
      made()
      truncateSync(file, Math.floor(statSync(file).size * part))
      fails('CERTIFICATE_DAMAGED', /is damaged/)
    }
  made()
  const other = [join(folder, 'other.crt'), join(folder, 'other.key')] as const
  ensureCertificate(...other, 'localhost')
  copyFileSync(other[1], key)
  fails('CERTIFICATE_DAMAGED', /the key is of another certificate/)
})
