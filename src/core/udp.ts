/**
 * The UDP header where it lies (RFC 768).
 *
 *  0                   1                   2                   3
 *  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
 * +-------------------------------+-------------------------------+
 * |          source port          |       destination port        |
 * +-------------------------------+-------------------------------+
 * |             length            |           checksum            |
 * +-------------------------------+-------------------------------+
 *
 * A checksum of 0 means that none was computed.
 */

/** Offsets from the header's first byte. */
export const UDP = { SRC_PORT: 0, DST_PORT: 2, LENGTH: 4, CHECKSUM: 6, HEADER: 8 } as const

/** Header and payload as the header says, in bytes; 0 when the header or the datagram is cut short, or it says less than 8. */
export function udpLength(view: DataView, udp: number, available: number): number {
  if (available < UDP.HEADER) return 0
  const length = view.getUint16(udp + UDP.LENGTH)
  return length >= UDP.HEADER && length <= available ? length : 0
}
