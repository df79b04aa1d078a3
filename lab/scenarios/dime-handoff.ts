/**
 * The experiment of DIME's Figure 8 in the testbed of its Figure 7: the mobile host sends to the correspondent for fifteen
 * seconds and moves from R1 to R2 meanwhile, five seconds between losing one address and having the other. Address events
 * are made with what `ip address` does. Goodput is what arrived in the fifteen seconds; beside it stands a run in which
 * nothing moves, so that the share an outage leaves is known.
 */
import { usesPrograms } from '../../src/linux/packages.ts'
import { Meter } from '../meter.ts'
import { Godwit } from '../product.ts'
import type { ScenarioContext } from '../scenario.ts'
import { addressOf, namespaceOf } from '../topology.ts'
import type { LinkConditions } from '../types.ts'

export const PROGRAMS = usesPrograms('iperf3')

const SECONDS = 15
const FIRST_EVENT_S = 5
const SECOND_EVENT_S = 10
const BIN_MS = 100
const UDP_MBPS = 5

/**
 * The two accesses of the mobile host, alike, so that goodput is bound by the links as in the paper. The queue is that of a
 * usual uplink: TCP may halve its window, which it does after an outage whatever moved it, and still fill the link.
 */
export const LINKS: Readonly<Record<string, Partial<LinkConditions>>> = {
  acc1: { rateMbps: 10, queueMs: 200 },
  acc2: { rateMbps: 10, queueMs: 200 },
}

export type Handoff = 'none' | 'soft' | 'hard'
export type Protocol = 'tcp' | 'udp'

interface Outcome {
  /** Megabits of payload per second over the fifteen seconds. */
  readonly goodput: number
  /** Monotonic milliseconds of the start, for the plot. */
  readonly startedAt: number
}

interface Access {
  readonly name: 'acc1' | 'acc2'
  readonly addresses: readonly string[]
  readonly gateway: string
  readonly gateway6: string
  readonly metric: number
}

const ACCESSES: readonly [Access, Access] = [
  {
    name: 'acc1',
    addresses: ['198.51.100.10/25', '2001:db8:1::10/64'],
    gateway: '198.51.100.1',
    gateway6: '2001:db8:1::1',
    metric: 100,
  },
  {
    name: 'acc2',
    addresses: ['198.51.100.138/25', '2001:db8:2::10/64'],
    gateway: '198.51.100.129',
    gateway6: '2001:db8:2::1',
    metric: 200,
  },
]

export class HandoffBed {
  readonly #context: ScenarioContext
  readonly #mobile: Godwit
  readonly #correspondent: Godwit
  readonly meters: Meter[]

  constructor(context: ScenarioContext) {
    this.#context = context
    this.#mobile = new Godwit(context, 'mh')
    this.#correspondent = new Godwit(context, 'ch1')
    this.meters = [new Meter(namespaceOf('mh'), 5), new Meter(namespaceOf('ch1'), 10)]
  }

  async start(): Promise<void> {
    await this.#correspondent.daemon('dime', 'up')
    await this.#mobile.daemon('dime', 'up')
  }

  stop(): void {
    for (const meter of this.meters) meter.stop()
  }

  /** Gives an access its addresses and routes, as a DHCP client or `ip` would. */
  up(which: 0 | 1): void {
    const { name, addresses, gateway, gateway6, metric } = ACCESSES[which]
    const rtnl = this.#context.lab.rtnl('mh')
    const present = new Set(rtnl.addresses({ link: name }).map((a) => `${a.address}/${a.prefixLength}`))
    for (const address of addresses)
      if (!present.has(address)) rtnl.addAddress(name, address, { noDad: true })
    rtnl.replaceRoute({ to: 'default', via: gateway, dev: name, metric })
    rtnl.replaceRoute({ to: 'default6', via: gateway6, dev: name, metric })
  }

  down(which: 0 | 1): void {
    const { name, addresses, gateway6, metric } = ACCESSES[which]
    const rtnl = this.#context.lab.rtnl('mh')
    for (const address of addresses) rtnl.deleteAddress(name, address)
    rtnl.deleteRoute({ to: 'default6', via: gateway6, dev: name, metric })
  }

