/**
 * Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s as WireGuard uses it (WireGuard paper §5.4.2–5.4.5; Noise revision 34). Pure
 * functions over bytes; rate limits and timing belong to the machine. They return undefined for what does not verify.
 */
import { kdf, type TunnelCrypto } from '../../crypto/tunnel-crypto.ts'
import { INITIATION, MessageType, RESPONSE, readIndex, writeIndex } from './wire.ts'

const CONSTRUCTION = ascii('Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s')
const IDENTIFIER = ascii('WireGuard v1 zx2c4 Jason@zx2c4.com')
const LABEL_MAC1 = ascii('mac1----')
const LABEL_COOKIE = ascii('cookie--')
const LABEL_EARLY = ascii('godwit early data')
const LABEL_AES = ascii('godwit message 32 aes-256-gcm')

const NOTHING = new Uint8Array(0)
export const ZERO_KEY = new Uint8Array(32)

/** An own static key and what follows from it. */
export interface Identity {
  readonly privateKey: Uint8Array
  readonly publicKey: Uint8Array
  /** Key of mac1 in messages to this end, and of cookies this end hands out (§5.4.4, §5.4.7). */
  readonly mac1Key: Uint8Array
  readonly cookieKey: Uint8Array
}

/** A remote static key and what follows from it. */
export interface RemoteKey {
  readonly publicKey: Uint8Array
  readonly mac1Key: Uint8Array
  readonly cookieKey: Uint8Array
  /** DH(own static, remote static). */
  readonly shared: Uint8Array
}

/** Between message 1 and message 2, at either end. Wiped when the handshake is over. */
export interface HandshakeState {
  readonly localIndex: number
  readonly remoteIndex: number
  readonly hash: Uint8Array
  readonly chain: Uint8Array
  /** Initiator: own ephemeral private key. Responder: the initiator's ephemeral public key. */
  readonly ephemeral: Uint8Array
}

export interface TransportKeys {
  readonly sendKey: Uint8Array
  readonly receiveKey: Uint8Array
  readonly sendKeyAes: Uint8Array
  readonly receiveKeyAes: Uint8Array
}

export function identity(crypto: TunnelCrypto, privateKey: Uint8Array): Identity {
  const publicKey = crypto.publicKey(privateKey)
  return {
    privateKey,
    publicKey,
    mac1Key: crypto.hash(LABEL_MAC1, publicKey),
    cookieKey: crypto.hash(LABEL_COOKIE, publicKey),
  }
}

/** Undefined for a public key of low order. */
export function remoteKey(crypto: TunnelCrypto, own: Identity, publicKey: Uint8Array): RemoteKey | undefined {
  const shared = crypto.sharedSecret(own.privateKey, publicKey)
  if (shared === undefined) return undefined
  return {
    publicKey,
    mac1Key: crypto.hash(LABEL_MAC1, publicKey),
    cookieKey: crypto.hash(LABEL_COOKIE, publicKey),
    shared,
  }
}

/** Message 1 without its MACs (§5.4.2). `ephemeral` is a fresh private key. */
export function createInitiation(
  crypto: TunnelCrypto,
  own: Identity,
  remote: RemoteKey,
  ephemeral: Uint8Array,
  localIndex: number,
  timestamp: Uint8Array,
): { message: Uint8Array; state: HandshakeState } | undefined {
  const message = new Uint8Array(INITIATION.length)
  message[0] = MessageType.initiation
  writeIndex(message, INITIATION.sender, localIndex)
  let hash = initialHash(crypto, remote.publicKey)
  const ephemeralPublic = crypto.publicKey(ephemeral)
  message.set(ephemeralPublic, INITIATION.ephemeral)
  hash = crypto.hash(hash, ephemeralPublic)
  let [chain] = kdf(crypto, initialChain(crypto), ephemeralPublic, 1)
  const shared = crypto.sharedSecret(ephemeral, remote.publicKey)
  if (shared === undefined) return undefined
  let key: Uint8Array
  ;[chain, key] = kdf(crypto, chain, shared, 2)
  const sealedStatic = crypto.seal(key, 0, own.publicKey, hash)
  message.set(sealedStatic, INITIATION.static)
  hash = crypto.hash(hash, sealedStatic)
  ;[chain, key] = kdf(crypto, chain, remote.shared, 2)
  const sealedTimestamp = crypto.seal(key, 0, timestamp, hash)
  message.set(sealedTimestamp, INITIATION.timestamp)
  hash = crypto.hash(hash, sealedTimestamp)
  return { message, state: { localIndex, remoteIndex: 0, hash, chain, ephemeral } }
}

