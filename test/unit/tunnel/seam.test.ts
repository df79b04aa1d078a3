/** The datapath keeps what the seam promises. */
import { viewOf } from '../../../src/core/bytes.ts'
import type { Endpoint } from '../../../src/tunnel/seam.ts'
import { type SeamBed, type SeamEnd, seamCompliance } from '../../suites/seam.ts'
import { DatapathPair, type End, newArenas } from '../../support/datapath-pair.ts'
import { udp } from '../../support/packets.ts'

const arenas = newArenas()
/** vnet header, IPv4 and UDP header. */
const PAYLOAD = 10 + 28

seamCompliance('datapath', () => {
  for (const arena of arenas) arena.reset()
  const pair = new DatapathPair('godwit', 1500, arenas, false)
  let lost: (source: Endpoint) => boolean = () => false
  pair.network.filter = (from) => !lost(from)
  const end = (of: End): SeamEnd => ({
    seam: of.machine.seam,
    machine: of.machine,
    at: of.at,
    sendData(slot, sequence) {
      const payload = new Uint8Array(4)
      viewOf(payload).setUint32(0, sequence)
      of.forwarder.slot = slot
      pair.send(of, udp({ version: 4, payload }))
    },
    // Numbers of packets that the merger has put together, too.
    received: () =>
      of.tun.written.flatMap((bytes) =>
        Array.from({ length: (bytes.length - PAYLOAD) / 4 }, (_, i) =>
          viewOf(bytes).getUint32(PAYLOAD + 4 * i),
        ),
      ),
  })
  const bed: SeamBed = {
    a: end(pair.a),
    b: end(pair.b),
    lose: (from) => {
      lost = from
    },
    deliver(ms = 10) {
      pair.now += ms
      pair.receive(pair.a)
      pair.receive(pair.b)
    },
    now: () => pair.now,
  }
  return bed
})
