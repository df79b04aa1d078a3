/** What two daemons and a NAT put on the wire, field by field, as docs/wire/ihmp.md describes it. */
import assert from 'node:assert/strict'
import { afterEach, beforeEach, test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { usesPrograms } from '../../../src/linux/packages.ts'
import { Bed, until } from './bed.ts'
import { Capture, type Captured, textOf } from './capture.ts'
import { type Documented, decodeAsDocumented, documentedKinds, signedBy, verified } from './documented.ts'
import { chatter } from './flows.ts'

usesPrograms('nft')

const GODWIT = fileURLToPath(new URL('../../../src/cli/main.js', import.meta.url))
const PORT = 1021
const M1 = '10.1.0.2'
const M2 = '10.2.0.2'
const C = '10.3.0.2'

let bed: Bed
let capture: Capture
beforeEach(() => {
  bed = new Bed()
  capture = new Capture(bed.netns('c'), PORT)
})
afterEach(async () => {
  capture.close()
  await bed.close()
})

interface Seen extends Captured {
  readonly message: Documented
}

/** Waits for a message of this kind that `which` accepts; without it, what was seen instead is told. */
async function seen(kind: string, which: (m: Seen) => boolean = () => true): Promise<Seen> {
  let all: Seen[] = []
  const found = (): Seen | undefined => {
    all = capture.packets.map((packet) => ({ ...packet, message: decodeAsDocumented(packet.bytes) }))
    return all.find((m) => m.message.kind === kind && which(m))
  }
  try {
    await until(`${kind} on the wire`, () => found() !== undefined, 30)
  } catch (error) {
    const told = all.map(({ from, to, message: m }) => {
      const about = [...m.addresses('LOST_ADDRESS'), '→', ...m.addresses('NEW_ADDRESS')].join(' ')
      return `${from} > ${to} ${m.kind} ${m.sequence} ${m.options.join()} ${about}`
    })
    throw new Error(`${(error as Error).message}\n${told.join('\n')}`)
  }
  return found()!
}

/** The acknowledgement of a message: its sequence number, from where that went to where it came from. */
async function acknowledged(of: Seen): Promise<Documented> {
  const ack = await seen(
    'ACK',
    (m) => m.from === of.to && m.to === of.from && m.message.sequence === of.message.sequence,
  )
  assert.equal(ack.toPort, of.fromPort)
  const challenge = of.message.one('CHALLENGE')
  if (challenge !== undefined) assert.deepEqual(ack.message.one('RESPONSE'), challenge)
  return ack.message
}

test('DI-16…18, DI-20, DI-22…24, DI-26, DI-28…30, DI-33…37: every message between two hosts, and its acknowledgement', async () => {
  await chatter(bed)
  await bed.daemon('c')
  await bed.daemon('m')
  await bed.greeted()

  // Either may have greeted first, or both; the one that is answered counts.
  const helloAck = await seen('HELLO_ACK')
  const hello = await seen('HELLO', (m) => m.message.sequence === helloAck.message.sequence)
  const [active, passive] = [helloAck.to, helloAck.from]
  assert.deepEqual([hello.from, hello.to], [active, passive])
  assert.deepEqual([active, passive].sort(), [M1, C])
  assert.deepEqual([hello.fromPort, hello.toPort], [PORT, PORT])
  assert.deepEqual(hello.message.options, [])
  assert.equal(hello.message.hostId, active, 'the Host ID is the address by which the other knows it')
  assert.equal(hello.message.address('RECEIVER'), passive)
  assert.equal(hello.message.addresses('ADDRESS')[0], active)
  assert.deepEqual(helloAck.message.one('RESPONSE'), hello.message.one('CHALLENGE'))
  assert.notDeepEqual(helloAck.message.one('COOKIE'), hello.message.one('COOKIE'))
  const third = await seen('ACK', (m) => m.from === active && m.to === passive)
  assert.deepEqual(third.message.one('RESPONSE'), helloAck.message.one('CHALLENGE'))
  const keys = new Map([
    [active, hello.message.one('PUBLIC_KEY')!],
    [passive, helloAck.message.one('PUBLIC_KEY')!],
  ])
  const advertised = [...hello.message.addresses('ADDRESS'), ...helloAck.message.addresses('ADDRESS')]
  assert.deepEqual(advertised.sort(), [M1, C, 'fd00:1::2', 'fd00:3::2'].sort())

  const probe = await seen('PATH_PROBE')
  assert.ok(probe.from.startsWith('fd00:') && probe.to.startsWith('fd00:'), `${probe.from} → ${probe.to}`)
  assert.ok([M1, C].includes(probe.message.hostId), 'an address that is not known yet is no Host ID')
  await acknowledged(probe)

  const flows = await seen('FLOWS')
  assert.equal(flows.message.one('FLOW_TAGS')!.length, 12)
  const shown = await acknowledged(flows)
  assert.equal(shown.one('FLOW_TAGS')!.length, 12, 'each shows the other what only an end can know')
  await seen(
    'ACK',
    (m) => m.from === flows.from && m.message.one('RESPONSE')?.equals(shown.one('CHALLENGE')!) === true,
  )

  bed.up(2, false)
  const up = await seen('ADDR_UP', (m) => m.from === M2)
  assert.equal(up.message.address('NEW_ADDRESS'), M2)
  assert.equal(up.message.hostId, M1)
  assert.ok((await acknowledged(up)).one('CHALLENGE'), 'the new address has to show that it receives')
  const proof = await seen('ACK', (m) => m.from === M2 && m.message.one('RESPONSE') !== undefined)
  assert.equal(proof.to, C)

  // One flow alone, over the second access and back.
  const [flow] = (await bed.status('m')).flows
  await bed.move('m', flow!.id, 'acc2')
  const alone = await seen('MOVE_FLOWS', (m) => m.from === M2)
  assert.deepEqual([alone.to, alone.message.options], [C, []])
  assert.equal(alone.message.one('FLOW_PAIR')!.toString('hex'), '0a0100020a030002', 'as the socket has them')
  assert.equal(alone.message.one('FLOW_ENDS')!.length, 8)
  assert.equal((await acknowledged(alone)).one('FLOW_ENDS')!.length, 8, 'the receiver follows')
  await bed.move('m', flow!.id, 'auto')
  const back = await seen('MOVE_FLOWS', (m) => m.message.options.includes('RF'))
  await acknowledged(back)

  const strange = '192.168.77.2'
  bed.rtnl.m.addAddress('acc2', `${strange}/24`)
  const upUnreachable = await seen('ADDR_UP_UNREACHABLE')
  assert.equal(upUnreachable.message.address('NEW_ADDRESS'), strange)
  assert.notEqual(upUnreachable.from, strange)
  await acknowledged(upUnreachable)
  bed.rtnl.m.deleteAddress('acc2', `${strange}/24`)
  const downUnreachable = await seen('ADDR_DOWN_UNREACHABLE')
  assert.deepEqual(downUnreachable.message.addresses('LOST_ADDRESS'), [strange])
  await acknowledged(downUnreachable)

  // A loss that could not be told yet, and a new address: both in one message when the network is back.
  bed.run(
    'r',
    'nft',
    `add table inet t; add chain inet t f { type filter hook forward priority 0; }; add rule inet t f udp dport ${PORT} drop`,
  )
  const [first, second] = ['192.168.78.2', '192.168.79.2']
  bed.rtnl.m.addAddress('acc2', `${first}/24`)
  await until('m has the address', async () =>
    (await bed.status('m')).accesses.some((a) => a.addresses.some((each) => each.split('/')[0] === first)),
  )
  bed.rtnl.m.deleteAddress('acc2', `${first}/24`)
  await until('m has lost it', async () =>
    (await bed.status('m')).accesses.every((a) => !a.addresses.some((each) => each.split('/')[0] === first)),
  )
  bed.rtnl.m.addAddress('acc2', `${second}/24`)
  await until('m has the next', async () =>
    (await bed.status('m')).accesses.some((a) => a.addresses.some((each) => each.split('/')[0] === second)),
  )
  bed.run('r', 'nft', 'delete table inet t')
  const handoffUnreachable = await seen(
    'HANDOFF_UNREACHABLE',
    (m) => m.message.address('NEW_ADDRESS') === second,
  )
  assert.ok(handoffUnreachable.message.addresses('LOST_ADDRESS').includes(first))
  assert.deepEqual(handoffUnreachable.message.options, ['OU'], 'the lost address had not been usable')
  await acknowledged(handoffUnreachable)
  bed.rtnl.m.deleteAddress('acc2', `${second}/24`)

  await until(
    'both ways are proven at m',
    async () =>
      (await bed.status('m')).peers.some((p) =>
        ['acc1', 'acc2'].every((access) =>
          p.paths.some((path) => path.access === access && path.remote.startsWith(C)),
        ),
      ),
    30,
  )
  bed.down(1)
  const down = await seen('ADDR_DOWN', (m) => m.message.addresses('LOST_ADDRESS').includes(M1))
  assert.deepEqual(down.message.options, ['PF'], 'reach me here from now on')
  await acknowledged(down)

  // Both families at once: of an address that goes alone the other family tells.
  bed.rtnl.m.setLink('acc2', { up: false })
  await until('m has no address', async () => (await bed.hosts('m')).every((h) => h.detached))
  bed.up(1)
  // Not one of the time when nothing passed: a machine with much to do stays long enough there to be detached.
  const handoff = await seen(
    'HANDOFF',
    (m) => m.from === M1 && m.message.addresses('LOST_ADDRESS').includes(M2),
  )
  assert.equal(handoff.message.address('NEW_ADDRESS'), M1)
  assert.deepEqual(handoff.message.options, ['PF'])
  const known = [M1, M2, 'fd00:1::2', 'fd00:2::2'] // in whatever order they were told
  assert.ok(known.includes(handoff.message.hostId), handoff.message.hostId)
  await acknowledged(handoff)

  const args = [GODWIT, 'dime', 'key', 'set', '--new', '--json', '--state', bed.state('m')]
  const set = JSON.parse(bed.run('m', process.execPath, ...args)) as { public_key: string }
  const newKey = Buffer.from(set.public_key, 'base64')
  const announced = await seen('KEY_CHANGE', (m) => m.message.one('KEY_PROOF') === undefined)
  assert.deepEqual(announced.message.one('NEW_KEY'), newKey)
  const asked = await acknowledged(announced)
  const proven = await seen('KEY_CHANGE', (m) => m.message.one('KEY_PROOF') !== undefined)
  assert.deepEqual(proven.message.one('RESPONSE'), asked.one('CHALLENGE'))
  const transcript = Buffer.concat([
    Buffer.from('godwit IHMP key change'),
    keys.get(M1)!,
    newKey,
    proven.message.one('RESPONSE')!,
    proven.message.one('RECEIVER')!,
  ])
  assert.ok(verified(newKey, transcript, proven.message.one('KEY_PROOF')!), 'the new key signs the challenge')
  await acknowledged(proven)
  await until('c has the new key', async () => (await bed.hosts('c')).some((h) => h.key === set.public_key))

  const kinds = new Set(capture.packets.map((p) => decodeAsDocumented(p.bytes).kind))
  const notHere = ['NAT_ENTRY', 'ROUTER_ACK', 'SOLICIT']
  assert.deepEqual([...kinds].sort(), documentedKinds.filter((k) => !notHere.includes(k)).sort())
  const counters = new Map<string, bigint>()
  let sequence: number | undefined
  let changing = false
  for (const packet of capture.packets) {
    const side = packet.from === C || packet.from === 'fd00:3::2' ? C : M1
    changing ||= Buffer.compare(packet.bytes, proven.bytes) === 0
    assert.ok(
      signedBy(packet.bytes, keys.get(side)!) || (changing && side === M1 && signedBy(packet.bytes, newKey)),
      `${side} signs what it sends`,
    )
    const { counter, kind, sequence: next } = decodeAsDocumented(packet.bytes)
    counters.set(side, counter > (counters.get(side) ?? 0n) ? counter : counters.get(side)!)
    if (side === C || kind === 'ACK' || kind === 'HELLO_ACK') continue
    const steps = sequence === undefined ? 0 : (next - sequence) & 0xffff
    assert.ok(steps < 100 || steps > 0xff00, `sequence numbers go up by one: ${sequence}, ${next}`)
    sequence = next
  }
  for (const counter of counters.values()) {
    const age = BigInt(Date.now()) * 1000n - counter
    assert.ok(age > -60_000_000n && age < 600_000_000n, 'counters follow the clock in microseconds')
  }
})

test('DI-41, DI-42: on the wire: a NAT that knows IHMP sets NS and tells the mapping', async () => {
  await chatter(bed)
  await bed.daemon('c')
  await bed.daemon('m')
  await bed.greeted()
  await bed.daemon('r', 'dime', 'nat', 'lan2', 'lan3', '--ports', '20000-20100')
  bed.down(1)
  await until('m has no address', async () => (await bed.hosts('m')).every((h) => h.detached))
  bed.up(2)
  const nat = '10.3.0.1'
  const handoff = await seen('HANDOFF', (m) => m.from === nat)
  assert.deepEqual(handoff.message.options, ['NS', 'PF'])
  assert.equal(handoff.message.address('NEW_ADDRESS'), M2, 'the payload is as it was sent')
  const helloAck = await seen('HELLO_ACK')
  const told =
    helloAck.from === M1
      ? helloAck
      : await seen('HELLO', (m) => m.message.sequence === helloAck.message.sequence)
  const pinned = told.message.one('PUBLIC_KEY')!
  assert.ok(signedBy(handoff.bytes, pinned), 'NS is not part of what is signed')
  const ack = await acknowledged(handoff)
  const pair = ack.one('NAT_PAIR')!
  assert.deepEqual([textOf(pair.subarray(0, 4)), textOf(pair.subarray(4))], [nat, M2])
  assert.ok(!ack.options.includes('ND'))

  const entry = await seen('NAT_ENTRY')
  assert.equal(entry.message.hostId, nat)
  const mapping = entry.message.one('PORT_MAPPING')!
  assert.deepEqual([mapping[0], mapping[1]], [6, 0], 'TCP')
  const [host, outside, remote] = [2, 4, 6].map((at) => mapping.readUInt16BE(at))
  assert.equal(remote, 22)
  assert.ok(outside! >= 20_000 && outside! <= 20_100, `${outside}`)
  assert.notEqual(host, outside)
  assert.deepEqual([textOf(mapping.subarray(8, 12)), textOf(mapping.subarray(12))], [M2, nat])
  await acknowledged(entry)
})

test('DI-43…45: on the wire: an unaware NAT is found by ND, and NF settles an association that starts behind one', async () => {
  bed.run(
    'r',
    'nft',
    'add table ip t; add chain ip t post { type nat hook postrouting priority 100; }; add rule ip t post iifname "lan1" oifname "lan3" masquerade',
  )
  await chatter(bed)
  await bed.daemon('c')
  await bed.daemon('m')
  const nat = '10.3.0.1'
  const hello = await seen('HELLO', (m) => m.from === nat && m.message.options.length === 0)
  const answer = await seen('HELLO_ACK', (m) => m.to === nat && m.message.options.includes('ND'))
  const pair = answer.message.one('NAT_PAIR')!
  assert.deepEqual([textOf(pair.subarray(0, 4)), textOf(pair.subarray(4))], [nat, M1])
  assert.deepEqual(hello.message.addresses('ADDRESS')[0], M1, 'header and payload differ: so it is found')
  const forced = await seen('HELLO', (m) => m.from === nat && m.message.options.includes('NF'))
  await seen('HELLO_ACK', (m) => m.to === nat && m.message.sequence === forced.message.sequence)
  await until('no further IHMP', async () => (await bed.hosts('m')).some((h) => h.state === 'forced'), 60)
})
