/**
 * Keeps the socket table equal to the sockets of this host (DI-5, DI-9): looks at them regularly, at a bounded cost, and whenever
 * the answer matters at once. Tells the protocol core what has come, been answered, gone, or repeats itself.
 */
import { TokenBucket } from '../core/token-bucket.ts'
import { KernelError } from '../linux/libc.ts'
import { type SocketFlow, type SocketTable, TCP } from '../linux/sockdiag.ts'
import type { TcpStream } from '../linux/tcp-stream.ts'
import type { Services } from '../mechanism/services.ts'
import type { KernelHandles } from './kernel/handles.ts'
import { FlowTable, type FoundFlow } from './kernel/sockets.ts'
import type { IhmpMachine } from './machine/machine.ts'
import { bytesOf, type Ip, type SocketRow, type Tables } from './tables.ts'

/** Looking for new sockets costs at most this share of a CPU. */
const SCAN_SHARE = 0.02
const SCAN_LEAST_MS = 500
const SCAN_MOST_MS = 10_000
/** A burst of changes looks at the sockets once; where looking takes long, for longer: this many times what it took. */
const SCAN_FRESH_MS = 100
const SCAN_FRESH_TIMES = 10
/** Of strangers' messages so many a second lead to a look; the next regular one sees what they are about, too. */
const STRANGERS_RATE = 4
/** TCP has repeated itself this often: the path is in doubt. */
const SUSPICIOUS_RETRANSMITS = 2

export interface ScannerOptions {
  /** UDP port of IHMP, whose own flows do not count. */
  readonly port: number
  readonly watchUdp: boolean
  /** The protocol core; it exists when the first look comes. */
  readonly machine: () => IhmpMachine
}

export class Scanner {
  readonly #tables: Tables
  readonly #kernel: Pick<KernelHandles, 'maps' | 'network' | 'streams'>
  readonly #sockets: SocketTable
  readonly #services: Pick<Services, 'clock' | 'recorder'>
  readonly #machine: () => IhmpMachine
  readonly #flows: FlowTable
  /** Looks at the sockets on behalf of who has none with this host as far as it knows. */
  readonly #strangers = new TokenBucket(STRANGERS_RATE)
  #scannedAt = Number.NEGATIVE_INFINITY
  #cost = 0

  constructor(
    tables: Tables,
    kernel: Pick<KernelHandles, 'maps' | 'network' | 'streams'>,
    services: Pick<Services, 'clock' | 'recorder' | 'sockets'>,
    options: ScannerOptions,
  ) {
    this.#tables = tables
    this.#kernel = kernel
    this.#sockets = services.sockets
    this.#services = services
    this.#machine = options.machine
    const seen = () => (options.watchUdp ? kernel.maps.seen() : [])
    this.#flows = new FlowTable(services.sockets, seen, options.port)
  }

  /** How long the last look took, milliseconds. */
  get cost(): number {
    return this.#cost
  }

