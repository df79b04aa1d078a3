/** The list of all mechanisms, one per line: the only place where the daemon names them. */
import { anchorDescriptor, hostDescriptor } from '../anchoring/index.ts'
import { mptcpDescriptor } from '../mptcp/index.ts'
import { overlayDescriptor } from '../overlay/index.ts'
import { routerDescriptor } from '../routing/index.ts'
import { dimeDescriptor } from '../translation/index.ts'

export const MECHANISMS = [
  anchorDescriptor,
  routerDescriptor,
  hostDescriptor,
  dimeDescriptor,
  mptcpDescriptor,
  overlayDescriptor,
] as const
