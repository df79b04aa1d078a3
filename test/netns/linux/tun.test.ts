/** The kernel's TUN device, in a namespace of its own. */
import assert from 'node:assert/strict'
import { after, before } from 'node:test'
import { EAGAIN } from '../../../src/core/errno.ts'
import { Arena } from '../../../src/linux/arena.ts'
import { createNamespace, deleteNamespace, inNamespace } from '../../../src/linux/netns.ts'
import { Rtnetlink } from '../../../src/linux/rtnetlink/index.ts'
import { writeName } from '../../../src/linux/sockaddr.ts'
import { KernelSysctls } from '../../../src/linux/sysctl.ts'
import { openTun } from '../../../src/linux/tun.ts'
import { openUdp, ReceiveBatch } from '../../../src/linux/udp.ts'
import { tunCompliance } from '../../suites/tun.ts'
import { udpPacket } from '../../support/udp-packet.ts'

const netns = `tun-${process.pid}`
const HERE = Uint8Array.of(10, 77, 0, 1)
const FAR = { address: Uint8Array.of(10, 77, 0, 2), port: 7002 }
let rtnl: Rtnetlink

before(() => {
  createNamespace(netns)
  rtnl = new Rtnetlink(netns)
  // The kernel would speak by itself: router solicitations.
  new KernelSysctls(netns).set('net.ipv6.conf.default.disable_ipv6', 1)
})
after(() => {
  rtnl.close()
  deleteNamespace(netns)
})

tunCompliance('the kernel', () => {
  const arena = new Arena(2 << 20)
  const tun = inNamespace(netns, () => openTun(arena, { name: 'tun7' }))
  rtnl.addAddress('tun7', '10.77.0.1/24')
  rtnl.setLink('tun7', { up: true })
  const socket = inNamespace(netns, () => openUdp(arena, { family: 4, address: HERE }))
  const batch = new ReceiveBatch(arena, 1)
  const name = arena.reserve(32)
  const at = arena.reserve(65_536)
  writeName(arena.u8, arena.view, name, FAR, 4)
  return {
    arena,
    tun,
    send: (payload) => {
      arena.u8.set(payload, at)
      assert.equal(socket.send(name, 0, at, payload.length, 0), 0)
    },
    receive: () => {
      const n = socket.receive(batch)
      if (n < 0) {
        assert.equal(n, -EAGAIN)
        return undefined
      }
      return arena.u8.slice(batch.at[0]!, batch.at[0]! + batch.length[0]!)
    },
    packet: (payload) => udpPacket(FAR, { address: HERE, port: socket.port }, payload),
    close: () => {
      socket.close()
      tun.close()
    },
  }
})
