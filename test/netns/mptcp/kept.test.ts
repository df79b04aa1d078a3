/** The file that connections are taken over from, on a file system that is full: the kernel ends who touches what has no memory. */
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { appendFileSync, mkdtempSync, rmdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { usesPrograms } from '../../../src/linux/packages.ts'
import { KeptFile } from '../../../src/mptcp/kept.ts'

usesPrograms('unshare')

/** In a mount namespace of its own, with a small file system at `folder`. */
function work(folder: string): void {
  const filler = join(folder, 'filler')
  const fill = () => {
    try {
      for (;;) appendFileSync(filler, Buffer.alloc(4096))
    } catch {
      // It is full.
    }
  }
  const path = join(folder, 'kept')
  fill()
  assert.throws(() => new KeptFile(path, 0), /no space is left/)
  rmSync(filler)
  new KeptFile(path, 0)
  fill()
  const { records, kept } = new KeptFile(path, 0)
  assert.deepEqual(kept, [])
  for (let id = 0; id < 16_384; id++) records.forget(id)
}

const [, , folder] = process.argv
if (folder !== undefined) work(folder)
else
  test('a full /run does not end the daemon', () => {
    const at = mkdtempSync(join(tmpdir(), 'full-'))
    const script = `mount -t tmpfs -o size=64k none ${at} && exec "$@"`
    const own = [process.execPath, fileURLToPath(import.meta.url), at]
    const { status, signal, stderr } = spawnSync('unshare', ['-m', 'sh', '-c', script, 'sh', ...own], {
      encoding: 'utf8',
    })
    rmdirSync(at)
    assert.deepEqual([status, signal], [0, null], stderr)
  })
