/** Two datapaths joined by an in-memory network, with fixed keys: what goes into one TUN comes out of the other. */

import { FixedMachine, OpenForwarder } from '../../bench/fixed-machine.ts'
import { Arena } from '../../src/linux/arena.ts'
import { FakeTun } from '../../src/linux/fake-tun.ts'
import { type FakeUdp, FakeUdpNetwork } from '../../src/linux/fake-udp.ts'
import { Datapath } from '../../src/tunnel/datapath/datapath.ts'
import type { Endpoint, TransportForm } from '../../src/tunnel/seam.ts'

const RING = 1 << 20

export interface End {
  readonly datapath: Datapath
  readonly machine: FixedMachine
  readonly forwarder: OpenForwarder
  readonly tun: FakeTun
  readonly sockets: FakeUdp[]
  readonly at: Endpoint[]
}

export class DatapathPair {
  readonly network = new FakeUdpNetwork()
  readonly a: End
  readonly b: End
  now = 1000

  constructor(
    form: TransportForm = 'godwit',
    mtu = 1500,
    arenas: readonly [Arena, Arena] = newArenas(),
    /** Without: the caller opens sessions and paths. */
    begin = true,
  ) {
    this.a = this.#end(arenas[0], 1)
    this.b = this.#end(arenas[1], 2)
    if (!begin) return
    this.a.machine.begin({ end: 0, form, remote: this.b.at[0]!, mtu, socket: 0 })
    this.b.machine.begin({ end: 1, form, remote: this.a.at[0]!, mtu, socket: 0 })
  }

  #end(arena: Arena, host: number): End {
    const tun = new FakeTun(arena)
    const forwarder = new OpenForwarder()
    const datapath = new Datapath({
      arena,
      tun,
      forwarder,
      machine: (seam) => new FixedMachine(seam),
      random: () => 0,
      ringBytes: RING,
    })
    const at = [0, 1].map((n) => ({ address: Uint8Array.of(10, n, 0, host), port: 7000 + host }))
    const sockets = at.map((endpoint) => this.network.open(arena, endpoint))
    datapath.sockets.push(...sockets)
    return { datapath, machine: datapath.machine as FixedMachine, forwarder, tun, sockets, at }
  }

  /** Sends packets (vnet header in front) from one end, without delivering. */
  send(from: End, ...packets: Uint8Array[]): void {
    from.datapath.now = this.now
    for (const packet of packets) from.tun.inject(packet)
    while (from.datapath.outbound.read(16, this.now) > 0);
    from.datapath.finishBatch(this.now)
  }

  /** Receives all that has arrived at an end. */
  receive(to: End): void {
    to.datapath.now = this.now
    to.sockets.forEach((socket, index) => {
      while (to.datapath.inbound.receive(socket, index, this.now) > 0);
    })
    to.datapath.finishBatch(this.now)
  }
}

export function newArenas(): readonly [Arena, Arena] {
  return [new Arena(Datapath.arenaBytes(RING)), new Arena(Datapath.arenaBytes(RING))]
}
