/** CHECKs of a peer that somebody copies and sends with the source of somebody else: what goes there from a whole engine. */
import assert from 'node:assert/strict'
import { it } from 'node:test'
import { Kind, SIGN } from '../../../src/overlay/wire/datagram.ts'
import { MachineServers } from '../../support/overlay-servers.ts'
import { EngineNode } from './engine-node.ts'
import { at, Network } from './network.ts'

const VICTIM = '198.51.100.66:77'

/** Headers of IPv4 and UDP. */
const HEADERS = 28

it('issue 8: a CHECK with a forged source draws three times its bytes there at most, headers counted', () => {
  const net = new Network(3, (parts) => new MachineServers(parts))
  const [alice, bob] = [new EngineNode(net, 'alice', 3), new EngineNode(net, 'bob', 4)]
  for (const [i, node] of [alice, bob].entries()) node.use({ name: 'acc1', address: `203.0.113.${i + 1}` })
  net.until(() => alice.address !== undefined && bob.address !== undefined)
  const copies = new Map<number, Uint8Array>()
  net.filter = (from, _to, bytes) => {
    const isCheck = bytes[0] === SIGN && bytes[2] === Kind.CHECK
    if (isCheck && from.startsWith('203.0.113.1:')) copies.set(bytes.length, bytes.slice())
    return true
  }
  alice.do({ type: 'resolve', name: bob.name })
  net.run(2_000)
  assert.ok(copies.size > 1)
  let most = 0
  for (const copy of copies.values())
    for (const [times, pause] of [
      [1, 0],
      [20, 0],
      [20, 50],
      [20, 2_000],
    ] as const) {
      let [sent, drawn] = [0, 0]
      net.filter = (_from, to, { length }) => {
        if (to === VICTIM) drawn += length + HEADERS
        return true
      }
      for (let n = 0; n < times; n++) {
        sent += copy.length + HEADERS
        bob.receive(copy, at(VICTIM), bob.sockets[0]!.socket)
        net.run(pause)
      }
      net.run(30_000)
      assert.ok(drawn <= 3 * sent, `${copy.length} bytes, ${times} times: ${drawn} for ${sent}`)
      most = Math.max(most, drawn / sent)
    }
  assert.ok(most > 2, 'an answer, and a request of its own size')
})
