/** godwit itself, through its own commands: an anchor on host b, a host daemon on host a joined by an invitation. */
import { fileURLToPath } from 'node:url'
import type { Bed } from '../bed.ts'
import type { Subject } from './subject.ts'

const PORT = 51900
export const command = fileURLToPath(new URL('../../../bin/godwit', import.meta.url))

/** The anchor's own address in its pool. */
const ANCHOR = '198.18.0.1'

export const godwit: Subject = {
  name: 'godwit',
  missing: () => undefined,
  start: (bed: Bed) => startGodwit(bed),
}

async function startGodwit(bed: Bed) {
  const anchorState = bed.directory('anchor')
  const hostState = bed.directory('host')
  await bed.b.run(command, [
    'anchor',
    'init',
    '--state',
    anchorState,
    '--endpoint',
    `${bed.b.address}:${PORT}`,
  ])
  const anchor = bed.b.start(command, ['anchor', 'up', '--state', anchorState])
  await bed.until(() => /^ready$/m.test(anchor.output()), 'the anchor')
  const invitation = await bed.b.run(command, ['anchor', 'invite', 'bench', '--state', anchorState])
  await bed.a.run(command, ['join', invitation.trim(), '--state', hostState])
  const host = bed.a.start(command, ['up', '--state', hostState])
  await bed.until(() => /^ready$/m.test(host.output()), 'the host daemon')
  await bed.reachable(bed.a, ANCHOR)
  return {
    target: ANCHOR,
    pids: { a: host.pid, b: anchor.pid },
    stop: async () => {
      await host.stop()
      await anchor.stop()
    },
  }
}
