/** The state that a mobile host's machine keeps about its anchors and the paths to them. */
import type { Health } from '../../access/policy.ts'
import type { PathView } from '../../tunnel/protocol/api.ts'
import type { RemoteAnchor } from '../protocol.ts'

type Association =
  | { readonly name: 'none' }
  | { readonly name: 'requested' }
  | { readonly name: 'refused'; readonly reason: string }
  | { readonly name: 'associated'; readonly v4: Uint8Array | undefined; readonly v6: Uint8Array | undefined }

/** An anchor, as seen by the mobile host. */
export interface Anchor {
  readonly index: number
  readonly setup: RemoteAnchor
  association: Association
  established: boolean
  /** It does not know this host's own key yet, and forwards no data until then. */
  joining: boolean
}

/** A path to an anchor over an access. */
export interface HostPath {
  readonly slot: number
  readonly anchor: Anchor
  readonly access: string
  readonly pathId: number
  readonly tid: number
  health: Health
  since: number
  rttMs: number
  loss: number
  /** Something else than UDP carries it, which costs more: it is for accesses without a path by UDP. */
  readonly carried: boolean
  /** Its socket is about to be left: packets take another path of the same access as soon as one works. */
  replaced: boolean
}

/** Towards a WireGuard server a path without a session may be used: the first packet asks for one. */
export function healthOf(state: PathView['state']['name'], kind: RemoteAnchor['kind']): Health {
  switch (state) {
    case 'new':
      return kind === 'wireguard' ? 'up' : 'down'
    case 'up':
    case 'degrading':
    case 'suspect':
      return state
    default:
      return 'down'
  }
}

/** State of a path in words, for `why`. */
export function describe(path: HostPath, view: PathView): string {
  const { state } = view
  if (state.name === 'down' && state.evidence.silentMs >= 0)
    return `the path over ${path.access} has been silent for ${Math.round(state.evidence.silentMs)} ms`
  return `the path over ${path.access} is ${state.name}`
}
