/** Sends nf_tables batches and reads maps back, over a netlink socket (see nf_tables.ts). */

import { viewOf } from '../core/bytes.ts'
import { EAGAIN, EINTR, ENOENT } from '../core/errno.ts'
import type { GodwitError } from '../core/errors.ts'
import { check, declare, errno, KernelError } from './libc.ts'
import { NETLINK_NETFILTER, NetlinkSocket } from './netlink-socket.ts'
import { dumpElements, getTable, type NfBatch, type NfFamily, readElements } from './nf_tables.ts'

const sendBytes = declare<(fd: number, bytes: Uint8Array, length: number, flags: number) => number>(
  'long send(int fd, void *buf, size_t n, int flags)',
)
const receiveBytes = declare<(fd: number, out: Uint8Array, length: number, flags: number) => number>(
  'long recv(int fd, _Out_ uint8_t *buf, size_t n, int flags)',
)
const setsockopt = declare<
  (fd: number, level: number, name: number, value: Uint8Array, length: number) => number
>('int setsockopt(int fd, int level, int name, void *value, unsigned int length)')

const SOL_SOCKET = 1
const SO_SNDBUFFORCE = 32
const SO_SNDBUF = 7
const MSG_DONTWAIT = 0x40
const NLMSG_ERROR = 2
const NLMSG_DONE = 3

/** A connection to nf_tables of one namespace. The kernel carries a batch out, as a whole or not at all, inside `send`. */
export class NfSocket {
  readonly #socket: NetlinkSocket
  readonly #buffer = new Uint8Array(256 << 10)
  #sendBuffer = 0

  constructor(netns?: string) {
    this.#socket = new NetlinkSocket(NETLINK_NETFILTER, netns)
  }

  close(): void {
    this.#socket.close()
  }

  /** Applies a batch. Throws KernelError with the kernel's errno; then nothing of it has happened. */
  commit(batch: NfBatch, op: string): void {
    const bytes = batch.finish()
    this.#makeRoom(bytes.length)
    while (sendBytes(this.#socket.fd, bytes, bytes.length, 0) < 0) {
      const number = errno()
      if (number !== EINTR) throw nfError(op, number)
    }
    let failed = 0
    this.#receive(MSG_DONTWAIT, (type, at) => {
      if (type !== NLMSG_ERROR) return
      const number = -viewOf(this.#buffer).getInt32(at + 16, true)
      if (number !== 0 && failed === 0) failed = number
    })
    if (failed !== 0) throw nfError(op, failed)
  }

  /** Whether there is a table of this name. */
  hasTable(family: NfFamily, table: string): boolean {
    try {
      this.#socket.request(getTable(family, table), `look for the table ${table}`)
      return true
    } catch (error) {
      if (error instanceof KernelError && error.errno === ENOENT) return false
      throw error
    }
  }

  /** All elements of a map or set; undefined when there is none of that name. */
  dump(
    family: NfFamily,
    table: string,
    map: string,
  ): { readonly key: Uint8Array; readonly data: Uint8Array | undefined }[] | undefined {
    const out: { key: Uint8Array; data: Uint8Array | undefined }[] = []
    const request = dumpElements(family, table, map, 1)
    check(sendBytes(this.#socket.fd, request, request.length, 0), `list ${table} ${map}`)
    let done = false
    let missing = false
    while (!done) {
      const any = this.#receive(0, (type, at, length) => {
        if (type === NLMSG_DONE) done = true
        else if (type === NLMSG_ERROR) {
          done = true
          const number = -viewOf(this.#buffer).getInt32(at + 16, true)
          if (number === ENOENT) missing = true
          else if (number !== 0) throw nfError(`list ${table} ${map}`, number)
        } else readElements(this.#buffer, at, length, (key, data) => out.push({ key, data }))
      })
      if (!any) break
    }
    return missing ? undefined : out
  }

  /** Visits the messages of what is waiting (one datagram when blocking); false when there was nothing. */
  #receive(flags: number, visit: (type: number, at: number, length: number) => void): boolean {
    let any = false
    for (;;) {
      const length = receiveBytes(this.#socket.fd, this.#buffer, this.#buffer.length, flags)
      if (length < 0) {
        if (errno() === EINTR) continue
        if (errno() === EAGAIN) return any
        throw new KernelError('read from nf_tables', errno())
      }
      any = true
      const view = viewOf(this.#buffer)
      for (let at = 0; at + 16 <= length; ) {
        const size = view.getUint32(at, true)
        if (size < 16 || at + size > length) break
        visit(view.getUint16(at + 4, true), at, size)
        at += (size + 3) & ~3
      }
      if (flags === 0) return any
    }
  }

  /** The whole batch has to fit the socket's buffer. */
  #makeRoom(bytes: number): void {
    const wanted = 2 * bytes + 65_536
    if (wanted <= this.#sendBuffer) return
    const value = new Uint8Array(4)
    viewOf(value).setInt32(0, wanted, true)
    if (setsockopt(this.#socket.fd, SOL_SOCKET, SO_SNDBUFFORCE, value, 4) < 0)
      setsockopt(this.#socket.fd, SOL_SOCKET, SO_SNDBUF, value, 4)
    this.#sendBuffer = wanted
  }
}

function nfError(op: string, number: number): GodwitError {
  return new KernelError(op, number, number === 1 ? { hint: 'run as root' } : {})
}