/** The first half of message 1, opened: enough to look up the initiator. */
export interface OpenedInitiation {
  readonly publicKey: Uint8Array
  readonly senderIndex: number
  readonly ephemeral: Uint8Array
  readonly chain: Uint8Array
  readonly hash: Uint8Array
}

/** Opens the initiator's static key in message 1. */
export function openInitiation(
  crypto: TunnelCrypto,
  own: Identity,
  message: Uint8Array,
): OpenedInitiation | undefined {
  const ephemeral = message.slice(INITIATION.ephemeral, INITIATION.static)
  let hash = crypto.hash(initialHash(crypto, own.publicKey), ephemeral)
  const [first] = kdf(crypto, initialChain(crypto), ephemeral, 1)
  const shared = crypto.sharedSecret(own.privateKey, ephemeral)
  if (shared === undefined) return undefined
  const [chain, key] = kdf(crypto, first, shared, 2)
  const sealed = message.subarray(INITIATION.static, INITIATION.timestamp)
  const publicKey = crypto.open(key, 0, sealed, hash)
  if (publicKey === undefined) return undefined
  hash = crypto.hash(hash, sealed)
  return { publicKey, senderIndex: readIndex(message, INITIATION.sender), ephemeral, chain, hash }
}

/** The second half of message 1, with the initiator's key at hand: its timestamp and the state for message 2. */
export function finishInitiation(
  crypto: TunnelCrypto,
  opened: OpenedInitiation,
  remote: RemoteKey,
  message: Uint8Array,
): { timestamp: Uint8Array; state: HandshakeState } | undefined {
  const [chain, key] = kdf(crypto, opened.chain, remote.shared, 2)
  const sealed = message.subarray(INITIATION.timestamp, INITIATION.mac1)
  const timestamp = crypto.open(key, 0, sealed, opened.hash)
  if (timestamp === undefined) return undefined
  const hash = crypto.hash(opened.hash, sealed)
  return {
    timestamp,
    state: { localIndex: 0, remoteIndex: opened.senderIndex, hash, chain, ephemeral: opened.ephemeral },
  }
}

/**
 * Keys of what the initiator sends behind message 1 to a responder that has given out a key for this once. `secrets`: of that key
 * with the initiator's ephemeral one, and with its static one, which shows the initiator also to a responder whose own private key
 * others have. `state` is the one after message 1. As the initiator has them.
 */
export function earlyKeys(
  crypto: TunnelCrypto,
  state: Pick<HandshakeState, 'chain' | 'hash'>,
  secrets: readonly [ephemeral: Uint8Array, fixed: Uint8Array],
  presharedKey: Uint8Array,
): TransportKeys {
  let chain = state.chain
  for (const secret of [...secrets, presharedKey]) [chain] = kdf(crypto, chain, secret, 1)
  const [sendKey, receiveKey] = kdf(crypto, chain, crypto.hash(LABEL_EARLY, state.hash), 2)
  return withAes(crypto, sendKey, receiveKey)
}

/** The same at the other end. */
export function turned({ sendKey, receiveKey, sendKeyAes, receiveKeyAes }: TransportKeys): TransportKeys {
  return { sendKey: receiveKey, receiveKey: sendKey, sendKeyAes: receiveKeyAes, receiveKeyAes: sendKeyAes }
}