  /** When to look next, milliseconds from now. */
  get pause(): number {
    return Math.min(SCAN_MOST_MS, Math.max(SCAN_LEAST_MS, this.#cost / SCAN_SHARE))
  }

  flows(): Iterable<FoundFlow> {
    return this.#flows.all()
  }

  get(id: string): FoundFlow | undefined {
    return this.#flows.get(id)
  }

  scan(): void {
    const now = this.#services.clock.now()
    const startedAt = performance.now()
    const machine = this.#machine()
    const { own, identifiers } = this.#kernel.network
    for (const { id } of this.#flows.update(new Set([...own, ...identifiers]))) {
      const hid = this.#tables.sockets.get(id)?.hid
      this.#tables.removeSocket(id)
      if (hid !== undefined && this.#tables.flows(hid).size === 0) machine.handleIdle(hid, now)
    }
    for (const flow of this.#flows.all()) {
      const known = this.#tables.sockets.get(flow.id)
      const cookie = flow.socket?.cookie
      // The kernel gives a connection that is over (TIME-WAIT) another cookie.
      if (known !== undefined && (known.cookie === cookie || flow.socket?.state === 'time-wait')) {
        if (known.opening === true && flow.opening !== true) {
          known.opening = false
          this.#tables.touch(known.hid)
          machine.handleSocket(known, now)
        }
        continue
      }
      // Another connection with the ports of one that is gone: what that one's host has proven is nothing to it.
      if (known !== undefined) this.#tables.removeSocket(flow.id)
      const heard = flow.socket === undefined // a datagram was seen, and by whom it came only its source says
      const hid = machine.handleFlow({ local: flow.local, foreign: flow.foreign }, now, heard)
      if (hid === undefined) continue
      const { socket: _, retransmits: __, ...row } = flow
      const added: SocketRow = { ...row, hid, ...(cookie === undefined ? {} : { cookie }) }
      this.#tables.addSocket(added)
      machine.handleSocket(added, now)
      this.#kernel.maps.prepare(added)
    }
    this.#scannedAt = now
    this.#cost = performance.now() - startedAt
  }

  scanUnlessFresh(): void {
    const age = this.#services.clock.now() - this.#scannedAt
    if (age >= Math.max(SCAN_FRESH_MS, SCAN_FRESH_TIMES * this.#cost)) this.scan()
  }

  /** Whether a socket talks from `local` to `foreign`; anybody may ask. */
  hasFlow(local: Ip, foreign: Ip): boolean {
    if (this.#flows.has(local, foreign)) return true
    if (!this.#strangers.take(this.#services.clock.now())) return false
    this.scanUnlessFresh()
    return this.#flows.has(local, foreign)
  }

  /**
   * Sequence numbers of these connections, in their order; undefined for what is no connection any more. No array: the kernel does
   * not tell.
   */
  streamsOf(flows: readonly SocketRow[]): readonly (TcpStream | undefined)[] | undefined {
    try {
      return this.#kernel.streams?.find(flows.map(socketFlow))
    } catch (error) {
      if (!(error instanceof KernelError)) throw error
      this.#services.recorder.log('debug', error.message) // asked again, as after a lost message
      return undefined
    }
  }

  /**
   * Flows whose TCP repeats itself put their path in doubt. Returns the addresses to which their segments leave: their
   * retransmissions are worth keeping.
   */
  suspect(): Set<Ip> {
    const machine = this.#machine()
    const doubtful = new Set<number>()
    const repeated: SocketRow[] = []
    const now = this.#services.clock.now()
    for (const flow of this.#flows.all())
      if (flow.retransmits > 0) {
        const row = this.#tables.sockets.get(flow.id)
        if (row === undefined || machine.host(row.hid)?.state !== 'peer') continue
        doubtful.add(row.hid)
        if (flow.retransmits < SUSPICIOUS_RETRANSMITS) continue
        machine.handleSuspicion(row.hid, now)
        repeated.push(row)
      }
    machine.handleRepeated(repeated, now)
    const addresses = new Set<Ip>()
    for (const hid of doubtful) {
      const row = this.#tables.hosts.get(hid)
      for (const family of [4, 6] as const)
        if (row?.current[family]) addresses.add(row.current[family].foreign)
    }
    return addresses
  }

  /** Ends a socket with an error to its application. False: no socket is connected that way. */
  destroy(id: string): boolean {
    const socket = this.#flows.get(id)?.socket
    if (socket !== undefined) this.#sockets.destroy(socket)
    return socket !== undefined
  }

  /** As `destroy`, and forgets it. */
  end(id: string): boolean {
    const ended = this.destroy(id)
    this.#flows.delete(id)
    return ended
  }
}

function socketFlow({ local, localPort, foreign, foreignPort }: SocketRow): SocketFlow {
  return {
    protocol: TCP,
    localAddress: bytesOf(local),
    localPort,
    remoteAddress: bytesOf(foreign),
    remotePort: foreignPort,
  }
}
