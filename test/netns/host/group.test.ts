/** The group `godwit`, in a mount namespace with a group file of its own: its members control the daemon without root. */
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { chmodSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'

const GROUP = 7777
const NOBODY = 65534
const folder = mkdtempSync(join(tmpdir(), 'godwit-group-'))
after(() => rmSync(folder, { recursive: true }))

test('members of the group reach the control socket, others do not, and the key stays with root', () => {
  chmodSync(folder, 0o755)
  const groups = join(folder, 'group')
  writeFileSync(
    groups,
    `${readFileSync('/etc/group', 'utf8').replace(/^godwit:.*\n/m, '')}godwit:x:${GROUP}:\n`,
  )
  const module = (name: string) => JSON.stringify(new URL(`../../../src/${name}`, import.meta.url).href)
  const program = `
    const { State } = await import(${module('host/stores/state.js')})
    const { writeSecret } = await import(${module('mechanism/files.js')})
    const { ControlServer } = await import(${module('host/control/control.js')})
    const { spawnSync } = await import('node:child_process')
    const state = new State({ state: ${JSON.stringify(join(folder, 'state'))} })
    state.lock()
    writeSecret(state.keyFile, 'secret')
    const server = new ControlServer({ path: state.socket, routes: [], metrics: () => '', onFault: () => {} })
    await server.listen()
    const as = (group, script) => spawnSync('setpriv',
      ['--reuid', '${NOBODY}', '--regid', '${NOBODY}', '--groups', String(group), 'sh', '-c', script, 'sh', state.socket, state.keyFile]).status
    console.log(JSON.stringify({
      member: as(${GROUP}, 'test -w "$1"'), key: as(${GROUP}, 'test -r "$2"'), other: as(${NOBODY}, 'test -w "$1"'),
    }))
    await server.close()`
  const script = 'mount --bind "$1" /etc/group && exec "$2" --input-type=module -e "$3"'
  const args = ['-m', 'sh', '-c', script, 'sh', groups, process.execPath, program]
  const { stdout, stderr, status } = spawnSync('unshare', args, { encoding: 'utf8' })
  assert.equal(status, 0, stderr)
  assert.deepEqual(JSON.parse(stdout), { member: 0, key: 1, other: 1 })
})
