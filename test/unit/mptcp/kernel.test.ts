/** What the kernel's program does with packets that arrive: those that continue a connection pass, with the acknowledgement lowered. */
import assert from 'node:assert/strict'
import { after, test } from 'node:test'
import { checksum, pseudoSum } from '../../../src/core/checksum.ts'
import { Protocol } from '../../../src/core/ip.ts'
import { closeFd } from '../../../src/linux/libc.ts'
import { SharedArray } from '../../../src/linux/shared-array.ts'
import { createHash, loadProgram, putElement, Tcx, testRun } from '../../../src/linux/tcx.ts'
import { fastPathObstacle } from '../../../src/mptcp/kernel/fast-path.ts'
import { IN, OUT, RING_AT, SLOT, SLOTS, TUPLE, TUPLE_VALUE, USER } from '../../../src/mptcp/kernel/layout.ts'
import { inProgram } from '../../../src/mptcp/kernel/programs.ts'
import type { OutSegment } from '../../../src/mptcp/machine/segment.ts'
import { packetOf } from '../../../src/mptcp/packets.ts'
import { type MptcpOption, mptcpOption } from '../../../src/mptcp/wire.ts'

const skip = fastPathObstacle() ?? false
const TCP_ISN = 0xffff_ff00
const PEER_ISN = 0x7000_0000
const LOCAL_IDSN = 0x1234_5678_ffff_fff0n
const REMOTE_IDSN = 0xfedc_ba98_7654_3210n
/** What the local TCP has sent, and what it has of the peer; data offsets. */
const SENT = 5_000_000_000
const ACKNOWLEDGED = SENT - 60_000
const RECEIVED = 9_000_001_000
const ACK = 16

const addresses = {
  4: { local: Uint8Array.of(10, 1, 0, 2), remote: Uint8Array.of(10, 3, 0, 2) },
  6: { local: new Uint8Array(16).fill(0xfd), remote: new Uint8Array(16).fill(0xfc) },
} as const
const PORTS = { localPort: 40_000, remotePort: 80 }

/** The program with one connection of each family in the slots 4 and 6. */
function program() {
  const tuples = createHash('test', TUPLE, TUPLE_VALUE, 4)
  const slots = SharedArray.create('test', SLOT, SLOTS)
  const run = loadProgram('test', inProgram({ tuples: tuples.fd, slots: slots.fd }), Tcx.INGRESS)
  after(() => {
    for (const fd of [tuples.fd, slots.fd, run]) closeFd(fd)
  })
  for (const family of [4, 6] as const) {
    const { local, remote } = addresses[family]
    const key = new Uint8Array(TUPLE)
    const view = new DataView(key.buffer)
    for (const [at, address] of [
      [0, local],
      [16, remote],
    ] as const) {
      if (family === 4) key.set([0xff, 0xff], at + 10)
      key.set(address, at + 16 - address.length)
    }
    view.setUint16(32, PORTS.localPort)
    view.setUint16(34, PORTS.remotePort)
    putElement(tuples, key, Uint8Array.of(family, 0, 0, 0, 1, 0, 0, 0))
  }
  const set = (slot: number, field: number, value: number | bigint) =>
    typeof value === 'bigint'
      ? slots.view.setBigUint64(slot * SLOT + field, value, true)
      : slots.view.setUint32(slot * SLOT + field, value, true)
  const get = (slot: number, field: number) => Number(slots.view.getBigUint64(slot * SLOT + field, true))
  const reset = () => {
    for (const slot of [4, 6]) {
      for (let at = 0; at < RING_AT; at += 4) set(slot, at, 0)
      set(slot, USER.mode, 1)
      set(slot, USER.tcpIsn, TCP_ISN)
      set(slot, USER.peerIsn, PEER_ISN)
      set(slot, USER.wireIsn, TCP_ISN)
      set(slot, USER.wirePeerIsn, PEER_ISN)
      set(slot, USER.localIdsn, LOCAL_IDSN)
      set(slot, USER.remoteIdsn, REMOTE_IDSN)
      set(slot, USER.scale, 7)
      set(slot, USER.rcvMax, BigInt(RECEIVED))
      set(slot, OUT.on, 1)
      set(slot, OUT.sndMax, BigInt(SENT))
      set(slot, OUT.window, 500)
      set(slot, IN.dataUna, BigInt(ACKNOWLEDGED))
      set(slot, IN.una, BigInt(ACKNOWLEDGED))
    }
  }
  return { run, set, get, reset }
}

