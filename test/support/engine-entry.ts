/** Worker entry for tests: an engine with fixed keys inside a network namespace. */
import { workerData } from 'node:worker_threads'
import { FixedMachine, OpenForwarder } from '../../bench/fixed-machine.ts'
import { Arena } from '../../src/linux/arena.ts'
import { inNamespace } from '../../src/linux/netns.ts'
import { openTun } from '../../src/linux/tun.ts'
import { openUdp } from '../../src/linux/udp.ts'
import { Datapath } from '../../src/tunnel/datapath/datapath.ts'
import { Engine } from '../../src/tunnel/engine/engine.ts'
import { serveEngine } from '../../src/tunnel/engine/thread.ts'

export interface EngineEntryData {
  readonly netns: string
  readonly tun: string
  readonly end: 0 | 1
  readonly form: 'godwit' | 'stock'
  readonly remote: Uint8Array
  readonly mtu: number
}

serveEngine(({ poller, post }) => {
  const data = workerData as EngineEntryData
  const arena = new Arena(Datapath.arenaBytes(1 << 20))
  const { tun, socket } = inNamespace(data.netns, () => ({
    tun: openTun(arena, { name: data.tun }),
    socket: openUdp(arena, { family: 4, port: 7001 }),
  }))
  const datapath = new Datapath({
    arena,
    tun,
    machine: (seam) => new FixedMachine(seam),
    forwarder: new OpenForwarder(),
    random: () => 0,
    ringBytes: 1 << 20,
  })
  const engine = new Engine({ datapath, tun, poller, now: () => performance.now() })
  const machine = datapath.machine as FixedMachine
  const remote = { address: data.remote, port: 7001 }
  machine.begin({ end: data.end, form: data.form, remote, mtu: data.mtu, socket: engine.addSocket(socket) })
  return { engine, onCommand: (command) => post({ echo: command, counts: datapath.inbound.counts }) }
})
