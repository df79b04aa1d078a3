/** The double below the simulated machines keeps what the seam promises, as the datapath does. */

import { FixedMachine } from '../../../bench/fixed-machine.ts'
import type { TunnelMachine } from '../../../src/tunnel/protocol/machine.ts'
import type { Endpoint } from '../../../src/tunnel/seam.ts'
import { type SeamBed, type SeamEnd, seamCompliance } from '../../suites/seam.ts'
import { endpoint, Link, Node, World } from './harness.ts'

/** In the place of a node's own machine. */
class Recorder extends FixedMachine {
  poll(): undefined {
    return undefined
  }
}

seamCompliance('double', () => {
  const world = new World()
  let lost: (source: Endpoint) => boolean = () => false
  world.filter = (_datagram, from) => !lost(from)
  const links = [new Link({ delay: 1 }), new Link({ delay: 1 })]
  const nodes = [1, 101].map(
    (first) =>
      new Node(
        world,
        `node${first}`,
        [0, 1].map((n) => ({ endpoint: endpoint(first + n), ...(first === 1 && { link: links[n]! }) })),
      ),
  )
  const end = (node: Node): SeamEnd => {
    const seam = node.seam()
    const machine = new Recorder(seam)
    node.machine = machine as unknown as TunnelMachine
    return {
      seam,
      machine,
      at: node.sockets.map((socket) => socket.endpoint),
      sendData: (slot, sequence) => void node.sendData(slot, sequence),
      received: () => node.received.map(({ sequence }) => sequence),
    }
  }
  const bed: SeamBed = {
    a: end(nodes[0]!),
    b: end(nodes[1]!),
    lose: (from) => {
      lost = from
    },
    deliver: (ms = 10) => world.run(ms),
    now: () => world.now,
  }
  return bed
})
