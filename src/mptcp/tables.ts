/**
 * The SEND and RECV tables and the projection of acknowledgements through them (paper §3.3–3.5).
 *
 * Sequence numbers in here are offsets from the initial one, as plain numbers: 0 is the SYN, 1 the first byte. A *run*
 * says that `length` bytes from `from` in one space are those from `to` in the other. Subflow offsets are always `ssn`,
 * data offsets `dsn`.
 */

/** A mapping: `length` bytes of the subflow from `ssn` are those of the connection from `dsn`. */
export interface Run {
  ssn: number
  dsn: number
  length: number
}

/** Bytes from `left` up to, not including, `right`. */
export interface Block {
  left: number
  right: number
}

/** Runs of one subflow in the order of their subflow offsets, which never overlap. */
abstract class RunTable {
  readonly runs: Run[] = []

  /** What is known from elsewhere, in order; empty runs are left out. */
  replace(runs: readonly Run[]): void {
    this.runs.length = 0
    for (const run of runs) if (run.length > 0) this.runs.push({ ...run })
  }

  /** The run with this subflow offset. */
  atSsn(ssn: number): Run | undefined {
    const index = this.#upTo(ssn)
    const run = this.runs[index]
    return run !== undefined && ssn < run.ssn + run.length ? run : undefined
  }

  /** The latest run with this data offset. */
  atDsn(dsn: number): Run | undefined {
    for (let i = this.runs.length - 1; i >= 0; i--) {
      const run = this.runs[i]!
      if (dsn >= run.dsn && dsn < run.dsn + run.length) return run
    }
    return undefined
  }

  /** The first data offset above `dsn` that a run begins with; Infinity when there is none. */
  nextDsn(dsn: number): number {
    let next = Number.POSITIVE_INFINITY
    for (const run of this.runs) if (run.dsn > dsn && run.dsn < next) next = run.dsn
    return next
  }

  /** Forgets runs from the first on, as long as `done` says so. */
  prune(done: (run: Run) => boolean): void {
    let count = 0
    while (count < this.runs.length && done(this.runs[count]!)) count++
    // An array that is emptied so lets its room go.
    if (count === this.runs.length) this.runs.length = 0
    else if (count > 0) this.runs.splice(0, count)
  }

  /** Index of the last run that begins at or before `ssn`; -1 when there is none. */
  #upTo(ssn: number): number {
    const { runs } = this
    let low = 0
    let high = runs.length
    while (low < high) {
      const middle = (low + high) >> 1
      if (runs[middle]!.ssn <= ssn) low = middle + 1
      else high = middle
    }
    return low - 1
  }

  /** Index of the first run that ends after `ssn`. */
  protected firstAfter(ssn: number): number {
    const index = this.#upTo(ssn)
    const run = this.runs[index]
    return run !== undefined && ssn < run.ssn + run.length ? index : index + 1
  }
}

/**
 * What was sent on a subflow and is not acknowledged at data level. Each run is one mapping as the peer got it: a
 * retransmission, cut as it may be, carries the mapping of the original, since a peer takes another mapping of the same
 * bytes for an error.
 */
export class SendTable extends RunTable {
  /** Most runs that are kept apart. Beyond, the oldest two are joined and forget where one ended. */
  static readonly LIMIT = 4096
  /** Mappings since the subflow began. */
  appended = 0

  /** Appends a mapping; `ssn` is where the last one ended. */
  append(ssn: number, dsn: number, length: number): Run {
    const run = { ssn, dsn, length }
    this.runs.push(run)
    this.appended++
    if (this.runs.length > SendTable.LIMIT) this.#joinOldest()
    return run
  }

  /** What an earlier process sent, in order. */
  restore(runs: readonly Run[], appended: number): void {
    this.runs.push(...runs)
    this.appended = appended
  }

  /** Mappings that others sent meanwhile. */
  know(runs: readonly Run[]): void {
    this.replace(runs)
    this.appended += this.runs.length
  }

  /** Forgets what is acknowledged at both levels: up to `dsn` the local TCP sends nothing again, but holes on the subflow are to be filled. */
  acknowledge(dsn: number, ssn: number): void {
    this.prune((run) => run.dsn + run.length <= dsn && run.ssn + run.length <= ssn)
  }

  #joinOldest(): void {
    const [first, second] = this.runs
    if (first!.dsn + first!.length === second!.dsn && first!.length + second!.length <= 0xffff) {
      first!.length += second!.length
      this.runs.splice(1, 1)
    } else this.runs.shift()
  }
}

/** The mappings that the peer announced for a subflow, joined where they continue one another. */
export class RecvTable extends RunTable {
  /** Most runs; a peer that has more under way is not believed any more. */
  static readonly LIMIT = 512

  /** Adds a mapping. False when it contradicts what is known, or there is no room: the subflow cannot be trusted. */
  add(ssn: number, dsn: number, length: number): boolean {
    const { runs } = this
    const offset = dsn - ssn
    const end = ssn + length
    let first = this.firstAfter(ssn)
    // A run that ends exactly where this begins is joined too.
    const before = runs[first - 1]
    if (before !== undefined && before.ssn + before.length === ssn && before.dsn - before.ssn === offset)
      first--
    let last = first
    let left = ssn
    let right = end
    for (; last < runs.length; last++) {
      const run = runs[last]!
      if (run.ssn > end) break
      const same = run.dsn - run.ssn === offset
      if (!same && run.ssn === end) break
      if (!same) return false
      left = Math.min(left, run.ssn)
      right = Math.max(right, run.ssn + run.length)
    }
    if (last - first === 1 && runs[first]!.ssn === left && runs[first]!.ssn + runs[first]!.length === right)
      return true
    if (last === first && runs.length >= RecvTable.LIMIT) return false
    runs.splice(first, last - first, { ssn: left, dsn: left + offset, length: right - left })
    return true
  }
}

/** Subflow blocks of data blocks, or the reverse: every part of `blocks` that a run covers, merged and in order. */
export function project(runs: readonly Run[], blocks: readonly Block[], to: 'ssn' | 'dsn'): Block[] {
  const from = to === 'ssn' ? 'dsn' : 'ssn'
  const out: Block[] = []
  for (const run of runs) {
    const start = run[from]
    for (const block of blocks) {
      const left = Math.max(block.left, start)
      const right = Math.min(block.right, start + run.length)
      if (left >= right) continue
      const shift = run[to] - start
      const last = out[out.length - 1]
      // Runs mostly continue one another: thousands of them are one block.
      if (last !== undefined && left + shift === last.right) last.right = right + shift
      else out.push({ left: left + shift, right: right + shift })
    }
  }
  return merge(out)
}

/** The same bytes as blocks that neither overlap nor touch, in order. */
export function merge(blocks: Block[]): Block[] {
  if (blocks.length < 2) return blocks
  blocks.sort((a, b) => a.left - b.left)
  const out: Block[] = [blocks[0]!]
  for (const block of blocks) {
    const last = out[out.length - 1]!
    if (block.left <= last.right) last.right = Math.max(last.right, block.right)
    else out.push({ left: block.left, right: block.right })
  }
  return out
}

/**
 * The acknowledgement that projected blocks allow (paper §3.5): where `last`, the one sent before, lies in a block, the
 * block's end; else `last` again. `above` are the blocks beyond, for SACK.
 */
export function acknowledged(blocks: readonly Block[], last: number): { ack: number; above: Block[] } {
  let ack = last
  const above: Block[] = []
  for (const block of blocks)
    if (block.left <= ack && block.right >= ack) ack = block.right
    else if (block.left > ack) above.push(block)
  return { ack, above }
}
