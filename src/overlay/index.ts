/**
 * The overlay (NTMobile, digest NT-): nodes with names and virtual addresses, tunnels between them wherever they are.
 */

export { CacheClient } from './cache/client.ts'
export {
  type Exchange,
  type FetchedFiles,
  fetchWaiting,
  type Listed,
  listAll,
  type Sent,
  sendToAny,
} from './cache/exchange.ts'
export { overlayDescriptor } from './descriptor.ts'
export { zoneOf } from './machine/names.ts'
export {
  ASKED_KEY_FILE,
  credentialsOf,
  keyIn,
  LEASE_FILE,
  LOGIN_FILE,
  type Login,
  readLogin,
  writeLogin,
} from './node/login.ts'
export { cachesOf, logIn } from './node/login-client.ts'
export { MAX_MESSAGE } from './node/push.ts'
