/**
 * A relay between two hosts, the coordinator's part played by the caller: for `bench overlay` and the tests of the relay.
 *
 *   a eth0 ══ wan0 relay wan1 ══ eth0 b
 */
import { fileURLToPath } from 'node:url'
import { Lab } from '../lab/build.ts'
import type { Program } from '../lab/hosts.ts'
import type { TopologySpec } from '../lab/topology.ts'
import { parseAddress } from '../src/core/address.ts'
import { usesPrograms } from '../src/linux/packages.ts'
import { must } from '../src/mechanism/schema.ts'
import type { RelayEvent } from '../src/overlay/servers/protocol.ts'

usesPrograms('ip')

const program = (name: string): string => fileURLToPath(new URL(`./programs/${name}.js`, import.meta.url))
const PATIENCE_MS = 10_000
const PORT = 5000

export const ADDRESSES = {
  a: { 4: '10.80.0.2', 6: '2001:db8:80::2' },
  b: { 4: '10.81.0.2', 6: '2001:db8:81::2' },
  relay: { 4: '10.80.0.1', 6: '2001:db8:80::1' },
} as const

export function relayTopology(forward: boolean): TopologySpec {
  const link = (name: string, host: string, iface: string, n: number) => ({
    name,
    ends: [
      { host, iface: 'eth0', addresses: [`10.${n}.0.2/24`, `2001:db8:${n}::2/64`] },
      { host: 'relay', iface, addresses: [`10.${n}.0.1/24`, `2001:db8:${n}::1/64`] },
    ] as const,
  })
  const by = (n: number) => ({
    routes: [
      { to: 'default', via: `10.${n}.0.1` },
      { to: 'default6', via: `2001:db8:${n}::1` },
    ],
  })
  return {
    name: 'relay',
    summary: 'a relay between two hosts',
    hosts: { a: by(80), b: by(81), relay: { forward } },
    links: [link('a', 'a', 'wan0', 80), link('b', 'b', 'wan1', 81)],
  }
}

/** A side as JSON carries it. */
export interface PlainSide {
  readonly channel: number
  readonly side: number
  readonly endpoint: { readonly address: number[]; readonly port: number }
  readonly key: number[]
}

export class RelayBed {
  readonly lab: Lab
  #relay: Program | undefined
  #orders = 0

  private constructor(lab: Lab) {
    this.lab = lab
  }

  static async open(forward = false): Promise<RelayBed> {
    return new RelayBed(await Lab.build(relayTopology(forward)))
  }

  get relay(): Program {
    return this.#relay!
  }

  /** Returns what it says of where it forwards. */
  async startRelay(
    more: { readonly relay_mbps?: number; readonly relay_kernel?: boolean } = {},
  ): Promise<string> {
    const settings = {
      relay_ports: [6742, 6749],
      addresses: Object.values(ADDRESSES.relay),
      ...{ relay_mbps: 0, relay_kernel: true, relay_channels: 10_000, relay_capacity_mbps: 0 },
      ...more,
    }
    const words = [program('relay-host'), JSON.stringify(settings)]
    this.#relay = await this.lab.programs.start('relay', process.execPath, words, { input: true })
    let how = ''
    await this.#relay.expect((line) => {
      if (line.includes('"log"')) how = (JSON.parse(line) as { message: string }).message
      return line === '{"ready":true}'
    }, PATIENCE_MS)
    return how
  }

  async order(
    pair: string,
    nodes: readonly [number, number],
    proven: readonly [string?, string?] = [],
  ): Promise<readonly [PlainSide, PlainSide]> {
    const id = ++this.#orders
    const side = (i: 0 | 1) => {
      const address = proven[i]
      return {
        node: nodes[i],
        ...(address !== undefined && { proven: { address: [...must(parseAddress(address))], port: PORT } }),
      }
    }
    const order = {
      type: 'relay-order',
      id,
      pair,
      another: false,
      account: 'carol',
      sides: [side(0), side(1)],
    }
    this.relay.tell(JSON.stringify(order))
    const line = await this.relay.expect(
      (each) => each.startsWith(`{"type":"relay-ack","id":${id}`),
      PATIENCE_MS,
    )
    return (JSON.parse(line) as { sides: [PlainSide, PlainSide] }).sides
  }

  async report(): Promise<Readonly<Record<string, number>>> {
    this.relay.tell('{"type":"report"}')
    const line = await this.relay.expect((each) => each.startsWith('{"type":"report"'), PATIENCE_MS)
    return (JSON.parse(line) as Extract<RelayEvent, { type: 'report' }>).counts
  }

  async end(host: string, address: string, port = PORT): Promise<Program> {
    const words = [program('relay-end'), address, String(port)]
    const end = await this.lab.programs.start(host, process.execPath, words, { input: true })
    await end.expect((line) => line === '{"ready":true}', PATIENCE_MS)
    return end
  }

  async bind(end: Program, side: PlainSide, counter?: number): Promise<void> {
    end.tell(JSON.stringify({ bind: side, counter }))
    await end.expect((line) => line === '{"bound":true}', PATIENCE_MS)
  }

  /** A channel in this family whose two nodes have bound it. */
  async channel(
    family: 4 | 6,
    ends: readonly [Program, Program],
    pair = 'ab',
  ): Promise<readonly [PlainSide, PlainSide]> {
    const sides = await this.order(pair, [1, 2], [ADDRESSES.a[family], ADDRESSES.b[family]])
    await this.bind(ends[0], sides[0])
    await this.bind(ends[1], sides[1])
    return sides
  }

  close(): Promise<void> {
    return this.lab.close()
  }
}

/** Sends a text from a side's node to its port; resolves with what arrives at the other end, and from where. */
export async function across(
  from: Program,
  side: PlainSide,
  to: Program,
  text: string,
  family: 4 | 6 = 4,
): Promise<readonly [string, number]> {
  from.tell(JSON.stringify({ send: text, to: [ADDRESSES.relay[family], side.endpoint.port] }))
  const line = await to.expect((each) => each.startsWith(`{"got":${JSON.stringify(text)}`), PATIENCE_MS)
  return (JSON.parse(line) as { from: [string, number] }).from
}