/** Message 2 without its MACs (§5.4.3) and the transport keys of the responder. */
export function createResponse(
  crypto: TunnelCrypto,
  state: HandshakeState,
  remote: RemoteKey,
  presharedKey: Uint8Array,
  ephemeral: Uint8Array,
  localIndex: number,
): { message: Uint8Array; keys: TransportKeys } | undefined {
  const message = new Uint8Array(RESPONSE.length)
  message[0] = MessageType.response
  writeIndex(message, RESPONSE.sender, localIndex)
  writeIndex(message, RESPONSE.receiver, state.remoteIndex)
  const ephemeralPublic = crypto.publicKey(ephemeral)
  message.set(ephemeralPublic, RESPONSE.ephemeral)
  let hash = crypto.hash(state.hash, ephemeralPublic)
  let [chain] = kdf(crypto, state.chain, ephemeralPublic, 1)
  const first = crypto.sharedSecret(ephemeral, state.ephemeral)
  const second = crypto.sharedSecret(ephemeral, remote.publicKey)
  if (first === undefined || second === undefined) return undefined
  ;[chain] = kdf(crypto, chain, first, 1)
  ;[chain] = kdf(crypto, chain, second, 1)
  const [finalChain, mixed, key] = kdf(crypto, chain, presharedKey, 3)
  hash = crypto.hash(hash, mixed)
  message.set(crypto.seal(key, 0, NOTHING, hash), RESPONSE.empty)
  const [receiveKey, sendKey] = kdf(crypto, finalChain, NOTHING, 2)
  return { message, keys: withAes(crypto, sendKey, receiveKey) }
}

/** Verifies message 2 at the initiator and derives its transport keys (§5.4.5). */
export function openResponse(
  crypto: TunnelCrypto,
  state: HandshakeState,
  own: Identity,
  presharedKey: Uint8Array,
  message: Uint8Array,
): TransportKeys | undefined {
  const ephemeral = message.subarray(RESPONSE.ephemeral, RESPONSE.empty)
  let hash = crypto.hash(state.hash, ephemeral)
  let [chain] = kdf(crypto, state.chain, ephemeral, 1)
  const first = crypto.sharedSecret(state.ephemeral, ephemeral)
  const second = crypto.sharedSecret(own.privateKey, ephemeral)
  if (first === undefined || second === undefined) return undefined
  ;[chain] = kdf(crypto, chain, first, 1)
  ;[chain] = kdf(crypto, chain, second, 1)
  const [finalChain, mixed, key] = kdf(crypto, chain, presharedKey, 3)
  hash = crypto.hash(hash, mixed)
  if (crypto.open(key, 0, message.subarray(RESPONSE.empty, RESPONSE.mac1), hash) === undefined)
    return undefined
  const [sendKey, receiveKey] = kdf(crypto, finalChain, NOTHING, 2)
  return withAes(crypto, sendKey, receiveKey)
}

function withAes(crypto: TunnelCrypto, sendKey: Uint8Array, receiveKey: Uint8Array): TransportKeys {
  return {
    sendKey,
    receiveKey,
    sendKeyAes: kdf(crypto, sendKey, LABEL_AES, 1)[0],
    receiveKeyAes: kdf(crypto, receiveKey, LABEL_AES, 1)[0],
  }
}

let chainStart: Uint8Array | undefined
let hashStart: Uint8Array | undefined

function initialChain(crypto: TunnelCrypto): Uint8Array {
  chainStart ??= crypto.hash(CONSTRUCTION)
  return chainStart
}

function initialHash(crypto: TunnelCrypto, responder: Uint8Array): Uint8Array {
  hashStart ??= crypto.hash(initialChain(crypto), IDENTIFIER)
  return crypto.hash(hashStart, responder)
}

function ascii(text: string): Uint8Array {
  return Uint8Array.from(text, (character) => character.charCodeAt(0))
}
