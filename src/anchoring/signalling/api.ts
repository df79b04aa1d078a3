/**
 * The signalling between mobile host and anchor (UP-4, digest section I), independent of its carrier: association, tunnel
 * set-up, explicit handover, handover mode, and the tally that losses are computed from. The form in use is control
 * frames of the tunnel (frames-host.ts, frames-anchor.ts, docs/wire/anchoring.md); another form would implement the same
 * two interfaces.
 *
 * Peers are identified by their index in the tunnel machine, tunnels by the datapath's slot and by un_tid, the number
 * that both ends use. Times are the machine's milliseconds.
 */
import type { PathConfig } from '../../tunnel/protocol/api.ts'
import type { FlowTuple } from '../tables/flow-key.ts'

/** Datagrams with data so far, over all tunnels and sessions between the two ends; both may wrap at 2^32. */
export interface Tally {
  readonly sent: number
  /** Each counted once, however often it came. */
  readonly received: number
}

/** The mobile host's side. Requests are repeated until answered or given up; answers come as `SignallingEvents`. */
export interface Signalling {
  /** Asks an anchor for VIpAs (UP-8). A refused host asks again later. */
  associate(anchor: number, now: number): void
  /** Starts setting a tunnel up; that it works is an event of the tunnel machine. Returns its slot. */
  setUpTunnel(anchor: number, tunnel: PathConfig, now: number): number
  /**
   * Explicit handover (UP-31, D12): the flows of this group (or all) are on that tunnel now, and those named belong to the
   * group. Takes the place of an earlier request for the group not yet answered, whose flows are named again. Flows are named as the anchor
   * sees them (D6).
   */
  handOver(
    anchor: number,
    tunnel: { readonly slot: number; readonly unTid: number },
    group: number | 'all',
    flows: readonly FlowTuple[],
    now: number,
  ): void
  /** Forbids (or allows again) that packets move these flows at the anchor (UP-28). */
  setMode(anchor: number, isStatic: boolean, flows: readonly FlowTuple[], now: number): void
  /** Asks, on that tunnel, what has arrived of the data sent so far. Not repeated. */
  tally(anchor: number, slot: number, sent: number, now: number): void
  /** The tunnel machine has received a frame for the mechanism. */
  handleFrame(anchor: number, code: number, body: Uint8Array, now: number): void
  nextTimeout(): number | undefined
  handleTimeout(now: number): void
}

export interface SignallingEvents {
  associated(anchor: number, v4: Uint8Array | undefined, v6: Uint8Array | undefined, now: number): void
  refused(anchor: number, reason: string, now: number): void
  /** `sent`: what this end had sent when it asked; `far`: what the anchor had counted when it answered. */
  tallied(anchor: number, sent: number, far: Tally, now: number): void
}

/** The anchor's side: requests of hosts. Each returns the content of the answer. */
export interface AnchorRequests {
  /** A number: the status that says why this host gets no address. */
  associate(host: number): { readonly v4: Uint8Array; readonly v6: Uint8Array } | number
  /** Rows changed; undefined when there is no such tunnel. `counter` orders the request among the host's packets. */
  handOver(
    host: number,
    unTid: number,
    group: number | 'all',
    flows: readonly FlowTuple[],
    counter: number,
    now: number,
  ): number | undefined
  setMode(host: number, isStatic: boolean, flows: readonly FlowTuple[]): number
  tally(host: number): Tally
}
