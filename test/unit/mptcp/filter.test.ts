/** The tables of packet rules on kernels that have less than others. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { ENOENT, EOPNOTSUPP } from '../../../src/core/errno.ts'
import { Ledger } from '../../../src/linux/ledger.ts'
import { KernelError } from '../../../src/linux/libc.ts'
import type { NfBatch } from '../../../src/linux/nf_tables.ts'
import { Filter } from '../../../src/mptcp/filter.ts'

/** Of nfnetlink: nf_tables, and messages of a batch. */
const SUBSYSTEM = 10
const [NEWTABLE, DESTROYTABLE] = [0, 26]
const FAMILIES = 2

/** A kernel that refuses what it does not know as a whole. */
class Kernel {
  /** Flags of each table that was made. */
  readonly made: number[] = []
  tables = false
  limited = false
  readonly #owners: boolean
  readonly #queue: boolean
  readonly #limits: boolean

  constructor(has: { readonly owners: boolean; readonly queue: boolean; readonly limits?: boolean }) {
    this.#owners = has.owners
    this.#queue = has.queue
    this.#limits = has.limits ?? true
  }

  hasTable(): boolean {
    return this.tables
  }

  commit(batch: NfBatch): void {
    const bytes = batch.finish()
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length)
    let flags = 0
    for (let at = 0; at + 16 <= bytes.length; at += (view.getUint32(at, true) + 3) & ~3) {
      const type = view.getUint16(at + 4, true)
      if (type >> 8 !== SUBSYSTEM) continue
      if ((type & 0xff) === DESTROYTABLE && !this.#owners) throw new KernelError('commit', EOPNOTSUPP)
      // The name, and then the flags.
      if ((type & 0xff) === NEWTABLE)
        flags = view.getUint32(at + 20 + ((view.getUint16(at + 20, true) + 3) & ~3) + 4)
    }
    if (!this.#queue && Buffer.from(bytes).includes('queue\0')) throw new KernelError('commit', ENOENT)
    const limited = Buffer.from(bytes).includes('limit\0')
    if (limited && !this.#limits) throw new KernelError('commit', ENOENT)
    this.limited = limited
    this.made.push(flags)
    this.tables = true
  }
}

for (const queue of [true, false])
  test(`ADR 0381: tables have an owner and stay when it ends, where the kernel knows both${queue ? '' : ', and no expression that queues'}`, () => {
    const kernel = new Kernel({ owners: true, queue })
    const filter = new Filter(kernel, new Ledger())
    filter.install(true)
    assert.deepEqual(
      kernel.made,
      Array.from({ length: FAMILIES }, () => 6),
    )
    assert.equal(filter.restore(), false)
  })

test('ADR 0381: without owners they are plain, and come back with their connections when another program removed them', () => {
  const kernel = new Kernel({ owners: false, queue: true })
  const filter = new Filter(kernel, new Ledger())
  filter.install(true)
  assert.deepEqual(kernel.made, [0, 0])
  kernel.tables = false
  assert.equal(filter.restore(), true)
  assert.deepEqual(kernel.made, [0, 0, 0, 0])
})

test('ADR 0452: SYNs of others are limited where the kernel can do that; where it cannot, the tables are there all the same', () => {
  for (const limits of [true, false])
    for (const owners of [true, false]) {
      const kernel = new Kernel({ owners, queue: false, limits })
      new Filter(kernel, new Ledger()).install(true)
      assert.deepEqual(kernel.made, owners ? [6, 6] : [0, 0])
      assert.equal(kernel.limited, limits)
    }
})
