/**
 * PAFT lookups: nanoseconds each as the table grows from one row to a million, for flows hashed from packet bytes in
 * random order (the worst case for caches). The issue asks that a million rows cost at most twice a thousand.
 */
import { randomBytes } from 'node:crypto'
import { FlowKey } from '../src/anchoring/tables/flow-key.ts'
import { Paft } from '../src/anchoring/tables/paft.ts'
import { Arena } from '../src/linux/arena.ts'
import { type Bench, type BenchResult, machine, Recorder, round } from './harness.ts'

const SIZES = [1, 10, 100, 1_000, 10_000, 100_000, 1_000_000]
const LOOKUPS = 1_000_000
const PACKET = 40

export const paft: Bench = {
  name: 'paft',
  summary: 'PAFT lookup from packet bytes, 1 to 1,000,000 rows',

  async run(context): Promise<BenchResult> {
    const recorder = new Recorder()
    const tables = SIZES.map((rows) => filled(rows, context.seed))
    for (let again = 0; again <= context.rounds; again++) {
      for (const table of tables) {
        const ns = lookups(table)
        if (again === 0) continue // the first pass compiles
        recorder.add(`paft-${table.rows}`, 'godwit', 'ns', round(ns))
        context.progress(`round ${again}: ${table.rows} rows: ${ns.toFixed(0)} ns a lookup`)
      }
      context.signal.throwIfAborted()
    }
    const runs = recorder.runs()
    const at = (rows: number) => runs.find((run) => run.name === `paft-${rows}`)!.median
    return {
      bench: this.name,
      machine: machine(),
      runs,
      ratios: { 'paft-1000000/paft-1000': round(at(1_000_000) / at(1_000)) },
      skipped: {},
    }
  },
}

interface Filled {
  readonly rows: number
  readonly table: Paft
  readonly key: FlowKey
  /** The packet headers of a random sample of rows, one after another, to be looked up in this order. */
  readonly view: DataView
  readonly packets: number
}

function filled(rows: number, seed: number): Filled {
  const table = new Paft({ allocate: (bytes) => new Arena(bytes).buffer, rows: 1024, limit: 1 << 21 })
  const key = new FlowKey(randomBytes(8))
  // As many different packets as rows, up to what a second can look up: their headers are read from memory too.
  const packets = Math.min(rows, 1 << 16)
  const view = new DataView(new ArrayBuffer(packets * PACKET))
  let state = seed | 1
  const random = () => {
    state = (Math.imul(state, 1664525) + 1013904223) | 0
    return state >>> 0
  }
  const stride = Math.max(1, Math.floor(rows / packets))
  const scratch = new DataView(new ArrayBuffer(PACKET))
  for (let row = 0; row < rows; row++) {
    header(scratch, 0, row)
    key.read(scratch, 0, PACKET, true)
    key.hash()
    if (table.find(key) < 0) table.insert(key, 1, 0, 0)
  }
  table.settle()
  for (let i = 0; i < packets; i++) header(view, i * PACKET, (random() % packets) * stride)
  return { rows, table, key, view, packets }
}

/** A TCP packet's first 40 bytes, its flow chosen by `row`. */
function header(view: DataView, at: number, row: number): void {
  view.setUint8(at, 0x45)
  view.setUint16(at + 2, PACKET)
  view.setUint8(at + 9, 6)
  view.setUint32(at + 12, 0xc6130001)
  view.setUint32(at + 16, 0xcb007100 + (row & 0xff))
  view.setUint16(at + 20, 1024 + ((row >>> 8) % 60_000))
  view.setUint16(at + 22, 80 + Math.floor(row / (256 * 60_000)))
}

function lookups({ table, key, view, packets }: Filled): number {
  let found = 0
  const start = process.hrtime.bigint()
  for (let i = 0, at = 0; i < LOOKUPS; i++) {
    key.read(view, at, PACKET, true)
    key.hash()
    if (table.find(key) >= 0) found++
    at += PACKET
    if (at === packets * PACKET) at = 0
  }
  const elapsed = Number(process.hrtime.bigint() - start)
  if (found !== LOOKUPS) throw new Error(`${LOOKUPS - found} lookups missed`)
  return elapsed / LOOKUPS
}
