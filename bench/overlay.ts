/**
 * The overlay's relay: bytes that arrive at the second host when the first sends as fast as it can, beside plain forwarding
 * by the same machine's kernel and beside coturn (a user-space relay; ChannelData over UDP). `trains`: 40 datagrams of 1,200 bytes in
 * one system call, which the kernel carries as one packet as far as it can; `datagrams`: one at a time.
 */
import { setTimeout as delay } from 'node:timers/promises'
import type { Program } from '../lab/hosts.ts'
import { findProgram, usesPrograms } from '../src/linux/packages.ts'
import { tcxObstacle } from '../src/linux/tcx.ts'
import { type Bench, type BenchContext, type BenchResult, machine, Recorder } from './harness.ts'
import { ADDRESSES, type PlainSide, RelayBed } from './relay-bed.ts'

usesPrograms('ip', 'turnserver')

const SIZE = 1200
const KINDS = { trains: 40 * SIZE, datagrams: SIZE } as const
const PORT = 5000
const TURN_PORT = 3478
const WARM_SECONDS = 0.3
type Place = readonly [address: string, port: number]

interface Subject {
  readonly name: string
  /** Starts it; returns where the first host sends to, and what each datagram begins with. */
  open(bed: RelayBed, a: Program, b: Program): Promise<{ to: Place; prefix?: readonly number[] }>
  close(bed: RelayBed): Promise<unknown>
}

const bare: Subject = {
  name: 'kernel-forwarding',
  open: async () => ({ to: [ADDRESSES.b[4], PORT] }),
  close: async () => {},
}

function relay(name: string, kernel: boolean): Subject {
  return {
    name,
    async open(bed, a, b) {
      await bed.startRelay({ relay_kernel: kernel })
      const sides: readonly PlainSide[] = await bed.channel(4, [a, b])
      return { to: [ADDRESSES.relay[4], sides[0]!.endpoint.port] }
    },
    close: (bed) => bed.relay.stop(),
  }
}

function coturn(): Subject {
  let server: Program | undefined
  return {
    name: 'coturn',
    async open(bed, a) {
      const words = [
        '-n',
        '--no-auth',
        '--no-tls',
        '--no-dtls',
        '--no-cli',
        '--log-file',
        'stdout',
        '--simple-log',
      ]
      const addresses = ['-L', ADDRESSES.relay[4], '-E', ADDRESSES.relay[4], '-p', String(TURN_PORT)]
      const files = ['--pidfile', '/dev/null', '--db', ':memory:']
      server = await bed.lab.programs.start('relay', 'turnserver', [...words, ...addresses, ...files])
      await delay(1000)
      a.tell(JSON.stringify({ turn: [ADDRESSES.relay[4], TURN_PORT], peer: [ADDRESSES.b[4], PORT] }))
      await a.expect((line) => line.startsWith('{"channel"'), 10_000)
      const length = SIZE - 4
      return { to: [ADDRESSES.relay[4], TURN_PORT], prefix: [0x40, 0, length >> 8, length & 0xff] }
    },
    close: async () => server?.stop(),
  }
}

export const overlay: Bench = {
  name: 'overlay',
  summary: 'the relay: UDP through it ÷ plain kernel forwarding, and ÷ coturn',

  async run(context): Promise<BenchResult> {
    const recorder = new Recorder()
    const skipped: Record<string, string> = {}
    const obstacle = tcxObstacle()
    if (obstacle !== undefined) skipped.godwit = obstacle
    if (findProgram('turnserver') === undefined) skipped.coturn = 'not installed: sudo apt-get install coturn'
    const subjects = [bare, relay('godwit', true), relay('godwit-sockets', false), coturn()]
    for (let i = 0; i < context.rounds; i++)
      for (const subject of subjects.filter(({ name }) => !(name in skipped)))
        for (const [kind, bytes] of Object.entries(KINDS)) {
          const mbps = await measure(subject, bytes, context)
          recorder.add(`relay-${kind}`, subject.name, 'mbps', Math.round(mbps))
          context.progress(`${kind} through ${subject.name}: ${Math.round(mbps)} Mbit/s`)
          context.signal.throwIfAborted()
        }
    return {
      bench: this.name,
      machine: machine(),
      runs: recorder.runs(),
      ratios: recorder.ratios('godwit'),
      skipped,
    }
  },
}

async function measure(subject: Subject, bytes: number, { seconds }: BenchContext): Promise<number> {
  const bed = await RelayBed.open(true)
  try {
    const [a, b] = [await bed.end('a', ADDRESSES.a[4]), await bed.end('b', ADDRESSES.b[4])]
    const { to, prefix } = await subject.open(bed, a, b)
    // What arrives is counted at the interface: reading it would take the CPU that forwards.
    b.tell('{"quiet":true}')
    const blast = async (for_: number) => {
      a.tell(JSON.stringify({ ...{ blast: bytes, segment: SIZE, seconds: for_, to }, prefix }))
      await a.expect((line) => line.startsWith('{"sent"'), 1000 * for_ + 10_000)
    }
    await blast(WARM_SECONDS)
    const before = await received(bed)
    const at = performance.now()
    await blast(seconds)
    const ms = performance.now() - at
    return ((await received(bed)) - before) / ms / 125
  } finally {
    await subject.close(bed).catch(() => {})
    await bed.close()
  }
}

/** Bytes that have arrived at the second host. */
async function received(bed: RelayBed): Promise<number> {
  const text = await bed.lab.programs.run('b', 'ip', ['-j', '-s', 'link', 'show', 'dev', 'eth0'])
  const [link] = JSON.parse(text) as { stats64: { rx: { bytes: number } } }[]
  return link!.stats64.rx.bytes
}
