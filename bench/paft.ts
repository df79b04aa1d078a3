/**
 * The PAFT as the datapath asks it, from one row to a million: `lookup` is packet bytes → key → row; `decision` is the whole
 * of what the mobile host's forwarder does with a packet, the internal NAT included. `active`: the packets belong to at most
 * 1,000 flows of the table, as traffic does; `uniform`: to 65,536 rows drawn from all of it, each its own cache line. The issue asks
 * that a million rows cost at most twice a thousand; on the measured machine one access to memory that no cache holds
 * costs as much as two look-ups.
 */
import { randomBytes } from 'node:crypto'
import { AnchorForwarder } from '../src/anchoring/forwarders/anchor.ts'
import { HostForwarder, REPORTED } from '../src/anchoring/forwarders/host.ts'
import { FIRST_POLICY } from '../src/anchoring/machine/policies.ts'
import { FlowKey } from '../src/anchoring/tables/flow-key.ts'
import { Groups } from '../src/anchoring/tables/groups.ts'
import { Paft } from '../src/anchoring/tables/paft.ts'
import { TunnelTable } from '../src/anchoring/tables/tunnels.ts'
import { Arena } from '../src/linux/arena.ts'
import { type Bench, type BenchResult, machine, Recorder, round } from './harness.ts'

const SIZES = [1, 10, 100, 1_000, 10_000, 100_000, 1_000_000]
const ACTIVE = 1_000
/** Flows of one host that are moved together, and how often each measurement moves them. */
const HANDOVERS = [64, 65_536]
const MOVES = 20_000
const PACKETS = 1 << 16
const CALLS = 500_000
const HEADERS = 40
const FIX4 = Uint8Array.of(198, 19, 0, 1)
const FIX6 = Uint8Array.of(0xfd, 0x67, 0x6f, 0x64, 0x77, 0x69, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1)
const VIPA = Uint8Array.of(198, 18, 0, 2)

export const paft: Bench = {
  name: 'paft',
  summary: 'PAFT: the look-up and the whole forwarding decision, 1 to 1,000,000 rows',

  async run(context): Promise<BenchResult> {
    const recorder = new Recorder()
    const tables = SIZES.map((rows) => new Filled(rows, context.seed))
    for (let again = 0; again <= context.rounds; again++) {
      for (const table of tables) {
        for (const pattern of ['active', 'uniform'] as const) {
          const lookup = table.lookups(pattern)
          const decision = table.decisions(pattern)
          if (again === 0) continue // the first pass compiles
          recorder.add(`lookup-${pattern}-${table.rows}`, 'godwit', 'ns', round(lookup))
          recorder.add(`decision-${pattern}-${table.rows}`, 'godwit', 'ns', round(decision))
          context.progress(
            `${table.rows} rows, ${pattern}: look-up ${round(lookup)} ns, decision ${round(decision)} ns`,
          )
        }
      }
      context.signal.throwIfAborted()
    }
    for (const flows of HANDOVERS) {
      const handover = new Handover(flows)
      handover.ns() // compiles
      for (let again = 0; again < context.rounds; again++)
        recorder.add(`handover-${flows}`, 'godwit', 'ns', round(handover.ns()))
      context.progress(`handover of ${flows} flows: ${round(handover.ns())} ns`)
    }
    const runs = recorder.runs()
    const at = (name: string) => runs.find((run) => run.name === name)!.median
    const ratios: Record<string, number> = {}
    for (const what of ['lookup-active', 'lookup-uniform', 'decision-active', 'decision-uniform'])
      ratios[`${what} 1000000/1000`] = round(at(`${what}-1000000`) / at(`${what}-1000`))
    ratios['handover 65536/64'] = round(at('handover-65536') / at('handover-64'))
    return { bench: this.name, machine: machine(), runs, ratios, skipped: {} }
  },
}

/** Everything of one host goes to the other of its tunnels: at the host and at the anchor, without the network between. */
class Handover {
  readonly #host: HostForwarder
  readonly #anchor: AnchorForwarder
  readonly #tids: readonly number[]
  #counter = 0

  constructor(flows: number) {
    const secret = randomBytes(8)
    const make = () => new Paft({ allocate: (bytes) => new Arena(bytes).buffer, rows: 1024, limit: 1 << 20 })
    const [own, far] = [make(), make()]
    const tunnels = new TunnelTable()
    this.#tids = [0, 1].map(
      (slot) =>
        tunnels.open({
          slot,
          peer: 0,
          localTun: { interface: `acc${slot}`, index: 2000 },
          remoteTun: { endPoint: '192.0.2.1', index: 51820 },
          vipNat: { v4: VIPA },
          unTid: slot + 1,
        }).localTid,
    )
    this.#host = new HostForwarder({ paft: own, tunnels, fix4: FIX4, fix6: FIX6, secret })
    this.#anchor = new AnchorForwarder({
      paft: far,
      tunnels,
      groups: new Groups(far),
      v4Base: 0xc6120000,
      numbers: 16,
      v6Prefix: FIX6,
      secret,
    })
    this.#anchor.assign(0, 2)
    this.#host.associate(0, VIPA, undefined)
    this.#host.defaultTid = this.#tids[0]!
    const bytes = new Uint8Array(HEADERS)
    const view = new DataView(bytes.buffer)
    for (let row = 0; row < flows; row++) {
      writeHeaders(view, 0, row)
      this.#host.outbound(bytes, view, 0, HEADERS, true, 0)
      this.#anchor.inbound(bytes, view, 0, HEADERS, true, 0, 0, ++this.#counter, 0)
    }
  }

  /** Nanoseconds of one. */
  ns(): number {
    const start = process.hrtime.bigint()
    for (let n = 0; n < MOVES; n++) {
      const tid = this.#tids[n & 1]!
      this.#host.defaultTid = tid
      this.#host.bind(FIRST_POLICY, tid)
      this.#anchor.bind(0, tid, 'all', [], ++this.#counter, 0)
    }
    return Number(process.hrtime.bigint() - start) / MOVES
  }
}

