/**
 * An invitation: one line of text that makes a host known to an anchor. It holds a key pair's private half that is good
 * for one association only: once there, the host replaces it by a key that never left it. A secret until then.
 *
 *   godwit1.BASE64URL(JSON).BASE64URL(first 6 bytes of SHA-256 of what stands before)
 */
import { createHash } from 'node:crypto'
import * as z from 'zod'
import { type Decoded, decoded, malformed } from '../core/result.ts'
import { decodeKey } from '../crypto/keys.ts'
import { parseHostPort } from '../mechanism/schema.ts'

const key = z.string().refine((text) => decodeKey(text).ok)

const endpoint = z.string().refine((text) => parseHostPort(text).ok)

const content = z.object({
  /** The anchor's name for the host. */
  host: z.string(),
  /** Suggested name for the anchor on the host. */
  anchor: z.string(),
  endpoint,
  /** Tried in turn where the first does not answer. */
  alternatives: z.array(endpoint).max(8).optional(),
  /** Where the anchor accepts WebSockets, and the SHA-256 of its certificate (base64) if hosts are to accept no other. */
  websocket: z.string().optional(),
  websocket_pin: z.string().optional(),
  public_key: key,
  /** Private key of the invitation, replaced by the host's own when it joins. */
  private_key: key,
  preshared_key: key,
  /** Virtual addresses of the host. */
  addresses: z.array(z.string()),
  /** Seconds since the Unix epoch. */
  expires: z.int(),
})

export type Invitation = z.output<typeof content>

const PREFIX = 'godwit1.'

export function encodeInvitation(invitation: Invitation): string {
  return sealText(PREFIX, invitation)
}

/** One line of text that shows when it was cut or changed. */
export function sealText(prefix: string, value: object): string {
  const body = prefix + Buffer.from(JSON.stringify(value)).toString('base64url')
  return `${body}.${checksum(body)}`
}

/** Reads such a line; `what` names it in error messages. */
export function openText(prefix: string, text: string, what: string): Decoded<unknown> {
  const line = text.trim()
  if (!line.startsWith(prefix)) return malformed(`${what} starts with "${prefix}"`)
  const dot = line.lastIndexOf('.')
  const body = line.slice(0, dot)
  if (dot < prefix.length || checksum(body) !== line.slice(dot + 1)) {
    return malformed(`${what} was cut short or changed; copy the whole line`)
  }
  try {
    return decoded(JSON.parse(Buffer.from(body.slice(prefix.length), 'base64url').toString()))
  } catch {
    return malformed(`${what} cannot be read`)
  }
}

export function decodeInvitation(text: string): Decoded<Invitation> {
  const opened = openText(PREFIX, text, 'an invitation')
  if (!opened.ok) return opened
  const parsed = content.safeParse(opened.value)
  return parsed.success
    ? decoded(parsed.data)
    : malformed('this version of godwit does not know the version of the invitation')
}

function checksum(text: string): string {
  return createHash('sha256').update(text).digest().subarray(0, 6).toString('base64url')
}
