/**
 * DIME (Garcia-Luna-Aceves & Sevilla): two hosts that both run godwit keep their connections while either moves. The kernel
 * rewrites addresses between transport and network (StackTrans, `kernel/`); a signed protocol tells the
 * other end where a host is (IHMP, `wire.ts`, `machine/`). No tunnel, no server; a HID never leaves this host.
 */

export { DIME_KEY_FILE, dimeDescriptor } from './descriptor.ts'
export { zoneLine } from './directory/record.ts'
export { generateOwnKey, ownKeyOf, readPrivateKeys, writePrivateKeys } from './keys.ts'
export type {
  HostView,
  SocketView,
} from './mechanism.ts'
export { IhmpNat, type IhmpNatOptions } from './nat.ts'
