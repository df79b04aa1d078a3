/**
 * The overlay (NTMobile, digest NT-): nodes with names and virtual addresses, tunnels between them wherever they are.
 */
export { overlayDescriptor } from './descriptor.ts'
export { keyIn, LEASE_FILE, LOGIN_FILE, type Login, readLogin, writeLogin } from './node/login.ts'
export { logIn } from './node/login-client.ts'
export { MAX_MESSAGE } from './node/push.ts'
