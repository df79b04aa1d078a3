/**
 * WireGuard's handshake and cookie messages, and the headers of transport messages (WireGuard paper §5.4, and message 32
 * of docs/wire/tunnel.md). All integers little-endian. The machine builds messages in place at these offsets; parsing
 * only checks type, the three zero bytes and the length, the rest is for the keys to tell.
 *
 *   1  type·000  sender(4)  ephemeral(32)  static(32+16)  timestamp(12+16)  mac1(16)  mac2(16)     148 bytes
 *   2  type·000  sender(4)  receiver(4)  ephemeral(32)  empty(0+16)  mac1(16)  mac2(16)             92 bytes
 *   3  type·000  receiver(4)  nonce(24)  cookie(16+16)                                              64 bytes
 *   4  type·000  receiver(4)  counter(8)  packet(16 n + 16)                                        ≥ 32 bytes
 *  32  type·000  receiver(4)  counter(8)  flags(1) path id(1) packet … tag(16)                     ≥ 34 bytes
 */
export const MessageType = {
  initiation: 1,
  response: 2,
  cookieReply: 3,
  transport: 4,
  multipath: 32,
} as const

export const INITIATION = {
  length: 148,
  sender: 4,
  ephemeral: 8,
  static: 40,
  timestamp: 88,
  mac1: 116,
  mac2: 132,
} as const

export const RESPONSE = {
  length: 92,
  sender: 4,
  receiver: 8,
  ephemeral: 12,
  empty: 44,
  mac1: 60,
  mac2: 76,
} as const

export const COOKIE_REPLY = { length: 64, receiver: 4, nonce: 8, cookie: 32 } as const

/** Messages 4 and 32: bytes in front of the ciphertext, and of the tag at its end. */
export const HEADER = 16
export const TAG = 16
/** Where their header has the receiver's index (4 bytes) and the counter (8 bytes). */
export const RECEIVER = 4
export const COUNTER = 8

export const TRANSPORT = {
  minLength: HEADER + TAG,
  receiver: RECEIVER,
  counter: COUNTER,
  payload: HEADER,
  tag: TAG,
} as const

/** Flags and path id: the first bytes of the plaintext of message 32, and of control frames inside message 4. */
export const INNER_HEADER = 2
/** The plaintext is control frames, not a packet. */
export const FLAG_CONTROL = 1
/** The packet's TCP or UDP checksum is the sum of its pseudo-header; the receiver completes it. */
export const FLAG_PARTIAL = 2
/** The receiver restores the order of sealing. */
export const FLAG_ORDERED = 4

/** Bytes that message 32 adds to an inner packet. */
export const MULTIPATH_OVERHEAD = HEADER + INNER_HEADER + TAG

/** Bytes of IP and UDP around a datagram. */
export function outerOverhead(addressLength: number): number {
  return (addressLength === 4 ? 20 : 40) + 8
}

/** The type of a datagram that has the shape of a message; 0 for all others. */
export function messageType(bytes: Uint8Array): number {
  if (bytes.length < TRANSPORT.minLength || (bytes[1]! | bytes[2]! | bytes[3]!) !== 0) return 0
  const type = bytes[0]!
  switch (type) {
    case MessageType.initiation:
      return bytes.length === INITIATION.length ? type : 0
    case MessageType.response:
      return bytes.length === RESPONSE.length ? type : 0
    case MessageType.cookieReply:
      return bytes.length === COOKIE_REPLY.length ? type : 0
    case MessageType.transport:
      return type
    case MessageType.multipath:
      return bytes.length >= MULTIPATH_OVERHEAD ? type : 0
    default:
      return 0
  }
}

export function readIndex(bytes: Uint8Array, at: number): number {
  return (bytes[at]! | (bytes[at + 1]! << 8) | (bytes[at + 2]! << 16) | (bytes[at + 3]! << 24)) >>> 0
}

export function writeIndex(bytes: Uint8Array, at: number, value: number): void {
  bytes[at] = value
  bytes[at + 1] = value >>> 8
  bytes[at + 2] = value >>> 16
  bytes[at + 3] = value >>> 24
}
