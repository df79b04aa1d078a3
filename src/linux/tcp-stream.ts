/**
 * Initial sequence numbers of a TCP connection. Both ends share the pair; the kernel reveals it only with CAP_NET_ADMIN,
 * and off the path it can only be guessed (RFC 6528), so knowing it proves to be an end of the connection. It is read by
 * an eBPF program that is run on demand (BPF_PROG_TEST_RUN) and attached to nothing; the connection is not affected.
 * Linux 5.1 or newer.
 */
import { Ebpf, FRAME, Helper } from './ebpf.ts'
import { closeFd, KernelError } from './libc.ts'
import { inNamespace } from './netns.ts'
import type { SocketFlow } from './sockdiag.ts'
import { loadProgram, Tcx, testRun } from './tcx.ts'

/**
 * First sequence number of each direction, as reported by the kernel: that of the sending direction may be one less (the
 * SYN's own).
 */
export interface TcpStream {
  readonly sent: number
  readonly received: number
  /** Now: the first number that the other end has not acknowledged, and the next that it is to send. */
  readonly unacknowledged: number
  readonly expected: number
}

/** The sequence numbers of connections of one namespace. */
export interface TcpStreams {
  /** In the order of `flows`, of either family; undefined for what is no connection, or has no bytes any more. About 5 µs each. */
  find(flows: readonly SocketFlow[]): (TcpStream | undefined)[]
  close(): void
}

/**
 * The program sees an Ethernet frame with `SLOTS` places behind the header, each with a struct bpf_sock_tuple: addresses, then
 * ports, the other end's first. It writes its finds over them: bytes received u64, bytes acknowledged u64, rcv_nxt u32,
 * snd_una u32, state u32.
 */
const HEADER = 14
const SLOTS = 16
const SLOT = 40
const FOUND_LENGTH = 28
const ETHERTYPE = [0x88, 0xb5] // for local experiments: no protocol that the kernel would look into
// struct bpf_tcp_sock
const RCV_NXT = 16
const SND_UNA = 24
const BYTES_RECEIVED = 80
const BYTES_ACKED = 88
/** In struct bpf_sock. */
const STATE = 72
const CURRENT_NETNS = -1
/** Those with both streams; a listener, which the kernel finds when there is no connection, has none. */
const STATES = new Set([1, 4, 5, 8, 9, 11])

export function streamProgram(tupleLength: 12 | 36): Uint8Array {
  const code = new Ebpf()
  const tuple = -40
  const found = -72
  code.move(6, 1)
  for (let slot = 0; slot < SLOTS; slot++) {
    const at = HEADER + SLOT * slot
    const [next, release] = [`next ${slot}`, `release ${slot}`]
    code.move(1, 6).set(2, at).address(3, FRAME, tuple).set(4, tupleLength)
    code.call(Helper.skb_load_bytes).jumpIf('ne', 0, 0, 'end')
    code.move(1, 6).address(2, FRAME, tuple).set(3, tupleLength).set(4, CURRENT_NETNS).set(5, 0)
    code.storeValue(4, FRAME, found + 24, 0)
    code.call(Helper.sk_lookup_tcp).jumpIf('eq', 0, 0, next)
    code
      .move(7, 0)
      .load(4, 1, 7, STATE)
      .store(4, FRAME, found + 24, 1)
    code.move(1, 7).call(Helper.tcp_sock).jumpIf('eq', 0, 0, release)
    code.load(8, 1, 0, BYTES_RECEIVED).store(8, FRAME, found, 1)
    code.load(8, 1, 0, BYTES_ACKED).store(8, FRAME, found + 8, 1)
    code.load(4, 1, 0, RCV_NXT).store(4, FRAME, found + 16, 1)
    code.load(4, 1, 0, SND_UNA).store(4, FRAME, found + 20, 1)
    code.move(1, 7).call(Helper.sk_release)
    code.move(1, 6).set(2, at).address(3, FRAME, found).set(4, FOUND_LENGTH).set(5, 0)
    code.call(Helper.skb_store_bytes).jumpIf('eq', 0, 0, `done ${slot}`)
    code.set(0, 0).exit()
    code.label(release).move(1, 7).call(Helper.sk_release)
    // Nothing found: no state that counts.
    code.label(next).storeValue(4, FRAME, found + 24, 0)
    code
      .move(1, 6)
      .set(2, at + 24)
      .address(3, FRAME, found + 24)
      .set(4, 4)
      .set(5, 0)
    code.call(Helper.skb_store_bytes).jumpIf('ne', 0, 0, 'end')
    code.label(`done ${slot}`)
  }
  code.label('end').set(0, 0).exit()
  return code.finish()
}

