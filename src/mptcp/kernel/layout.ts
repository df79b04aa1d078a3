/**
 * What the kernel's programs and user space share of a connection in the fast path (programs.ts, fast-path.ts). A tuple leads to the
 * number of a slot; the slots lie in memory that both see. Each field has one writer. Integers are of this machine's order, offsets
 * count from the initial sequence numbers and have 64 bits, times are nanoseconds of CLOCK_MONOTONIC.
 *
 *   tuple   local address (16, IPv4 mapped) · remote address (16) · local port, remote port (as in a packet)
 *   its value   slot u32 · flags u32
 *
 * A connection whose data go over another subflow than the first has two tuples: the local TCP's, and that of the subflow.
 */

export const TUPLE = 36
export const TUPLE_VALUE = 8
export const SLOT_AT = 0
export const FLAGS_AT = 4
/** ARMED: the socket asks the program about its options. ELSEWHERE: what arrives for this tuple is not of the slot's subflow. */
export const Flag = { ARMED: 1, ELSEWHERE: 2 } as const
/** No slot. */
export const NO_SLOT = 0xffff_ffff

/** Mappings of a connection that are kept; a power of two. More under way go through user space. */
export const RING = 2048
/** Connections at once. One more element of the array says whose it is. */
export const SLOTS = 256
/** There: inode of the network namespace. */
export const OWNER = 0

/** Written by user space. */
export const USER = {
  /** 1: the programs take packets. */
  mode: 0,
  tcpIsn: 4,
  peerIsn: 8,
  ringTail: 12,
  sndMax: 16,
  rcvMax: 24,
  /** 64-bit initial data sequence numbers. */
  localIdsn: 32,
  remoteIdsn: 40,
  /** Shift of the windows that the local TCP announces. */
  scale: 48,
  /** How packets on the wire differ from the local TCP's (`Differs`). */
  differs: 52,
  /** What the wire's sequence numbers, out and in, are at offset 0; and by how much subflow offsets exceed data offsets. */
  wireIsn: 200,
  wirePeerIsn: 204,
  ssnOut: 208,
  ssnIn: 212,
  /** The subflow's tuple, as above. */
  wire: 216,
  /** The local TCP's, as struct bpf_sock_tuple of this length: source of what arrives, destination, ports. */
  socket: 252,
  socketLength: 288,
} as const

/** Numbers differ after data went over several subflows; addresses, where they go over another than the first. */
export const Differs = { NOTHING: 0, NUMBERS: 1, ADDRESSES: 2 } as const

/** Written by the program that sees what the local TCP sends. */
export const OUT = {
  /** Runs of the program that have begun and not ended. */
  busy: 64,
  sndMax: 72,
  tan: 80,
  asked: 88,
  expected: 96,
  window: 104,
  srtt: 108,
  ringTail: 112,
  /** 1: it takes new data; before, user space has some in its queue. */
  on: 116,
  packets: 120,
} as const

/** Written by the program that sees what arrives. */
export const IN = {
  busy: 128,
  dataUna: 136,
  una: 144,
  rcvMax: 152,
  heard: 160,
  dataAt: 168,
  window: 176,
  burst: 180,
  on: 184,
  packets: 192,
} as const

/** Mappings: offset u32, length u32. */
export const RING_AT = 320
export const SLOT = RING_AT + 8 * RING

/** `skb->priority` of what arrived and needs user space no more. No remote host can set it, and the largest class of a qdisc is below. */
export const SEEN = 0x6777_6d70