/** A table with that many flows, and packets of them. */
class Filled {
  readonly rows: number
  readonly #paft: Paft
  readonly #key: FlowKey
  readonly #host: HostForwarder
  readonly #packets: Record<'active' | 'uniform', Uint8Array>

  constructor(rows: number, seed: number) {
    this.rows = rows
    const secret = randomBytes(8)
    this.#paft = new Paft({ allocate: (bytes) => new Arena(bytes).buffer, rows: 1024, limit: 1 << 21 })
    this.#key = new FlowKey(secret)
    const tunnels = new TunnelTable()
    this.#host = new HostForwarder({ paft: this.#paft, tunnels, fix4: FIX4, fix6: FIX6, secret })
    const { localTid } = tunnels.open({
      slot: 0,
      peer: 0,
      localTun: { interface: 'acc1', index: 2000 },
      remoteTun: { endPoint: '192.0.2.1', index: 51820 },
      vipNat: { v4: VIPA },
      unTid: 1,
    })
    this.#host.associate(0, VIPA, undefined)
    this.#host.defaultTid = localTid
    this.#host.bind(FIRST_POLICY, localTid)
    const scratch = new DataView(new ArrayBuffer(HEADERS))
    for (let row = 0; row < rows; row++) {
      writeHeaders(scratch, 0, row)
      this.#key.read(scratch, 0, HEADERS, true)
      this.#key.hash()
      if (this.#paft.find(this.#key) < 0)
        this.#paft.setOwner(this.#paft.insert(this.#key, REPORTED, 0, 0), FIRST_POLICY, 0)
    }
    this.#paft.settle()
    this.#packets = { active: this.#draw(Math.min(rows, ACTIVE), seed), uniform: this.#draw(rows, seed) }
  }

  /** Packet headers of flows drawn from `flows` that lie spread over the table. */
  #draw(flows: number, seed: number): Uint8Array {
    const bytes = new Uint8Array(PACKETS * HEADERS)
    const view = new DataView(bytes.buffer)
    const stride = Math.floor(this.rows / flows)
    let state = seed | 1
    for (let i = 0; i < PACKETS; i++) {
      state = (Math.imul(state, 1664525) + 1013904223) | 0
      writeHeaders(view, i * HEADERS, ((state >>> 8) % flows) * stride)
    }
    return bytes
  }

  /** Nanoseconds per look-up. */
  lookups(pattern: 'active' | 'uniform'): number {
    const bytes = this.#packets[pattern]
    const view = new DataView(bytes.buffer)
    return each((at) => {
      this.#key.read(view, at, HEADERS, true)
      this.#key.hash()
      return this.#paft.findLikely(this.#key) >= 0
    })
  }

  /** Nanoseconds per forwarding decision. Works on a copy: the internal NAT rewrites the source. */
  decisions(pattern: 'active' | 'uniform'): number {
    const bytes = this.#packets[pattern].slice()
    const view = new DataView(bytes.buffer)
    return each((at) => {
      view.setUint32(at + 12, 0xc6130001)
      return this.#host.outbound(bytes, view, at, HEADERS, true, 0) === 0
    })
  }
}

/** A TCP packet's first 40 bytes, its flow chosen by `row`. */
function writeHeaders(view: DataView, at: number, row: number): void {
  view.setUint8(at, 0x45)
  view.setUint16(at + 2, HEADERS)
  view.setUint8(at + 9, 6)
  view.setUint32(at + 12, 0xc6130001)
  view.setUint32(at + 16, 0xcb007100 + (row & 0xff))
  view.setUint16(at + 20, 1024 + ((row >>> 8) % 60_000))
  view.setUint16(at + 22, 80 + Math.floor(row / (256 * 60_000)))
  view.setUint8(at + 32, 0x50)
}

function each(call: (at: number) => boolean): number {
  let failed = 0
  const start = process.hrtime.bigint()
  for (let i = 0; i < CALLS; i++) if (!call((i & (PACKETS - 1)) * HEADERS)) failed++
  const elapsed = Number(process.hrtime.bigint() - start)
  if (failed > 0) throw new Error(`${failed} packets found no row`)
  return elapsed / CALLS
}
