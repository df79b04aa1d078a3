/**
 * How much a TCP connection may send before it is read. Node.js hands whatever the kernel has, up to 2 MB, to TLS in one turn, and a
 * megabyte of KeyUpdate records (RFC 8446 §4.6.3) takes half a second: who has not shown who it is gets little room.
 */
import type { Server, Socket } from 'node:net'
import { descriptorOf } from './descriptor.ts'
import { setOption } from './udp.ts'

const SOL_SOCKET = 1
const SO_RCVBUF = 8
/** Whether the room is fixed (Linux 5.14). */
const SO_BUF_LOCK = 72
/** The kernel doubles it. A ClientHello, the head of a request or a full-sized packet fits. */
const LITTLE = 4096
/** Before Linux 5.14, which cannot let the kernel choose again; it takes what `net.core.rmem_max` allows. */
const MUCH = 4 << 20

/** For a server that listens: its new connections have little room. */
export function giveLittleRoom(server: Server): void {
  setOption(descriptorOf(server), SOL_SOCKET, SO_RCVBUF, LITTLE)
}

/** The kernel chooses the room of this connection, as it does for others. Repeatable. */
export function giveRoom(socket: Socket): void {
  const fd = descriptorOf(socket)
  if (fd >= 0 && setOption(fd, SOL_SOCKET, SO_BUF_LOCK, 0) < 0) setOption(fd, SOL_SOCKET, SO_RCVBUF, MUCH)
}
