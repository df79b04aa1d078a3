/** Whether this kernel sends and receives UDP datagrams in batches, found by sending itself one on loopback. */
import { Arena } from './arena.ts'
import { KernelError } from './libc.ts'
import { NAME_SIZE, writeAddress16, writeName } from './sockaddr.ts'
import { openUdp, RECEIVE_BYTES, ReceiveBatch } from './udp.ts'

const LOOPBACK = Uint8Array.of(127, 0, 0, 1)
const SEGMENT = 100
const SEGMENTS = 3

/** Why datagrams go out or come in one by one, undefined when they go in batches. An anchor's sends (PKTINFO) included. */
export function udpBatchObstacle(): string | undefined {
  const arena = new Arena(RECEIVE_BYTES + 8192)
  const from = openUdp(arena, { family: 6, multihomed: true })
  try {
    const to = openUdp(arena, { family: 4, address: LOOPBACK })
    try {
      const batch = new ReceiveBatch(arena, 1)
      const name = arena.reserve(NAME_SIZE)
      const local = arena.reserve(16)
      const at = arena.reserve(SEGMENT * SEGMENTS)
      writeName(arena.u8, arena.view, name, { address: LOOPBACK, port: to.port }, from.family)
      writeAddress16(arena.u8, local, LOOPBACK)
      const result = from.send(name, local, at, SEGMENT * SEGMENTS, SEGMENT)
      if (result < 0) throw new KernelError('send to loopback', -result)
      if (from.split > 0) return 'no UDP_SEGMENT: datagrams are sent one by one'
      to.receive(batch)
      return batch.segment[0] === SEGMENT && batch.length[0] === SEGMENT * SEGMENTS
        ? undefined
        : 'no UDP_GRO: datagrams are received one by one'
    } finally {
      to.close()
    }
  } finally {
    from.close()
  }
}