export class KernelTcpStreams implements TcpStreams {
  readonly #programs: Readonly<Record<4 | 6, number>>
  readonly #netns: string | undefined

  /** Throws a KernelError where programs cannot be loaded. */
  constructor(netns?: string) {
    this.#netns = netns
    this.#programs = {
      4: loadProgram('godwit_stream', streamProgram(12), Tcx.INGRESS),
      6: loadProgram('godwit_stream', streamProgram(36), Tcx.INGRESS),
    }
  }

  close(): void {
    for (const fd of Object.values(this.#programs)) closeFd(fd)
  }

  find(flows: readonly SocketFlow[]): (TcpStream | undefined)[] {
    const out = new Map<SocketFlow, TcpStream | undefined>()
    inNamespace(this.#netns, () => {
      for (const width of [4, 16]) {
        const of = flows.filter(({ localAddress }) => localAddress.length === width)
        for (let i = 0; i < of.length; i += SLOTS) {
          const some = of.slice(i, i + SLOTS)
          for (const [n, stream] of this.#agreed(some).entries()) out.set(some[n]!, stream)
        }
      }
    })
    return flows.map((flow) => out.get(flow))
  }

  /** All of one family. Bytes may arrive between two of the values that are read: twice the same is true. */
  #agreed(flows: readonly SocketFlow[]): (TcpStream | undefined)[] {
    let last = this.#read(flows)
    for (let i = 0; i < MOST_READS; i++) {
      const now = this.#read(flows)
      if (now.every((s, n) => s?.sent === last[n]?.sent && s?.received === last[n]?.received)) return now
      last = now
    }
    return flows.map(() => undefined)
  }

  #read(flows: readonly SocketFlow[]): (TcpStream | undefined)[] {
    const frame = new Uint8Array(HEADER + SLOTS * SLOT)
    const view = new DataView(frame.buffer)
    frame.set(ETHERTYPE, 12)
    const width = flows[0]!.localAddress.length
    for (const [i, { localAddress, localPort, remoteAddress, remotePort }] of flows.entries()) {
      const at = HEADER + SLOT * i
      frame.set(remoteAddress, at)
      frame.set(localAddress, at + width)
      view.setUint16(at + 2 * width, remotePort)
      view.setUint16(at + 2 * width + 2, localPort)
    }
    testRun(this.#programs[width === 4 ? 4 : 6], frame)
    return flows.map((_, i) => {
      const at = HEADER + SLOT * i
      if (!STATES.has(view.getUint32(at + 24, true))) return undefined
      const expected = view.getUint32(at + 16, true)
      const unacknowledged = view.getUint32(at + 20, true)
      return {
        received: (expected - view.getUint32(at, true)) >>> 0,
        sent: (unacknowledged - view.getUint32(at + 8, true)) >>> 0,
        unacknowledged,
        expected,
      }
    })
  }
}

const MOST_READS = 8

/** The streams of a namespace; undefined when the kernel does not report where they begin. */
export function tcpStreams(netns?: string): TcpStreams | undefined {
  try {
    return new KernelTcpStreams(netns)
  } catch (error) {
    if (error instanceof KernelError) return undefined
    throw error
  }
}
