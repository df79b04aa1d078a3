/** Changes to the tables, chains and rules of nf_tables, as events. Elements of sets are none of them. */
import { EMSGSIZE, ENOBUFS } from '../core/errno.ts'
import { KernelError } from './libc.ts'
import { NETLINK_NETFILTER, NetlinkSocket } from './netlink-socket.ts'
import { onReadable, stopReadable } from './readable.ts'

/** NFNLGRP_NFTABLES (linux/netfilter/nfnetlink.h). */
const GROUP = 7
const SUBSYSTEM = 10
const DELTABLE = 2
/** NFT_MSG_NEWTABLE, DELTABLE, NEWCHAIN, DELCHAIN, NEWRULE, DELRULE. */
const MESSAGES: ReadonlySet<number> = new Set([0, DELTABLE, 3, 5, 6, 8])
const RECEIVE_BUFFER = 1 << 20

/** For threads that wait with a poller of their own; others use `watchNftables`. */
export class NfWatch {
  readonly #socket: NetlinkSocket
  #open = true

  constructor(netns?: string) {
    this.#socket = new NetlinkSocket(NETLINK_NETFILTER, netns)
    try {
      this.#socket.setReceiveBuffer(RECEIVE_BUFFER)
      this.#socket.join(GROUP)
    } catch (error) {
      this.close()
      throw error
    }
  }

  get fd(): number {
    return this.#socket.fd
  }

  /** No event is written for this socket until `resume`. */
  pause(): void {
    this.#socket.leave(GROUP)
  }

  resume(): void {
    this.#socket.join(GROUP)
  }

  /** Reads what has come: whether tables, chains or rules changed, and whether a table was removed. Lost events count as both. */
  read(): { readonly changed: boolean; readonly removed: boolean } {
    let changed = false
    let removed = false
    while (this.#open) {
      try {
        const replies = this.#socket.receive()
        if (replies === undefined) break
        for (const { type } of replies) {
          if (type >> 8 !== SUBSYSTEM) continue
          changed ||= MESSAGES.has(type & 0xff)
          removed ||= (type & 0xff) === DELTABLE
        }
      } catch (error) {
        // Some were lost, or one was larger than the buffer.
        if (!(error instanceof KernelError && (error.errno === ENOBUFS || error.errno === EMSGSIZE)))
          throw error
        changed = true
        removed = true
      }
    }
    return { changed, removed }
  }

  close(): void {
    if (!this.#open) return
    this.#open = false
    this.#socket.close()
  }
}

/** Calls back on the main thread after each batch of changes; the returned function ends it. */
export function watchNftables(netns: string | undefined, changed: () => void): () => void {
  return onMainThread(new NfWatch(netns), 'changed', changed)
}

/** Calls back on the main thread after a table was removed: by `nft flush ruleset`, which a restarted firewall begins with. */
export class TableRemovals {
  readonly #watch: NfWatch
  readonly #end: () => void

  constructor(netns: string | undefined, removed: () => void) {
    this.#watch = new NfWatch(netns)
    this.#end = onMainThread(this.#watch, 'removed', removed)
  }

  /**
   * Changes many elements of sets without events: the kernel writes one for each as long as anybody listens, which
   * doubles the time of the change (50,000 elements: 0.4 s, 1.0 s with events). Removals meanwhile are not reported.
   */
  without(change: () => void): void {
    this.#watch.pause()
    try {
      change()
    } finally {
      this.#watch.resume()
    }
  }

  close(): void {
    this.#end()
  }
}

/** The same; the returned function ends it. */
export function watchRemovedTables(netns: string | undefined, removed: () => void): () => void {
  const removals = new TableRemovals(netns, removed)
  return () => removals.close()
}

function onMainThread(watch: NfWatch, what: 'changed' | 'removed', happened: () => void): () => void {
  let open = true
  try {
    onReadable(watch.fd, () => {
      if (watch.read()[what] && open) happened()
    })
  } catch (error) {
    watch.close()
    throw error
  }
  return () => {
    if (!open) return
    open = false
    stopReadable(watch.fd)
    watch.close()
  }
}
