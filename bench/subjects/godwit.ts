/** godwit itself, through its own commands: an anchor on host b, a host daemon on host a joined by an invitation. */
import { fileURLToPath } from 'node:url'
import type { Program } from '../../lab/hosts.ts'
import { Godwit } from '../../lab/product.ts'
import type { Bed } from '../bed.ts'
import type { Subject } from './subject.ts'

const PORT = 51900
export const command = fileURLToPath(new URL('../../../bin/godwit', import.meta.url))

/** The anchor's own addresses in its pools. */
export const ANCHOR = { 4: '198.18.0.1', 6: 'fd67:6f64:7769:1::1' } as const

export const godwit: Subject = {
  name: 'godwit',
  families: [4, 6],
  missing: () => undefined,

  async start(bed, family) {
    const { anchor, daemon } = await startAnchor(bed, family)
    const mobile = new Godwit(bed, 'mh')
    await mobile.run('join', (await anchor.run('anchor', 'invite', 'bench')).trim())
    const host = await mobile.daemon('up')
    const target = ANCHOR[family]
    await bed.reachable(bed.a, target)
    return {
      target,
      pids: { a: host.pid, b: daemon.pid },
      move: async () => {
        await mobile.run('move', 'all', 'eth1')
      },
      stop: async () => {
        await host.stop()
        await daemon.stop()
      },
    }
  },
}

/** An anchor on host b that is reached over this family. */
export async function startAnchor(bed: Bed, family: 4 | 6): Promise<{ anchor: Godwit; daemon: Program }> {
  const anchor = new Godwit(bed, 'an')
  const address = bed.b.addressOf(family)
  await anchor.run('anchor', 'init', '--endpoint', `${family === 4 ? address : `[${address}]`}:${PORT}`)
  return { anchor, daemon: await anchor.daemon('anchor', 'up') }
}