interface Fields {
  readonly family?: 4 | 6
  /** Data offsets. */
  readonly at?: number
  readonly ack?: number
  readonly dataAck?: number | undefined
  readonly length?: number
  readonly map?: { readonly dsn?: number; readonly ssn?: number; readonly length?: number } | undefined
  readonly flags?: number
  readonly dataFin?: boolean
  readonly narrow?: boolean
  readonly more?: readonly MptcpOption[]
  readonly options?: Uint8Array
}

const word = (value: number | bigint) => Number(BigInt.asUintN(32, BigInt(value)))
const wide = (initial: bigint, offset: number) => {
  const value = BigInt.asUintN(64, initial + BigInt(offset))
  return { high: word(value >> 32n), low: word(value) }
}

/** A frame of the peer: by default 1,000 bytes that continue, and acknowledge 10,000 more. */
function frame(fields: Fields): Uint8Array {
  const { family = 4, at = RECEIVED, length = 1000, flags = ACK, dataFin = false, narrow = false } = fields
  const { ack = ACKNOWLEDGED + 10_000 } = fields
  const dataAck = 'dataAck' in fields ? fields.dataAck : ack
  const map = 'map' in fields ? fields.map : length > 0 ? {} : undefined
  const number = (initial: bigint, offset: number) =>
    narrow ? { low: wide(initial, offset).low } : wide(initial, offset)
  const dss: MptcpOption = {
    type: 'dss',
    dataFin,
    ...(dataAck !== undefined && { ack: number(LOCAL_IDSN, dataAck) }),
    ...(map !== undefined && {
      map: {
        dsn: number(REMOTE_IDSN, map.dsn ?? at),
        ssn: word(map.ssn ?? at),
        length: map.length ?? length,
      },
    }),
  }
  const bytes = new Uint8Array(40)
  let used = 0
  for (const option of [
    ...(dataAck === undefined && map === undefined ? [] : [dss]),
    ...(fields.more ?? []),
  ]) {
    used = mptcpOption.encode(option, bytes, used)
    while (used & 3) bytes[used++] = 1
  }
  const segment: OutSegment = {
    to: 'local',
    tuple: { ...addresses[family], ...PORTS },
    seq: word(PEER_ISN + at),
    ack: word(TCP_ISN + ack),
    flags,
    window: 400,
    options: fields.options ?? bytes.subarray(0, used),
    payload: length > 0 ? new Uint8Array(length).fill(7) : undefined,
    access: undefined,
    segmentSize: 65_535,
  }
  const packet = packetOf(segment, new Uint8Array(0))
  const out = new Uint8Array(14 + packet.length)
  out.set(family === 4 ? [8, 0] : [0x86, 0xdd], 12)
  out.set(packet, 14)
  return out
}

/** Offset of the acknowledgement that the local TCP gets, as far from `SENT`; undefined where user space has to see it. */
function given(made: ReturnType<typeof program>, fields: Fields): number | undefined {
  const slot = fields.family ?? 4
  const bytes = frame(fields)
  const before = made.get(slot, IN.packets)
  testRun(made.run, bytes)
  assert.equal(made.get(slot, IN.busy), 0)
  const view = new DataView(bytes.buffer)
  const ip = slot === 4 ? 20 : 40
  const length = bytes.length - 14 - ip
  assert.equal(checksum(view, 14 + ip, length, pseudoSum(view, 14, Protocol.TCP, length)), 0)
  if (made.get(slot, IN.packets) === before) return undefined
  return (word(view.getUint32(14 + ip + 8) - word(TCP_ISN + SENT)) | 0) as number
}

test('MP-42: the acknowledgement is lowered to the DATA_ACK, the checksum stays right, both families, numbers of either width', {
  skip,
}, () => {
  const made = program()
  for (const family of [4, 6] as const)
    for (const narrow of [false, true]) {
      made.reset()
      assert.equal(given(made, { family, narrow }), -50_000)
      assert.equal(
        given(made, { family, narrow, at: RECEIVED + 1000, dataAck: ACKNOWLEDGED + 4000 }),
        -56_000,
      )
      assert.equal(made.get(family, IN.dataUna), ACKNOWLEDGED + 10_000)
      assert.equal(made.get(family, IN.una), ACKNOWLEDGED + 10_000)
      assert.equal(made.get(family, IN.rcvMax), RECEIVED + 2000)
      // What is only acknowledged on the subflow is not said to be with the program.
      assert.equal(
        given(made, { family, narrow, length: 0, at: RECEIVED + 2000, ack: SENT, dataAck: undefined }),
        -50_000,
      )
      assert.equal(made.get(family, IN.dataUna), ACKNOWLEDGED + 10_000)
    }
})

