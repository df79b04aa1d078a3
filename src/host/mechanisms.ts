/** Every mechanism, a line each: the one place where the daemon knows them by name. */
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
