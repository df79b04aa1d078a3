/** Programs as everybody has them, unmodified, over handovers: ssh and iperf3 (curl is in dime.test.ts). */
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { afterEach, beforeEach, test } from 'node:test'
import { makeSsh, sshSkip } from '../../../lab/ssh.ts'
import { usesPrograms } from '../../../src/linux/packages.ts'
import { missing } from '../tunnel/bed.ts'
import { Bed, until } from './bed.ts'
import { lines } from './flows.ts'

usesPrograms('iperf3', 'ssh')

let bed: Bed
beforeEach(() => {
  bed = new Bed()
})
afterEach(() => bed.close())

/** First softly, the new access before the old one goes; then hard, with nothing in between. */
async function moveTwice(working: () => Promise<void>): Promise<void> {
  const at = async (wire: string): Promise<void> => {
    for (const [name, of] of [
      ['m', (s: { wire_local: string }) => s.wire_local === wire],
      ['c', (s: { wire: string }) => s.wire === wire],
    ] as const)
      await until(
        `${name} uses ${wire}`,
        async () => {
          const sockets = (await bed.sockets(name)).filter((s) => !s.bound_local.includes('::'))
          return sockets.length > 0 && sockets.every((s) => of(s as never))
        },
        60,
      )
  }
  bed.up(2, false)
  await until('c knows the second address', async () =>
    (await bed.hosts('c')).some((h) => h.active.includes('10.2.0.2')),
  )
  bed.down(1)
  await at('10.2.0.2')
  await working()
  bed.down(2)
  await until('m has no address', async () => (await bed.hosts('m')).every((h) => h.detached))
  bed.up(1)
  await at('10.1.0.2')
  await working()
}

test('DI-1, DI-4: a session of ssh goes on, in the shell that it began in', { skip: sshSkip() }, async () => {
  const {
    server: [command, ...args],
    client,
  } = makeSsh(bed.folder)
  const server = bed.spawn('c', command, args, 'pipe')
  let said = ''
  server.stderr!.on('data', (bytes) => {
    said += bytes
  })
  await until('sshd listens', () => said.includes('Server listening on 0.0.0.0'), 60)
  await bed.daemon('c')
  await bed.daemon('m')
  const ssh = bed.spawn('m', 'ssh', [...client, 'root@10.3.0.2', 'sh'], 'pipe')
  const ended = once(ssh, 'exit')
  const out = lines(ssh)
  ssh.stdin!.write('x=0; echo begun as $$; echo $SSH_CONNECTION\n')
  const shell = (await out.wait('begun as')).split(' ').at(-1)
  await bed.greeted()
  let asked = 0
  await moveTwice(async () => {
    asked++
    ssh.stdin!.write('x=$((x+1)); echo asked $x in $$\n')
    await out.wait(`asked ${asked} in ${shell}`)
  })
  // In one go, much: every line, in order.
  ssh.stdin!.write('i=0; while [ $i -lt 20000 ]; do i=$((i+1)); echo line $i; done; echo end\n')
  await out.wait('end')
  const numbers = [...out.text.matchAll(/^line (\d+)$/gm)].map((m) => Number(m[1]))
  assert.equal(numbers.length, 20_000)
  assert.ok(numbers.every((n, i) => n === i + 1))
  assert.ok(out.text.includes('10.1.0.2 '), 'the server still calls it by its first address')
  ssh.stdin!.end('exit 7\n')
  assert.deepEqual((await ended)[0], 7, 'its end is an ordinary one')
})

interface IperfReport {
  readonly error?: string
  readonly end: {
    readonly sum_sent: { readonly bytes: number; readonly packets?: number }
    readonly sum_received: {
      readonly bytes: number
      readonly packets?: number
      readonly lost_packets?: number
    }
  }
}

/** Both moves during one run of iperf3; undefined when it ended before them, on a machine that is slow. */
async function measured(args: readonly string[], seconds: number): Promise<IperfReport | undefined> {
  const server = bed.spawn('c', 'iperf3', ['-s', '-1', '--forceflush'], 'pipe')
  const gone = once(server, 'exit')
  await lines(server).wait('Server listening')
  const size = ['-b', '16M', '-n', `${seconds * 2_000_000}`]
  const client = bed.spawn('m', 'iperf3', ['-c', '10.3.0.2', '-J', ...size, ...args], 'pipe')
  let text = ''
  client.stdout!.on('data', (bytes) => {
    text += bytes
  })
  const ended = once(client, 'exit')
  await bed.greeted()
  await moveTwice(async () => {})
  const inTime = client.exitCode === null
  const [status] = await ended
  assert.equal(status, 0, text)
  await gone // the next one takes its port
  return inTime ? (JSON.parse(text) as IperfReport) : undefined
}

for (const protocol of ['TCP', 'UDP'] as const)
  test(`DI-4, DI-6, E-4: iperf3 over ${protocol} runs to its end and hears of no error, its control connection neither`, {
    skip: missing('iperf3') ?? false,
  }, async () => {
    await bed.daemon('c')
    await bed.daemon('m')
    const args = protocol === 'UDP' ? ['-u', '-l', '1000'] : []
    const report = (await measured(args, 5)) ?? (await measured(args, 40))
    assert.ok(report !== undefined, 'it ended before both moves')
    assert.equal(report.error, undefined)
    const { sum_sent: sent, sum_received: received } = report.end
    if (protocol === 'TCP')
      assert.ok(received.bytes > sent.bytes / 2) // the last ones are not counted
    else assert.ok((received.packets ?? 0) > (received.lost_packets ?? 0))
  })
