/** A disk that is really full: a small tmpfs in a mount namespace of its own. */
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'

const folder = mkdtempSync(join(tmpdir(), 'godwit-disk-'))
after(() => rmSync(folder, { recursive: true }))

test('a full disk leaves the old file as it was, no litter, and an error that says so', () => {
  const module = JSON.stringify(new URL('../../../src/mechanism/files.js', import.meta.url).href)
  const program = `
    const { writeAtomic } = await import(${module})
    const { readFileSync, readdirSync, writeFileSync } = await import('node:fs')
    writeAtomic('hosts.json', 'old')
    try { writeFileSync('filler', Buffer.alloc(1 << 20)) } catch {}
    let code
    try { writeAtomic('hosts.json', 'x'.repeat(30000)) } catch (error) { code = error.code }
    console.log(JSON.stringify({ code, text: readFileSync('hosts.json', 'utf8'), files: readdirSync('.').sort() }))`
  const script = 'mount -t tmpfs -o size=64k none "$1" && cd "$1" && exec "$2" --input-type=module -e "$3"'
  const args = ['-m', 'sh', '-c', script, 'sh', folder, process.execPath, program]
  const { stdout, stderr, status } = spawnSync('unshare', args, { encoding: 'utf8' })
  assert.equal(status, 0, stderr)
  assert.deepEqual(JSON.parse(stdout), { code: 'DISK_FULL', text: 'old', files: ['filler', 'hosts.json'] })
})
