/** How many nodes the coordinator may hold: its heap follows the memory that this machine, or the group of processes it is in, has. */
import { totalmem } from 'node:os'

/** Part of the memory that the coordinator's heap may take: a database's cache and other threads need some, too. */
const PART = 1 / 2
/** No more at a time, however much memory there is. */
const MAX_NODES = 2_000_000
/** Heap that a node takes at most, in bytes: 2.8 kB were measured (docs/benchmarks.md); the collector needs room to move them. */
const NODE_BYTES = 4096
/** For all that does not grow with nodes; a smaller heap is V8's own choice on small machines (MB). */
const BASE_MB = 256
const MB = 2 ** 20

export interface Room {
  /** Max size of the heap's old generation (MB). */
  readonly heapMb: number
  /** Nodes that are registered at a time. */
  readonly nodes: number
}

/** `memory`: bytes. */
export function roomIn(memory: number): Room {
  const heapMb = Math.floor(Math.max(2 * BASE_MB, (memory * PART) / MB))
  return { heapMb, nodes: Math.min(MAX_NODES, Math.floor(((heapMb - BASE_MB) * MB) / NODE_BYTES)) }
}

/** Bytes that this process may use. */
export function ownMemory(): number {
  const total = totalmem()
  // Zero, or a number beyond all memory: there is no limit.
  const limit = process.constrainedMemory() || total
  return Math.min(total, limit)
}
