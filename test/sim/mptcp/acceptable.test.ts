/** Which segments of a peer, or of whoever writes its address into them, are looked at: the edges of the windows. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { TcpFlag } from '../../../src/core/tcp.ts'
import { LOCAL_ISN, Opened, PEER_ISN, Served, to } from './served.ts'

const { ACK, FIN, PSH, RST, SYN } = TcpFlag
/** The least window that is assumed. */
const LEAST = 65_536

/** 100 bytes came and are acknowledged; the window of the local TCP is `window`, unscaled. */
function received(window: number, [peer, local]: readonly [number, number] = [7, 7]): Served {
  const served = new Served().open({ scale: peer }, { scale: local })
  served.peer(ACK | PSH, 1, { length: 100, map: [1, 1, 100] })
  served.local(ACK, 1, 101, 0, { window })
  return served
}

/** Whether the peer is heard that says there that the subflow is a backup. */
function isHeard(served: Served, at: number, { flags = ACK as number, length = 0, ack = 1 } = {}): boolean {
  served.peer(flags, at, { length, ack, options: [{ type: 'prio', backup: true }] })
  return served.connection.first!.remoteBackup
}

test('RFC 9293 §3.10.7.4: a segment of a peer counts from the byte before the one that is due, the last one included', () => {
  for (const [at, more, heard] of [
    [101, {}, true],
    [100, {}, true],
    [99, {}, false],
    [99, { length: 1 }, true],
    [98, { length: 1 }, false],
    [99, { flags: ACK | FIN }, true],
    [98, { flags: ACK | FIN }, false],
    [98, { flags: ACK | FIN, length: 1 }, true],
  ] as const)
    assert.equal(isHeard(received(1000), at, more), heard, JSON.stringify([at, more]))
})

test('RFC 9293 §3.10.7.4, RFC 7323 §2.2: and to the end of the window of the local TCP, as both SYNs scale it', () => {
  for (const [window, scales, edge] of [
    [1000, [7, 7], 1000 * 128],
    [1000, [0, 7], 1000 * 128],
    [10, [7, 7], LEAST],
    [65_535, [-1, 7], LEAST],
    [65_535, [7, -1], LEAST],
  ] as const)
    for (const [beyond, heard] of [
      [0, true],
      [1, false],
    ] as const)
      assert.equal(isHeard(received(window, scales), 101 + edge + beyond), heard, `${window}, ${scales}`)
})

test('RFC 5961 §5: its acknowledgement is no older than what the peer may have under way', () => {
  for (const [window, oldest] of [
    [1000, 1 - 1000 * 128 - LEAST],
    [10, 1 - 2 * LEAST],
  ] as const)
    for (const [older, heard] of [
      [0, true],
      [1, false],
    ] as const) {
      const served = received(1000)
      served.peer(ACK, 101, { dataAck: 1, window })
      assert.equal(isHeard(served, 101, { ack: oldest - older }), heard, `${window}, ${older}`)
    }
})

test('RFC 5961 §5: of what is not looked at, data and a FIN are answered by an acknowledgement, and an empty segment by nothing', () => {
  for (const [flags, length, answers] of [
    [ACK, 0, 0],
    [ACK | PSH, 1, 1],
    [ACK | FIN, 0, 1],
  ] as const) {
    const served = received(1000)
    const sent = to('wire', served.peer(flags, 500_000, { length }))
    assert.equal(sent.length, answers)
    for (const { flags, ack } of sent)
      assert.deepEqual([flags & RST, ack], [0, served.connection.first!.ackAt(101)])
  }
})

test('RFC 5961 §3.2: a reset counts from what is acknowledged to the newest byte that came, both included; else it is asked for', () => {
  for (const [at, counts] of [
    [50, false],
    [51, true],
    [101, true],
    [102, false],
  ] as const) {
    const served = new Served().open()
    served.join()
    served.peer(ACK | PSH, 1, { length: 100, map: [1, 1, 100] })
    served.local(ACK, 1, 51)
    const sent = to('wire', served.peer(RST, at))
    assert.equal(served.connection.first!.state, counts ? 'dead' : 'active', `${at}`)
    assert.deepEqual(
      sent.map(({ tuple, flags, ack }) => [tuple.remotePort, flags, ack - PEER_ISN]),
      counts ? [] : [[4000, ACK, 51]],
    )
  }
})

test('a connection that is over: ended in order it acknowledges a FIN that comes again and nothing else; reset, it answers all by a reset, but no reset', () => {
  const over = new Served().open()
  over.local(ACK | FIN, 1, 1)
  over.peer(ACK, 1, { map: [1, 0, 1], fin: true, dataAck: 2 })
  over.local(ACK, 2, 2)
  over.peer(ACK | FIN, 1, { ack: 2, dataAck: 2 })
  assert.equal(over.connection.state, 'closed')
  const [known, ...more] = over.peer(ACK | FIN, 1, { ack: 2 })!
  assert.deepEqual([known!.to, known!.flags, known!.ack - PEER_ISN, more.length], ['wire', ACK, 2, 0])
  assert.deepEqual(over.peer(ACK, 2, { ack: 2 }), [])
  assert.deepEqual(over.local(ACK, 2, 2), [], 'nor does the peer hear more of the local TCP')
  const reset = new Served().open()
  reset.local(RST | ACK, 1, 1)
  assert.equal(reset.connection.state, 'closed')
  for (const flags of [ACK, ACK | PSH, ACK | FIN])
    assert.deepEqual(
      reset.peer(flags, 1)!.map((out) => [out.to, out.flags & RST]),
      [['wire', RST]],
    )
  assert.deepEqual(reset.peer(RST, 1), [])
  assert.deepEqual(reset.local(ACK, 1, 1), [])
})

test('before the answer to its SYN nothing of a TCP is translated', () => {
  const opened = new Opened()
  opened.out(opened.wire, SYN, { seq: LOCAL_ISN })
  assert.equal(opened.local(ACK, 1, 1), undefined)
  assert.equal(opened.peer(ACK, 1), undefined)
  assert.equal(opened.connection.state, 'syn-sent')
})
