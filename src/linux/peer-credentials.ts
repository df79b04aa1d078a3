/** The user at the other end of a Unix stream socket (unix(7), SO_PEERCRED). */
import type { Socket } from 'node:net'
import { descriptorOf } from './descriptor.ts'
import { check, declare } from './libc.ts'

const getsockopt = declare<
  (fd: number, level: number, name: number, value: Buffer, length: Buffer) => number
>('int getsockopt(int fd, int level, int name, void *value, void *length)')
const SOL_SOCKET = 1
const SO_PEERCRED = 17
/** struct ucred: pid, uid, gid, 32 bits each. */
const UCRED_BYTES = 12

/**
 * The user who called connect(), in the namespace of this process. The kernel records it at that time, so it stays right
 * when the process has ended since or changed its user; its process id may have been reused and is not reported. Throws
 * KernelError when the socket is closed.
 */
export function peerUser(socket: Socket): number {
  const credentials = Buffer.alloc(UCRED_BYTES)
  const length = Buffer.alloc(4)
  length.writeUInt32LE(UCRED_BYTES)
  check(getsockopt(descriptorOf(socket), SOL_SOCKET, SO_PEERCRED, credentials, length), 'ask who calls')
  return credentials.readUInt32LE(4)
}