  /** One transfer of fifteen seconds. */
  async run(handoff: Handoff, protocol: Protocol, marked: boolean): Promise<Outcome> {
    const { lab } = this.#context
    this.up(0)
    this.down(1)
    await this.#context.sleep(500)
    const server = await lab.programs.start('ch1', 'iperf3', ['--server', '--one-off', '--json'])
    await this.#context.sleep(300)
    const to = addressOf(lab.spec, 'ch1', 'wan')
    const udp = protocol === 'udp' ? ['--udp', '--bitrate', `${UDP_MBPS}M`, '--length', '1200'] : []
    const args = ['--client', to, '--time', String(SECONDS), '--json', ...udp]
    const client = await lab.programs.start('mh', 'iperf3', args)
    const startedAt = performance.now()
    const note = (text: string): void => {
      if (marked) this.#context.mark(text)
      else this.#context.note(`${handoff} ${protocol}: ${text}`)
    }
    const until = (seconds: number): Promise<void> =>
      this.#context.sleep(startedAt + seconds * 1000 - performance.now())
    if (marked) this.#context.start()
    if (handoff !== 'none') {
      await until(FIRST_EVENT_S)
      if (handoff === 'soft') this.#arrive(note)
      else {
        this.down(0)
        note('acc1 loses its address')
      }
      await until(SECOND_EVENT_S)
      if (handoff === 'hard') this.#arrive(note)
      else {
        this.down(0)
        note('acc1 loses its address')
      }
    }
    if ((await client.ended) !== 0) throw client.failure('did not end well')
    const report = await readJson(server)
    await server.ended
    const bytes = receivedBytes(report)
    await this.#context.sleep(200)
    return { goodput: (bytes * 8) / SECONDS / 1e6, startedAt: this.#context.startedAt }
  }

  #arrive(note: (text: string) => void): void {
    this.up(1)
    note('acc2 has an address')
  }

  /** Megabits per second that arrive at the correspondent, in bins, of the run that began at `from`. */
  rates(from: number): [number, number][] {
    const bins = this.meters[1]!.bins('wan', 'rxBytes', from, from + SECONDS * 1000, BIN_MS)
    return bins.map((bytes, i) => [(i * BIN_MS) / 1000, (bytes * 8) / BIN_MS / 1000])
  }
}

async function readJson(program: { line(): Promise<string | undefined> }): Promise<unknown> {
  const lines: string[] = []
  for (let line = await program.line(); line !== undefined; line = await program.line()) lines.push(line)
  return JSON.parse(lines.join('\n'))
}

/** What the server of iperf3 counted. */
function receivedBytes(report: unknown): number {
  const { end } = report as {
    end: { sum_received?: { bytes: number }; sum?: { bytes: number; lost_percent?: number } }
  }
  return end.sum_received?.bytes ?? end.sum?.bytes ?? 0
}

/** Ten runs of each protocol as in the paper, or two; the mean goodput of each. */
export async function measureHandoff(
  context: ScenarioContext,
  handoff: 'soft' | 'hard',
): Promise<{ tcp: number[]; udp: number[]; reference: Record<Protocol, number> }> {
  const bed = new HandoffBed(context)
  try {
    await bed.start()
    const runs = context.options.full === true ? 10 : 2
    const reference = {
      tcp: (await bed.run('none', 'tcp', false)).goodput,
      udp: (await bed.run('none', 'udp', false)).goodput,
    }
    const tcp: number[] = []
    const udp: number[] = []
    let plotted: [number, number][] = []
    for (let i = 0; i < runs; i++) {
      const outcome = await bed.run(handoff, 'tcp', i === 0)
      if (i === 0) plotted = bed.rates(outcome.startedAt)
      tcp.push(outcome.goodput)
      if (i < Math.max(1, runs / 2) || context.options.full === true)
        udp.push((await bed.run(handoff, 'udp', false)).goodput)
    }
    context.metric('reference_tcp_mbps', reference.tcp)
    context.metric('reference_udp_mbps', reference.udp)
    context.metric('tcp_goodput_mbps', mean(tcp))
    context.metric('udp_goodput_mbps', mean(udp))
    context.metric('tcp_goodput_runs_mbps', tcp)
    context.metric('udp_goodput_runs_mbps', udp)
    context.chart = {
      title: `DIME, ${handoff} handoff (Figure 8)`,
      note: `TCP from the mobile host, ${SECONDS} s, 60 ms across the switch; rate at the correspondent`,
      marks: context.marks,
      panels: [{ unit: 'Mbit/s', series: [{ name: 'received', points: plotted }] }],
    }
    return { tcp, udp, reference }
  } finally {
    bed.stop()
  }
}

export function mean(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / Math.max(1, values.length)
}
