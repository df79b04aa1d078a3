/** The primitives of the overlay's machines on Node. */
import { signBytes, verifyBytes } from '../../crypto/keys.ts'
import { nodeCrypto } from '../../crypto/node-crypto.ts'
import type { OverlayCrypto } from '../machine/api.ts'

export const overlayCrypto: OverlayCrypto = { ...nodeCrypto, sign: signBytes, verify: verifyBytes }
