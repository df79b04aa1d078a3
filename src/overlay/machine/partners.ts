/**
 * The coordinators that this one directs nodes with (abroad.ts): those of other zones, and the others of its own. What each may do,
 * which keys count, and how it is asked. Sans-I/O.
 */
import { type Message, Status } from '../wire/message.ts'
import { mayAsk, type OpenTo } from './access.ts'
import type { Directory } from './directory.ts'
import type { Fellows } from './fellows.ts'
import { dc, mayBeAsked, zoneOf } from './names.ts'
import type { Zones } from './zones.ts'

export interface PartnerKeys {
  /** What keys of pairs are derived from; both coordinators have it. */
  readonly secret: Uint8Array
  /** Leases of its nodes are signed with this. */
  readonly zone: Uint8Array
  /** It is the own zone's: nodes know it, and addresses are of the own block. */
  readonly isOwn: boolean
}

export interface Partners {
  /** Directions a second that one of them may ask of our nodes, at once, and under way. */
  readonly most: { readonly rate: number; readonly burst: number; readonly underWay: number }
  request(
    partner: string,
    message: Omit<Message, 'transaction'>,
    options: { readonly by: string; readonly ms: number },
    done: (answer: Message | undefined, now: number) => void,
    now: number,
  ): void
  keysOf(partner: string): PartnerKeys | undefined
  /** A node of ours has to do with it. */
  pin(partner: string): void
  /** D10: whether it may ask on behalf of this node for that one; undefined: that is not known yet. */
  mayAsk(partner: string, mn: string, cn: string): Status | undefined
  /** Whose share of wake-ups a question counts against. */
  askerOf(partner: string, mn: string | undefined): string
  /** For the trace. */
  stepName(partner: string): string
}

/** Of other zones, by the zone's name. A node is reached from another zone only where its access list says so. */
export function zonePartners(zones: Zones, directory: Pick<Directory, 'nodeByName' | 'accessOf'>): Partners {
  return {
    most: { rate: 20, burst: 300, underWay: 256 },
    request: (...args) => zones.request(...args),
    keysOf(name) {
      const [secret, zone] = [zones.secretOf(name), zones.zoneKeyOf(name)]
      return secret === undefined || zone === undefined ? undefined : { secret, zone, isOwn: false }
    },
    pin: (name) => zones.pin(name),
    mayAsk(zone, mn, cn) {
      if (zoneOf(mn) !== zone) return Status.NOT_ALLOWED
      if (directory.nodeByName(cn) === undefined) return Status.UNKNOWN_NAME
      return mayBeAsked(directory.accessOf(cn) ?? [], mn) ? Status.DONE : Status.NOT_ALLOWED
    },
    askerOf: (zone) => dc(zone),
    stepName: (zone) => dc(zone),
  }
}

export interface OwnZone {
  readonly zone: string
  readonly zoneKey: Uint8Array
  readonly secret: Uint8Array
  readonly openTo: OpenTo
}

/**
 * The other coordinators of the own zone, by their starts. They have its keys and its directory. A node that this one's copy of the directory
 * does not have has logged in just now, which the copy shows when the question is repeated, or was removed, which the other's does not show yet.
 */
export function fellowPartners(
  fellows: Fellows,
  directory: Pick<Directory, 'nodeByName' | 'accessOf'>,
  { zone, zoneKey, secret, openTo }: OwnZone,
): Partners {
  return {
    most: { rate: 1000, burst: 4000, underWay: 8192 },
    request: (...args) => fellows.request(...args),
    keysOf: () => ({ secret, zone: zoneKey, isOwn: true }),
    pin: () => {},
    mayAsk(_fellow, mn, cn) {
      if (zoneOf(mn) !== zone || zoneOf(cn) !== zone) return Status.NOT_ALLOWED
      if (directory.nodeByName(cn) === undefined) return Status.UNKNOWN_NAME
      return directory.nodeByName(mn) === undefined ? undefined : mayAsk(directory, openTo, mn, cn)
    },
    askerOf: (fellow, mn) => mn ?? fellow,
    stepName: (fellow) => `dc ${fellows.nameOf(fellow)}`,
  }
}
