/**
 * A profile of the engine alone, not a benchmark of the product: one end of a tunnel with fixed keys, no handshake, no
 * mechanism. `engine-profile IFNAME END LPORT REMOTE RPORT [godwit|stock] [SECONDS]`; run two in two namespaces, under
 * --cpu-prof or perf, and iperf3 through them.
 */
import { Arena } from '../src/linux/arena.ts'
import { KernelPoller } from '../src/linux/poller.ts'
import { openTun } from '../src/linux/tun.ts'
import { openUdp } from '../src/linux/udp.ts'
import { Datapath } from '../src/tunnel/datapath/datapath.ts'
import { Engine } from '../src/tunnel/engine/engine.ts'
import { FixedMachine, OpenForwarder } from './fixed-machine.ts'

const [
  ,
  ,
  name = 'gwt0',
  end = '0',
  port = '0',
  remote = '',
  remotePort = '0',
  form = 'godwit',
  seconds = '30',
] = process.argv
const ringBytes = 4 << 20
const arena = new Arena(Datapath.arenaBytes(ringBytes))
const tun = openTun(arena, { name })
const datapath = new Datapath({
  arena,
  tun,
  machine: (seam) => new FixedMachine(seam),
  forwarder: new OpenForwarder(),
  random: () => 0,
  ringBytes,
})
const engine = new Engine({ datapath, tun, poller: new KernelPoller(), now: () => performance.now() })
const socket = engine.addSocket(openUdp(arena, { family: 4, port: Number(port) }))
;(datapath.machine as FixedMachine).begin({
  end: end === '0' ? 0 : 1,
  form: form as 'godwit' | 'stock',
  remote: { address: Uint8Array.from(remote.split('.').map(Number)), port: Number(remotePort) },
  mtu: 1500,
  socket,
})
console.log(`ready ${name} uso=${tun.udpSegments} slow=${datapath.aead.slow}`)
const until = performance.now() + Number(seconds) * 1000
let next = performance.now() + 1000
;(datapath.machine as FixedMachine).nextTimeout = () => next
;(datapath.machine as FixedMachine).handleTimeout = (() => {
  next += 1000
  if (performance.now() > until) engine.stop()
}) as never
engine.run()
console.log(
  JSON.stringify({
    engine: engine.counts,
    out: datapath.outbound.counts,
    in: datapath.inbound.counts,
    merge: datapath.merger.counts,
    failed: datapath.sender.failed,
    events: (datapath.machine as FixedMachine).events.slice(0, 10),
  }),
)
engine.close()
process.exit(0)
