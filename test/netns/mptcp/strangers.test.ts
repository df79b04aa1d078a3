/** Strangers who write packets by hand: floods of SYNs from forged addresses, and anything at all in the middle of transfers (P15). */
import assert from 'node:assert/strict'
import type { ChildProcess } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { after, before, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { seeded } from '../../../lab/seeded.ts'
import { TcpFlag } from '../../../src/core/tcp.ts'
import { RawSender } from '../../../src/linux/raw-packets.ts'
import { SYNS_PER_SECOND } from '../../../src/mptcp/filter.ts'
import type { Tuple } from '../../../src/mptcp/machine/segment.ts'
import { CAPABLE } from '../../sim/mptcp/alone.ts'
import { forge } from '../../sim/mptcp/packets.ts'
import { Bed } from './bed.ts'
import { Transfers } from './transfers.ts'

const { SYN, ACK, FIN, RST } = TcpFlag
const FLOOD = 20_000
/** What the tables of as many connections as there may be take, with room. */
const GROWTH_MB = 64
const HOSTS = ['10.3.0.2', '[fd00:3::2]'] as const
const [HOP_BY_HOP, ROUTING, DESTINATION] = [0, 43, 60]
const IPV6_HEADER = 40

let bed: Bed
let transfers: Transfers
let raw: RawSender
let daemon: ChildProcess

before(async () => {
  bed = new Bed()
  transfers = new Transfers(bed, 'm')
  await bed.serve()
  await bed.serve('m')
  daemon = await bed.daemon('m')
  raw = new RawSender(bed.netns('r'))
})

after(async () => {
  raw.close()
  await bed.close()
})

const memory = () =>
  Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${daemon.pid}/status`, 'utf8'))![1]) / 1024

for (const [what, port] of [
  ['to a port where somebody listens', 81],
  ['to a port where nobody does, so that each is refused and makes room for the next', 9],
] as const)
  test(`P15, ADR 0452: a flood of SYNs with MP_CAPABLE from forged addresses ${what}: the proxy sees so many a second, keeps no more than it may, and serves on`, async () => {
    const before = await counts()
    const had = memory()
    const began = performance.now()
    for (let i = 0; i < FLOOD; i++) {
      const tuple: Tuple = {
        ...{ local: Uint8Array.of(10, 1, 0, 2), localPort: port },
        ...{ remote: Uint8Array.of(198, 18, (i >> 8) & 255, i & 255), remotePort: 1024 + (i % 60_000) },
      }
      raw.send(forge({ tuple, seq: i, flags: SYN, options: [CAPABLE] }), tuple.local)
      if (i % 200 === 0) await sleep(1)
    }
    const most = SYNS_PER_SECOND * (1 + (performance.now() - began) / 1000)
    const now = await counts()
    // Answers of this host to them are packets, too.
    assert.ok(now.packets - before.packets <= 2.1 * most, `${now.packets - before.packets} seen`)
    assert.ok((await bed.connections()).length <= 1024)
    assert.ok(memory() - had < GROWTH_MB, `${(memory() - had).toFixed(0)} MB more`)
    const { established } = now
    assert.equal(await transfers.download(80, 300_000).then((digest) => digest.length), 64)
    assert.equal((await counts()).established, established + 1)
  })

/** What the daemon counted. */
async function counts(): Promise<{ readonly packets: number; readonly established: number }> {
  // One reading asks for the next.
  await bed.metrics()
  await sleep(500)
  const text = await bed.metrics()
  const read = (name: string) =>
    Number(new RegExp(`^godwit_mptcp_${name}_total\\S* (\\d+)`, 'm').exec(text)?.[1])
  const found = { packets: read('packets'), established: read('established') }
  assert.ok(Number.isFinite(found.packets) && Number.isFinite(found.established), text.slice(0, 500))
  return found
}

test('P15: whatever a stranger sends with the addresses of a connection, over both families, with headers before TCP and options that end anywhere: its bytes arrive as they are', async () => {
  const random = seeded(12)
  const upTo = (n: number) => Math.floor(random() * n)
  for (const host of HOSTS) {
    const endless = transfers.endless('paced', host)
    const { local, remote } = await bed.underWay(300_000)
    const at = (text: string) => new URL(`tcp://${text}`)
    const tuple: Tuple = {
      ...{ local: bytesOf(at(local).hostname), localPort: Number(at(local).port) },
      ...{ remote: bytesOf(at(remote).hostname), remotePort: Number(at(remote).port) },
    }
    for (let i = 0; i < 5000; i++) {
      const flags = [ACK, ACK, ACK | FIN, RST, RST | ACK, SYN, SYN | ACK, 0][upTo(8)]!
      const options = [{ type: 'fail', dsn: { high: 0, low: 0 } }] as const
      const payload = new Uint8Array(upTo(3) * 700)
      const packet = forge({ tuple, seq: upTo(2 ** 32), ack: upTo(2 ** 32), flags, options, payload })
      const tcp = tuple.local.length === 4 ? 20 : IPV6_HEADER
      // Lengths of options among them: none, one, and beyond the header.
      for (let at = tcp + 20; at < tcp + 32; at++)
        if (random() < 0.6) packet[at] = [0, 1, 30, upTo(256)][upTo(4)]!
      const sent = tuple.local.length === 16 && random() < 0.5 ? withHeaders(packet, upTo) : packet
      raw.send(sent, tuple.local)
      if (i % 200 === 0) await sleep(1)
    }
    assert.equal(daemon.exitCode, null)
    await endless.finish()
  }
})

/** An IPv6 packet with up to six headers before TCP, of up to 200 bytes each, whose insides are anything. */
function withHeaders(packet: Uint8Array, upTo: (n: number) => number): Uint8Array {
  const headers: Uint8Array[] = []
  const kinds = [HOP_BY_HOP, DESTINATION, ROUTING, DESTINATION, DESTINATION, DESTINATION].slice(
    0,
    1 + upTo(6),
  )
  for (const [i] of kinds.entries()) {
    const header = new Uint8Array(8 * (1 + upTo(25)))
    for (let at = 2; at < header.length; at++) header[at] = upTo(3) === 0 ? upTo(256) : 0
    header[0] = kinds[i + 1] ?? packet[6]!
    header[1] = header.length / 8 - 1
    headers.push(header)
  }
  const out = Buffer.concat([packet.subarray(0, IPV6_HEADER), ...headers, packet.subarray(IPV6_HEADER)])
  out[6] = kinds[0]!
  out.writeUInt16BE(out.length - IPV6_HEADER, 4)
  return out
}

function bytesOf(address: string): Uint8Array {
  if (!address.includes(':')) return Uint8Array.from(address.split('.'), Number)
  const [head, tail = ''] = address.replace(/[[\]]/g, '').split('::')
  const words = (text: string) =>
    text === '' ? [] : text.split(':').map((word) => Number.parseInt(word, 16))
  const [first, last] = [words(head!), words(tail)]
  const all = [...first, ...new Array<number>(8 - first.length - last.length).fill(0), ...last]
  return Uint8Array.from(all.flatMap((word) => [word >> 8, word & 255]))
}
