/**
 * Two hosts behind two NATs each: ssh from one to the other by name carries a file; both hosts move while it does, then all servers
 * are killed, then one host returns to the access that it had. The file has to arrive as it was.
 */
import { statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { sha256, writePayload } from '../payload.ts'
import type { Scenario, ScenarioContext } from '../scenario.ts'
import { makeSsh } from '../ssh.ts'
import { ROAM_SERVER } from '../topologies/ntm-roam.ts'
import { type OverlayNode, OverlayServer } from './ntm-kit.ts'

const BYTES = 60e6
const MBPS = 40
const CONDITIONS = { delayMs: 10, rateMbps: MBPS }
const ACCESSES = ['acc1', 'acc2'] as const
const PATIENCE_MS = 10_000
const RESUMED_BYTES = 2_000_000

export const ntmServersDie: Scenario = {
  name: 'ntm-servers-die',
  summary:
    'overlay: ssh by name between two NATs; both hosts move, all servers are killed, the transfer ends intact',
  topology: 'ntm-roam',
  programs: ['ssh', 'sshd', 'ssh-keygen', 'unshare'],
  links: Object.fromEntries(
    ['mh', 'cn'].flatMap((host) => ACCESSES.map((access) => [`${host}-${access}`, CONDITIONS])),
  ),
  paper: { result: 'not measured' },
  async run(context) {
    const server = await OverlayServer.start(context, [ROAM_SERVER])
    for (const host of ['mh', 'cn']) context.lab.setLink(`${host}-acc2`, { state: 'down' })
    const more = { accesses: ACCESSES, names: true }
    const mh = await server.node(context, 'mh', more)
    const cn = await server.node(context, 'cn', more)
    const { server: sshd, client } = makeSsh(context.lab.createScratch())
    const [command, ...args] = sshd
    // Its sessions would keep pipes open after it has been stopped.
    const silent = ['-c', 'exec "$@" > /dev/null 2>&1', 'sh', command, ...args]
    await context.lab.programs.start('cn', 'sh', silent)
    const payload = join(context.scratch, 'sent')
    const received = join(context.scratch, 'received')
    const hash = writePayload(payload, BYTES, context.seed)
    writeFileSync(received, '')
    await context.sleep(500)
    context.start()
    const ssh = `ssh "$@" root@${cn.name} 'cat ${payload}' > ${received}`
    const transfer = await context.lab.programs.start('mh', ...mh.withNames('sh', '-c', ssh, 'sh', ...client))
    context.check(
      'a direct way',
      await mh.untilWay(cn, ['direct', 'lan'], PATIENCE_MS),
      await mh.way(cn),
      'direct',
    )

    await move(context, received, [[mh, 'acc2']], 'mh moves')
    await move(
      context,
      received,
      [
        [mh, 'acc1'],
        [cn, 'acc2'],
      ],
      'both move at once',
    )
    context.mark('all servers are killed')
    server.program.signal('SIGKILL')
    await server.program.ended
    await move(context, received, [[cn, 'acc1']], 'cn returns to its first access, without any server')

    const late = context.sleep(PATIENCE_MS + (BYTES * 8e3) / (MBPS * 1e6)).then(() => 'late' as const)
    const status = await Promise.race([transfer.ended, late])
    if (status === 'late') transfer.signal('SIGKILL')
    const seconds = context.seconds()
    const arrived = await sha256(received)
    const value =
      status === 0 && arrived === hash
        ? `${BYTES} bytes intact in ${seconds.toFixed(1)} s`
        : `status ${status}, ${transfer.errors}`
    context.check(
      'the transfer ends intact',
      status === 0 && arrived === hash,
      value,
      'the sha256 of what was sent',
    )
    context.metric('transfer_s', seconds)
    context.metric('throughput_mbps', (BYTES * 8) / 1e6 / seconds)
  },
}

/** Hosts leave their access for another, which is there only after the first has gone; waits until bytes flow again. */
async function move(
  context: ScenarioContext,
  received: string,
  moves: readonly (readonly [OverlayNode, (typeof ACCESSES)[number]])[],
  label: string,
): Promise<void> {
  await context.sleep(2000)
  context.mark(label)
  const at = context.seconds()
  for (const [node, to] of moves) {
    const from = to === 'acc1' ? 'acc2' : 'acc1'
    context.lab.setLink(`${node.godwit.role}-${from}`, { state: 'down' })
    context.lab.setLink(`${node.godwit.role}-${to}`, { state: 'up' })
  }
  // Beyond what buffers may still have held.
  const wanted = statSync(received).size + RESUMED_BYTES
  for (const end = at + PATIENCE_MS / 1000; context.seconds() < end; await context.sleep(20))
    if (statSync(received).size >= wanted) {
      context.metric(`${label.replaceAll(/\W+/g, '_')}_s`, context.seconds() - at)
      return
    }
  context.check(label, false, `nothing for ${PATIENCE_MS} ms`, 'bytes flow again')
}
