/** The Debian package: lintian has nothing to say, and it installs, runs and goes without a trace in a clean system. */
import assert from 'node:assert/strict'
import { copyFileSync, mkdtempSync, rmSync } from 'node:fs'
import { basename, join } from 'node:path'
import { after, test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { capture } from '../../../scripts/capture.ts'
import { buildPackage } from '../../../scripts/deb.ts'
import { findProgram, usesPrograms } from '../../../src/linux/packages.ts'
import { enterRoot, makeDebian } from '../../support/debian.ts'

const NEEDED = usesPrograms('debootstrap', 'lintian', 'dpkg-deb', 'getent', 'man')
const root = fileURLToPath(new URL('../../../../', import.meta.url))
const folder = mkdtempSync('/var/tmp/godwit-package-')
after(() => rmSync(folder, { recursive: true, force: true }))

test('the Debian package: lintian clean; installed, run and purged in a clean system', async (t) => {
  if (process.getuid?.() !== 0) return t.skip('needs root')
  const absent = NEEDED.find((name) => findProgram(name) === undefined)
  if (absent !== undefined) return t.skip(`${absent} is not installed`)
  const file = buildPackage(root, folder)
  const said = await capture('lintian', ['--fail-on', 'error,warning', '--allow-root', file])
  assert.equal(said.status, 0, said.text)

  const system = join(folder, 'trixie')
  const made = await makeDebian('trixie', system)
  if (made !== undefined) return t.skip(made)
  const inside = async (command: string): Promise<string> => {
    const { status, text } = await enterRoot(system, command)
    assert.equal(status, 0, `${command}\n${text.slice(-4000)}`)
    return text
  }
  copyFileSync(file, join(system, 'root', basename(file)))
  const install = 'export DEBIAN_FRONTEND=noninteractive; apt-get install -y -q --no-install-recommends'
  await inside(`${install} nodejs nftables iproute2 bash-completion man-db`)
  const list = 'find / -xdev -path /proc -prune -o -path /sys -prune -o -print | grep -v ^/var/cache | sort'
  const before = await inside(`${list} | grep -i godwit; getent group godwit || true`)
  await inside(`${install} /root/${basename(file)}`)
  assert.match(await inside('godwit --version && getent group godwit'), /^\d+\.\d+\.\d+\ngodwit:/)
  await inside('godwit anchor init --endpoint 192.0.2.1:51820 && godwit config check && man -w godwit')
  // All of lab and bench is there.
  assert.match(await inside('godwit lab list && godwit bench --help'), /upmt-swap[\s\S]*Usage: godwit bench/)
  await inside(
    'test -s /usr/share/bash-completion/completions/godwit && test -s /usr/lib/systemd/system/godwit.service',
  )
  await inside('apt-get purge -y -q godwit')
  assert.equal(await inside(`${list} | grep -i godwit; getent group godwit || true`), before)
})