test('data go to it only from where user space stopped, then in any order', { skip }, () => {
  const made = program()
  made.reset()
  assert.equal(given(made, { at: RECEIVED + 1000 }), undefined)
  assert.equal(given(made, { at: RECEIVED }), -50_000)
  assert.equal(given(made, { at: RECEIVED + 5000 }), -50_000)
  assert.equal(given(made, { at: RECEIVED + 1000 }), -50_000)
  assert.equal(made.get(4, IN.rcvMax), RECEIVED + 6000)
})

test('part of a mapping is taken', { skip }, () => {
  const made = program()
  made.reset()
  assert.equal(given(made, { map: { dsn: RECEIVED - 500, ssn: RECEIVED - 500, length: 1500 } }), -50_000)
})

for (const [what, fields] of [
  ['a FIN', { flags: ACK | 1 }],
  ['a reset', { flags: ACK | 4 }],
  ['a SYN', { flags: ACK | 2 }],
  ['urgent data', { flags: ACK | 32 }],
  ['no acknowledgement', { flags: 8 }],
  ['a DATA_FIN', { dataFin: true }],
  ['data without a mapping', { map: undefined }],
  ['a mapping without data', { length: 0, map: { length: 10 } }],
  ['a mapping that is not linear', { map: { dsn: RECEIVED + 1 } }],
  ['a mapping of another lap of 4 GB', { map: { dsn: RECEIVED + 2 ** 32, ssn: RECEIVED } }],
  ['data before their mapping', { map: { dsn: RECEIVED + 1, ssn: RECEIVED + 1 } }],
  ['data beyond their mapping', { map: { length: 999 } }],
  ['data beyond the window', { at: RECEIVED + 500 * 128 + 66_537 }],
  ['data far behind', { at: RECEIVED - 500 * 128 - 65_537 - 1000 }],
  ['an acknowledgement of what was never sent', { ack: SENT + 1 }],
  ['a DATA_ACK of what was never sent', { ack: SENT, dataAck: SENT + 1 }],
  ['a DATA_ACK beyond the acknowledgement', { dataAck: ACKNOWLEDGED + 10_001 }],
  ['a DATA_ACK of another lap of 4 GB', { dataAck: ACKNOWLEDGED + 10_000 - 2 ** 32 }],
  ['an acknowledgement far behind', { ack: ACKNOWLEDGED - 2 ** 20 - 1 }],
  ['another option of MPTCP', { more: [{ type: 'prio', backup: true }] }],
  ['two DSS', { length: 0, more: [{ type: 'dss', dataFin: false }] }],
  ['timestamps', { length: 0, options: Uint8Array.of(1, 1, 8, 10, 0, 0, 0, 0, 0, 0, 0, 0) }],
  ['an option that is longer than the header', { length: 0, options: Uint8Array.of(30, 12, 0x20, 1) }],
  ['an option of no length', { length: 0, options: Uint8Array.of(30, 0, 0x20, 1) }],
  [
    'a DSS of a length that is not its own',
    { length: 0, options: Uint8Array.of(30, 8, 0x20, 0, 0, 0, 0, 0) },
  ],
] as const satisfies readonly (readonly [string, Fields])[])
  test(`${what}: user space decides, and nothing of it is believed`, { skip }, () => {
    const made = program()
    for (const on of [false, true]) {
      made.reset()
      if (on) given(made, { length: 1000 })
      const at = on ? RECEIVED + 1000 : RECEIVED
      const moved: Fields = 'at' in fields || 'map' in fields ? fields : { at, ...fields }
      const numbers = () => [IN.dataUna, IN.una, IN.rcvMax].map((field) => made.get(4, field))
      const before = numbers()
      assert.equal(given(made, moved), undefined)
      assert.deepEqual(numbers(), before)
    }
  })

test('another tuple, a connection that is not the kernel’s, and random options are left alone', {
  skip,
}, () => {
  const made = program()
  made.reset()
  made.set(4, USER.mode, 0)
  assert.equal(given(made, {}), undefined)
  made.set(4, USER.mode, 1)
  let state = 1
  for (let i = 0; i < 3000; i++) {
    const options = new Uint8Array(4 * (1 + (i % 10)))
    for (let n = 0; n < options.length; n++) {
      state = (Math.imul(state, 1103515245) + 12345) >>> 0
      options[n] = state >>> 16
    }
    if (i % 3 === 0) options.set([30, options.length, 0x20])
    made.set(4, IN.on, 1)
    made.set(4, IN.rcvMax, BigInt(RECEIVED))
    made.set(4, IN.dataUna, BigInt(ACKNOWLEDGED))
    given(made, { options })
    assert.ok(made.get(4, IN.dataUna) <= SENT && made.get(4, IN.rcvMax) <= RECEIVED + 1000)
  }
})
