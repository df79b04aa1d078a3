import { Arena } from '../../../src/linux/arena.ts'
import { FakeTun } from '../../../src/linux/fake-tun.ts'
import { VNET_HEADER } from '../../../src/linux/tun.ts'
import { tunCompliance } from '../../suites/tun.ts'
import { udpPacket } from '../../support/udp-packet.ts'

const HERE = { address: Uint8Array.of(10, 77, 0, 1), port: 7001 }
const FAR = { address: Uint8Array.of(10, 77, 0, 2), port: 7002 }

tunCompliance('the double', () => {
  const arena = new Arena(2 << 20)
  const tun = new FakeTun(arena)
  return {
    arena,
    tun,
    send: (payload) => {
      const packet = udpPacket(HERE, FAR, payload)
      const bytes = new Uint8Array(VNET_HEADER + packet.length)
      bytes.set(packet, VNET_HEADER)
      tun.inject(bytes)
    },
    receive: () => tun.written.shift()?.slice(VNET_HEADER + 28),
    packet: (payload) => udpPacket(FAR, HERE, payload),
    close: () => tun.close(),
  }
})
