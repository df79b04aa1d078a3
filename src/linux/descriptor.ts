/** Descriptors of Node's sockets. Node documents no way to them; every release since 0.x has had this one. */
import type { Server, Socket } from 'node:net'

type Open = { readonly fd?: number } | null | undefined

/** -1: it is closed. */
export function descriptorOf(socket: Server | Socket): number {
  return (socket as unknown as { readonly _handle?: Open })._handle?.fd ?? -1
}
